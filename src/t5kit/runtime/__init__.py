"""One loaded T5 that encodes prompts and advances many sequences by one step: the protocol and its implementations.

Only the protocol and what is torch-free is importable from here; `t5kit.runtime.torch_runtime` is behind the wall.
"""

from t5kit.runtime.edits import LogitEdits, apply_edits
from t5kit.runtime.protocol import Need, Runtime, RuntimeDescription, StepInput, StepOutput
from t5kit.runtime.reference import ReferenceRuntime

__all__ = [
    "LogitEdits",
    "Need",
    "ReferenceRuntime",
    "Runtime",
    "RuntimeDescription",
    "StepInput",
    "StepOutput",
    "apply_edits",
]

"""Which runtime runs a folder: the words engine= and weights= made true or refused."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from t5kit.checkpoint.adapters import SoftPrompt, merged_tensors
from t5kit.checkpoint.folder import CheckpointFolder
from t5kit.errors import DependencyError, EngineError, RequestError
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.runtime.adapters import AdaptedRuntime, AdaptingRuntime, with_adapter
from t5kit.runtime.native import NativeRuntime, unavailable_reason

Engine = Literal["auto", "native", "torch", "reference"]
Weights = Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]

_WEIGHTS_OF: dict[str, tuple[str, ...]] = {
    "native": ("auto", "float32", "bfloat16", "int8", "int4"),
    "torch": ("auto", "float32", "bfloat16", "float16"),
    "reference": ("auto", "float32"),
}
"""Engine -> the words weights= that it takes."""


def open_runtime(
    folder: CheckpointFolder,
    *,
    engine: Engine = "auto",
    weights: Weights = "auto",
    threads: int | None = None,
    device: str = "auto",
) -> Runtime:
    """Return a runtime over the folder's weights.

    engine: "auto" is the C++ engine on a processor; where it could not be built, PyTorch where that is installed,
    otherwise the NumPy reference, said on standard error each time. With device="cuda" or weights="float16"
    "auto" is torch.
    weights: "auto" is int8 on native (bfloat16 where that would undo what was learned from an int8 folder), the
    folder's own dtype on torch, float32 on reference. threads: processor threads, None for the engine's choice.
    Raises: RequestError for words that do not fit together, DependencyError if torch is asked for and missing,
    EngineError if the engine asked for, or the only one that has the weights, cannot be loaded here or cannot run this
    architecture.
    """
    _check_word("engine", engine, get_args(Engine))
    _check_word("weights", weights, get_args(Weights))
    if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise RequestError(f"threads = {threads!r} must be an integer from 1 to 1024, or None for the engine's choice.")
    if not isinstance(device, str):
        raise RequestError(f"device = {device!r} must be auto, cpu or cuda.")
    chosen = _automatic(weights, device, threads) if engine == "auto" else engine
    if weights not in _WEIGHTS_OF[chosen]:
        fitting = ", ".join(name for name, words in _WEIGHTS_OF.items() if weights in words)
        raise RequestError(
            f"The {chosen} engine has no weights = {weights!r}; it takes {', '.join(_WEIGHTS_OF[chosen])}."
            f" Engines that have it: {fitting}."
        )
    if chosen != "torch" and device not in ("auto", "cpu"):
        raise RequestError(f"The {chosen} engine runs on the processor; device = {device!r} needs engine='torch'.")
    if chosen == "native":
        assert weights != "float16"  # _WEIGHTS_OF says so
        return NativeRuntime(
            folder.config, folder.tensors(), weights=weights, threads=threads, weight_files=folder.weight_files
        )
    if chosen == "reference":
        if threads is not None and engine == "reference":
            raise RequestError(
                "The reference engine leaves threads to NumPy; set OMP_NUM_THREADS, or use another engine."
            )
        return ReferenceRuntime(folder.config, folder.tensors())
    return _open_torch(folder, weights=weights, threads=threads, device=device)


def open_adapted(
    folder: CheckpointFolder, adapter_path: Path, reopen: Callable[..., Runtime], *, engine: Engine = "auto"
) -> Runtime:
    """Return a runtime that answers with the adapter in a folder, in peft's format, and owns the weights.

    reopen: opens a runtime over a folder, and takes another engine= for one. LoRA runs beside the weights where the
    engine does that, else merged into them. A prompt of vectors needs torch or the reference, and "auto" takes one.
    Raises: CheckpointError for an adapter of another model; EngineError for a prompt on an engine that takes none.
    """
    adapter = folder.adapter(adapter_path)
    if isinstance(adapter, SoftPrompt):
        if engine == "auto":
            # The reference takes no threads=, which was meant for any engine.
            words: dict[str, Any] = {"engine": "torch"} if _has_torch() else {"engine": "reference", "threads": None}
            return with_adapter(reopen(folder, **words), adapter, owns=True)
        return with_adapter(reopen(folder), adapter, owns=True)
    runtime = reopen(folder)
    if isinstance(runtime, AdaptingRuntime):
        return with_adapter(runtime, adapter, owns=True)
    runtime.close()
    merged = reopen(folder.with_tensors(merged_tensors(folder.tensors(), adapter)))
    return AdaptedRuntime(merged, owns=True)  # so that nobody takes the folder's weights for what answers


def _check_word(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RequestError(f"{name} = {value!r} must be one of: {', '.join(known)}.")


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _automatic(weights: str, device: str, threads: int | None) -> Literal["native", "torch", "reference"]:
    """Return the fastest engine that can be had for these words."""
    if device not in ("auto", "cpu") or weights == "float16":
        return "torch"
    reason = unavailable_reason()
    if reason is None:
        return "native"
    others: tuple[Literal["torch", "reference"], ...] = ("torch", "reference") if _has_torch() else ("reference",)
    substitute = next((name for name in others if weights in _WEIGHTS_OF[name]), None)
    if substitute is None:
        raise EngineError(
            f"weights = {weights!r} need the native engine, which cannot be loaded ({reason}). Leave weights= out, and "
            f"the {others[0]} engine takes its place."
        )
    ignored = ", which leaves threads to NumPy" if substitute == "reference" and threads is not None else ""
    line = f"t5kit: the native engine cannot be loaded ({reason}); using the {substitute} engine{ignored}."
    print(line, file=sys.stderr)
    return substitute


def _open_torch(folder: CheckpointFolder, *, weights: str, threads: int | None, device: str) -> Runtime:
    if not _has_torch():
        raise DependencyError.for_extra("torch", "torch", "engine='torch'")
    try:
        from t5kit.runtime.torch_runtime import TorchRuntime
    except (ImportError, OSError) as error:  # a broken PyTorch raises OSError for a missing shared library
        raise EngineError(
            f"PyTorch is installed but cannot be loaded ({error}). Reinstall it, or use another engine."
        ) from error
    return TorchRuntime(folder.config, folder.tensors(), weights=weights, device=device, threads=threads)

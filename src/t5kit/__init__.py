"""T5 whole: from raw text to a trained model, and from a prompt to text.

The public names below are loaded when they are first used, so `import t5kit` costs nothing and never brings PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t5kit.api.calibration import Calibration as Calibration
    from t5kit.api.classification import Classification as Classification
    from t5kit.api.extraction import Extraction as Extraction
    from t5kit.api.model import Model as Model
    from t5kit.api.ranking import Ranking as Ranking
    from t5kit.config.architecture import T5Config as T5Config
    from t5kit.config.architecture import preset as preset
    from t5kit.errors import CheckpointError as CheckpointError
    from t5kit.errors import ConfigError as ConfigError
    from t5kit.errors import DataError as DataError
    from t5kit.errors import DependencyError as DependencyError
    from t5kit.errors import EngineError as EngineError
    from t5kit.errors import ModelNotFoundError as ModelNotFoundError
    from t5kit.errors import RequestError as RequestError
    from t5kit.errors import T5kitError as T5kitError
    from t5kit.errors import TokenizerError as TokenizerError

    __version__: str

_HOME = {
    "Model": "t5kit.api.model",
    "T5Config": "t5kit.config.architecture",
    "preset": "t5kit.config.architecture",
    "Calibration": "t5kit.api.calibration",
    "Classification": "t5kit.api.classification",
    "Extraction": "t5kit.api.extraction",
    "Ranking": "t5kit.api.ranking",
    "CheckpointError": "t5kit.errors",
    "ConfigError": "t5kit.errors",
    "DataError": "t5kit.errors",
    "DependencyError": "t5kit.errors",
    "EngineError": "t5kit.errors",
    "ModelNotFoundError": "t5kit.errors",
    "RequestError": "t5kit.errors",
    "T5kitError": "t5kit.errors",
    "TokenizerError": "t5kit.errors",
}
"""Public name -> module that defines it."""

__all__ = [*_HOME, "__version__"]

if not TYPE_CHECKING:  # A module with __getattr__ has every name in the eyes of a type checker.

    def __getattr__(name: str) -> object:
        """Return the public name `name`; Python calls this once per name, before the module is known to have it."""
        if name == "__version__":
            from importlib.metadata import version  # Speed: 15 ms that most programs never need.

            value = version("t5kit")
        elif name in _HOME:
            value = getattr(importlib.import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module 't5kit' has no attribute {name!r}; it offers: {', '.join(__all__)}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)

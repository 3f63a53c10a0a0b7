"""Tiny models, laws and the runtime conformance suite, for t5kit's own tests and for users'.

The names below are loaded when they are first used: engines are compared in processes that import nothing else.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t5kit.testing.tiny import TINY_CONFIGS as TINY_CONFIGS
    from t5kit.testing.tiny import random_tensors as random_tensors

__all__ = ["TINY_CONFIGS", "random_tensors"]

if not TYPE_CHECKING:  # A module with __getattr__ has every name in the eyes of a type checker.

    def __getattr__(name: str) -> object:
        """Return a public name; Python calls this once per name, before the module is known to have it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from t5kit.testing import tiny

        globals()[name] = value = getattr(tiny, name)
        return value

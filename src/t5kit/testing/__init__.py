"""Tiny models, laws and the runtime conformance suite, for t5kit's own tests and for users'."""

from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

__all__ = ["TINY_CONFIGS", "random_tensors"]

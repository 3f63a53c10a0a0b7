"""The architecture of every T5, as plain data: what a model is, without what it weighs."""

from t5kit.config.architecture import PRESETS, Head, T5Config, preset, tensor_shapes

__all__ = ["PRESETS", "Head", "T5Config", "preset", "tensor_shapes"]

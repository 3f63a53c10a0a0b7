"""The torch runtime against the conformance suite, and what it promises beyond it."""

from collections.abc import Iterable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.runtime.torch_runtime import TorchRuntime
from t5kit.testing.runtime_conformance import RuntimeConformance


class TestTorchRuntimeFloat32(RuntimeConformance):
    # The tiny models amplify roundings: moving their weights by half a unit in the last place moves the worst token's state
    # by 1.1e-5, and the reference and this runtime each stand within 1.3e-5 of float64. Real weights: 1e-5, in tests/parity.
    tolerance = 3e-5

    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> TorchRuntime:
        return TorchRuntime(config, tensors, weights="float32", device="cpu")


class TestTorchRuntimeBfloat16(RuntimeConformance):
    # Weights and what they multiply have 8 bits: half a unit is 0.2 %, and a tiny model's sums of 32 amplify it.
    tolerance = 0.15

    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> TorchRuntime:
        return TorchRuntime(config, tensors, weights="bfloat16", device="cpu")


class TestTorchRuntimeFloat16(RuntimeConformance):
    # float16 has three bits more than bfloat16.
    tolerance = 3e-2

    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> TorchRuntime:
        return TorchRuntime(config, tensors, weights="float16", device="cpu")

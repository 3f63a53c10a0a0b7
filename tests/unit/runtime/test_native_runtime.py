"""The native runtime against the conformance suite, for every kernel set of this machine and every precision."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.testing.runtime_conformance import RuntimeConformance
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

_native = pytest.importorskip("t5kit._native")
NativeRuntime = pytest.importorskip("t5kit.runtime.native").NativeRuntime

KERNELS = ("avx512", "avx2", "portable")


class NativeConformance(RuntimeConformance):
    weights = "float32"

    @pytest.fixture(params=KERNELS, autouse=True)
    def kernels(self, request: pytest.FixtureRequest) -> str:
        if request.param not in _native.available_kernels():
            pytest.skip(f"this processor has no {request.param}")
        self.kernel_set = request.param
        if request.param == "portable":
            # It rounds every product before adding it; against float64 these ill-conditioned random models then lose up to
            # five times what the reference itself loses.
            self.tolerance = max(self.tolerance, 3e-5)
        return request.param

    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> Runtime:
        return NativeRuntime(config, tensors, weights=self.weights, threads=2, kernels=self.kernel_set)

    @pytest.fixture
    def reference(self, config: T5Config) -> Iterator[Runtime]:
        runtime = ReferenceRuntime(config, emulated(config, self.weights))
        yield runtime
        runtime.close()

    def close_to_alone(self) -> float:
        return 0.0  # a sum's order does not depend on the other rows


def emulated(config: T5Config, weights: str) -> list[TensorView]:
    """Return the tensors that a precision computes with, as float32: the reference over them is the specification."""
    views = []
    for view in random_tensors(config):
        values = view.to_float32()
        is_linear = values.ndim == 2 and "relative_attention_bias" not in view.name
        is_head_or_embedding = view.name in ("shared.weight", "lm_head.weight")
        if is_linear and weights == "int8" and not is_head_or_embedding:
            values = rounded_to_int8_groups(values)
        elif is_linear and weights != "float32":
            values = TensorView.from_array(view.name, values).converted("BF16").to_float32()
        views.append(TensorView.from_array(view.name, values))
    return views


def rounded_to_int8_groups(weight: np.ndarray) -> np.ndarray:
    """Return a weight [out, in] rounded to symmetric 8-bit integers in groups of 64 inputs, as float32."""
    rounded = np.empty_like(weight)
    for first in range(0, weight.shape[1], 64):
        group = weight[:, first : first + 64]
        scale = np.abs(group).max(axis=1, keepdims=True) / np.float32(127)
        rounded[:, first : first + 64] = np.rint(group / scale) * scale
    return rounded


class TestNativeFloat32(NativeConformance):
    weights = "float32"
    tolerance = 1e-5


class TestNativeBfloat16(NativeConformance):
    weights = "bfloat16"
    tolerance = 1e-5  # the weights are rounded, the arithmetic is float32's


class TestNativeInt8(NativeConformance):
    weights = "int8"
    # Activations are 16-bit integers in groups of 64: each is off by up to 1.5e-5 of its group's largest, and the
    # ill-conditioned tiny models turn 1e-7 into 1e-5 (see above).
    tolerance = 1e-3


def test_runtime_is_described() -> None:
    runtime = NativeRuntime(TINY_CONFIGS["t5"], random_tensors(TINY_CONFIGS["t5"]), kernels="portable", threads=1)
    assert runtime.kernels == "portable" and runtime.description.threads == 1
    assert runtime.description.weights == "int8" and runtime.description.engine == "native (portable)"
    assert np.isfinite(runtime.encoder_states([np.int32([5, 1])])[0]).all()

"""The torch runtime against the conformance suite, and what it promises beyond it."""

from collections.abc import Iterable

import numpy as np
import pytest

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.model.loading import load_model
from t5kit.runtime import torch_linear, torch_store
from t5kit.runtime.torch_runtime import TorchRuntime
from t5kit.testing.runtime_conformance import RuntimeConformance, prompts
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors


class TestTorchRuntimeFloat32(RuntimeConformance):
    # The tiny models amplify roundings: moving their weights by half a unit in the last place moves the worst token's
    # state by 1.1e-5, and the reference and this runtime each stand within 1.3e-5 of float64. Real weights: 1e-5, in
    # tests/parity.
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


class TestTorchRuntimeWithoutPackedForms(RuntimeConformance):
    """As on processors that lack oneDNN and FBGEMM, and in the layout of CUDA."""

    tolerance = 3e-5

    @pytest.fixture(autouse=True)
    def _no_packed_forms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch_linear, "can_pack", lambda dtype: False)
        monkeypatch.setattr(torch_store, "can_pack", lambda dtype: False)
        monkeypatch.setattr(torch_store, "has_half_linear", lambda: False)

    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> TorchRuntime:
        return TorchRuntime(config, tensors, weights="float32", device="cpu")


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_a_live_module_scores_as_its_folder(family: str) -> None:
    config = TINY_CONFIGS[family]
    targets = [np.array([5, 9, 7, config.eos_id], np.int32) for _ in prompts(config)]
    scores = []
    for runtime in (
        TorchRuntime.from_module(load_model(config, random_tensors(config))),
        TorchRuntime(config, random_tensors(config), device="cpu"),
    ):
        scores.append(np.concatenate(runtime.score(runtime.encode(prompts(config)), targets)))
        runtime.close()
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)

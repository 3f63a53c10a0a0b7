"""An int8 folder in every runtime: the native engine takes its integers as they are, the others dequantise them."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from t5kit.checkpoint import CheckpointFolder, open_folder, write_folder
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import CheckpointError, EngineError
from t5kit.runtime import Need, ReferenceRuntime, Runtime, StepInput
from t5kit.runtime.native import NativeRuntime, _make_engine
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

_native = pytest.importorskip("t5kit._native")

# With 16-bit activations in the encoder too: these random models amplify what the faster set rounds.
FINE = "avx512_fine" if "avx512_fine" in _native.available_kernels() else None
PROMPTS = [np.array([5, 9, 11, 1], np.int32), np.array([7, 1], np.int32)]


def saved(path: Path, config: T5Config, *, has_exact_head: bool = True) -> CheckpointFolder:
    write_folder(path, config, random_tensors(config), weights="int8", has_exact_head=has_exact_head)
    return open_folder(path)


def packed(config: T5Config, tensors: list[TensorView]) -> np.ndarray:
    return _make_engine(config, tensors, weights="int8", threads=2, kernels="portable", weight_files=()).packed()


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
@pytest.mark.parametrize("width", [32, 72, 200])
def test_packed_weights_are_bit_for_bit_those_of_quantising_at_load(tmp_path: Path, family: str, width: int) -> None:
    config = dataclasses.replace(TINY_CONFIGS[family], d_model=width, d_ff=width + 33)
    folder = saved(tmp_path / "int8", config)
    np.testing.assert_array_equal(packed(config, list(folder.tensors())), packed(config, random_tensors(config)))


def logits(runtime: Runtime) -> np.ndarray:
    slots = runtime.open_slots(runtime.encode(PROMPTS))
    step = StepInput.one_token_each(slots, np.array([0, 0], np.int32), need=Need(logits=True))
    dense = runtime.step(step).logits
    assert dense is not None
    return dense


@pytest.mark.parametrize("has_exact_head", [True, False])
@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_every_runtime_answers_alike(tmp_path: Path, family: str, has_exact_head: bool) -> None:
    torch_runtime = pytest.importorskip("t5kit.runtime.torch_runtime")
    config = TINY_CONFIGS[family]
    folder = saved(tmp_path / "int8", config, has_exact_head=has_exact_head)
    expected = logits(ReferenceRuntime(config, folder.tensors()))
    size = np.abs(expected).max()
    plain = torch_runtime.TorchRuntime(config, folder.tensors(), device="cpu")
    assert plain.description.weights == "float32"
    np.testing.assert_allclose(logits(plain), expected, rtol=0, atol=2e-5 * size)
    native = NativeRuntime(config, folder.tensors(), threads=1, kernels=FINE)
    # 16-bit activations, as in test_native_runtime.py; without an exact head its bfloat16 copy rounds the integers.
    np.testing.assert_allclose(logits(native), expected, rtol=0, atol=(1e-3 if has_exact_head else 1e-2) * size)
    floats = NativeRuntime(config, folder.tensors(), weights="float32", threads=1)
    np.testing.assert_allclose(logits(floats), expected, rtol=0, atol=3e-5 * size)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 0.0])
def test_scales_that_quantising_cannot_give_are_refused(tmp_path: Path, scale: float) -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    views = list(saved(tmp_path / "int8", config).tensors())
    where = next(i for i, view in enumerate(views) if view.name.endswith("wi_1.weight"))
    stored = views[where].scale
    assert stored is not None
    values = stored.to_float32().copy()
    values[3, 0] = scale
    views[where] = dataclasses.replace(views[where], scale=TensorView.from_array(stored.name, values))
    for weights in ("float32", "bfloat16", "int8", "int4"):
        with pytest.raises(EngineError, match=r"wi_1\.weight.*damaged"):
            NativeRuntime(config, views, weights=weights)
    with pytest.raises(CheckpointError, match=r"wi_1\.weight"):
        ReferenceRuntime(config, views)


def test_an_integer_of_minus_128_is_refused(tmp_path: Path) -> None:
    config = TINY_CONFIGS["t5"]
    views = list(saved(tmp_path / "int8", config).tensors())
    where = next(i for i, view in enumerate(views) if view.name.endswith("o.weight"))
    integers = np.frombuffer(views[where].data, np.int8).copy()
    integers[-1] = -128
    views[where] = dataclasses.replace(views[where], data=integers.view(np.uint8).data)
    for make in (NativeRuntime, ReferenceRuntime):
        with pytest.raises((EngineError, CheckpointError), match=r"o\.weight"):
            make(config, views)


def test_integers_without_scales_are_refused() -> None:
    config = TINY_CONFIGS["t5"]
    views = random_tensors(config)
    where = next(i for i, view in enumerate(views) if view.name.endswith("o.weight"))
    views[where] = TensorView.from_array(views[where].name, np.zeros(views[where].shape, np.int8))
    with pytest.raises(EngineError, match=r"o\.weight\.scale"):
        NativeRuntime(config, views)


@pytest.mark.parametrize(("moved_by", "weights"), [(0.0, "int8"), (0.1, "bfloat16")])
def test_what_an_int8_folder_learned_is_not_rounded_away(tmp_path: Path, moved_by: float, weights: str) -> None:
    rng = np.random.default_rng(0)
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], d_model=64, d_ff=128)
    learned = []
    for view in saved(tmp_path / "int8", config).tensors():
        moved = view.converted("F32").to_float32()
        if view.scale is not None:
            steps = np.repeat(np.abs(moved).max(axis=1, keepdims=True), moved.shape[1], axis=1) / 127
            moved = moved + np.float32(moved_by) * steps * rng.standard_normal(moved.shape, np.float32)
        learned.append(TensorView.from_array(view.name, moved))
    with contextlib.closing(NativeRuntime(config, learned)) as runtime:
        assert runtime.description.weights == weights


@pytest.mark.parametrize("family", ["t5", "t5_v1_1"])
@pytest.mark.parametrize("bad", [0x7FC0, 0x7F80, 0xFF80])
def test_an_exact_copy_that_is_not_finite_is_refused(tmp_path: Path, family: str, bad: int) -> None:
    config = TINY_CONFIGS[family]
    views = list(saved(tmp_path / "int8", config).tensors())
    where = next(i for i, view in enumerate(views) if view.exact is not None)
    exact = views[where].exact
    assert exact is not None and exact.dtype == "BF16"
    words = np.frombuffer(exact.data, np.uint16).copy()
    words[len(words) // 2] = bad
    views[where] = dataclasses.replace(views[where], exact=dataclasses.replace(exact, data=words.view(np.uint8).data))
    with pytest.raises(
        EngineError, match=r"exact copy of '(shared|lm_head)\.weight' holds what is not a finite number"
    ):
        NativeRuntime(config, views, weights="int8")

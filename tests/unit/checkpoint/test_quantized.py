"""Int8 folders: what is written, what comes back, and what is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from t5kit.checkpoint import TensorView, describe, open_folder, write_folder
from t5kit.checkpoint.quantized import join_quantized, moved_off_the_grid, quantize
from t5kit.checkpoint.safetensors_file import open_safetensors, write_safetensors
from t5kit.config import Head, T5Config
from t5kit.errors import CheckpointError
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors


@settings(max_examples=60)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 200)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_rounding_moves_no_weight_by_more_than_half_a_step(values: np.ndarray) -> None:
    integers, scales = quantize(values)
    assert integers.dtype == np.int8 and integers.shape == values.shape and (integers >= -127).all()
    steps = np.repeat(scales, 64, axis=1)[:, : values.shape[1]].astype(np.float64)
    error = np.abs(integers * steps - values)
    # Numerics: a scale that is subnormal is itself rounded.
    assert (error <= steps * 0.50001 + 127 * 1.5e-45).all()
    largest = np.abs(values).max(initial=0)
    assert np.abs(integers).max() == 127 or largest < 1e-36


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_cannot_be_quantised(tmp_path: Path, v1_1: T5Config, wrong: float) -> None:
    tensors = random_tensors(v1_1)
    values = tensors[1].to_float32().copy()
    values[0, 0] = wrong
    tensors[1] = TensorView.from_array(tensors[1].name, values)
    with pytest.raises(CheckpointError, match=f"{tensors[1].name}.*cannot be quantised"):
        write_folder(tmp_path / "int8", v1_1, tensors, weights="int8")
    assert not (tmp_path / "int8").exists()


def int8_folder(path: Path, config: T5Config, *, has_exact_head: bool = True) -> Path:
    write_folder(path, config, random_tensors(config), weights="int8", has_exact_head=has_exact_head)
    return path


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_a_folder_holds_integers_scales_and_an_exact_head(tmp_path: Path, family: str) -> None:
    config = TINY_CONFIGS[family]
    folder = open_folder(int8_folder(tmp_path / "int8", config))
    assert folder.config == config and folder.dtype == "int8"
    head = "shared.weight" if config.is_tied else "lm_head.weight"
    for original, view in zip(random_tensors(config), folder.tensors(), strict=True):
        assert (view.name, view.shape) == (original.name, original.shape)
        values = original.to_float32()
        if view.name == head:
            assert view.dtype == "I8" and view.exact is not None
        if view.name in (head, "shared.weight"):
            np.testing.assert_array_equal(view.to_float32(), original.converted("BF16").to_float32())
        elif values.ndim == 2 and "bias" not in view.name:
            assert view.dtype == "I8" and view.scale is not None and view.exact is None
            integers, scales = quantize(values)
            np.testing.assert_array_equal(np.frombuffer(view.data, np.int8).reshape(view.shape), integers)
            np.testing.assert_array_equal(view.scale.to_float32(), scales)
            expected = integers * np.repeat(scales, 64, axis=1)[:, : values.shape[1]]
            np.testing.assert_array_equal(view.to_float32(), expected)
        else:
            assert view.dtype == "F32"
            np.testing.assert_array_equal(view.to_float32(), values)


def test_without_the_exact_head_it_is_absent_and_said_so(tmp_path: Path, v1_1: T5Config) -> None:
    folder = open_folder(int8_folder(tmp_path / "int8", v1_1, has_exact_head=False))
    assert folder.tensor("lm_head.weight").exact is None
    assert "no exact head" in next(fact.reason for fact in folder.inferences if fact.fact == "quantised")
    stated = json.loads((tmp_path / "int8" / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert stated == {"quant_method": "t5kit", "version": 1, "weights": "int8", "group_size": 64, "exact_head": None}


def test_the_exact_head_of_an_int8_folder_can_be_left_out(tmp_path: Path, v1_1: T5Config) -> None:
    source = open_folder(int8_folder(tmp_path / "int8", v1_1))
    write_folder(tmp_path / "smaller", v1_1, source.tensors(), weights="int8", has_exact_head=False)
    int8_folder(tmp_path / "right", v1_1, has_exact_head=False)
    for file in ("t5kit-int8.safetensors", "config.json"):
        assert (tmp_path / "smaller" / file).read_bytes() == (tmp_path / "right" / file).read_bytes()


def test_copying_keeps_every_byte_and_a_dtype_dequantises(tmp_path: Path, v1_0: T5Config) -> None:
    source = open_folder(int8_folder(tmp_path / "int8", v1_0))
    for name, weights in {"copy": "as_is", "again": "int8"}.items():
        write_folder(tmp_path / name, source.config, source.tensors(), weights=weights)
        for file in ("t5kit-int8.safetensors", "config.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "int8" / file).read_bytes()
    write_folder(tmp_path / "float", source.config, source.tensors(), dtype="float32")
    for original, view in zip(source.tensors(), open_folder(tmp_path / "float").tensors(), strict=True):
        np.testing.assert_array_equal(view.to_float32(), original.to_float32())


def test_shards_hold_the_parts_wherever_they_fall(tmp_path: Path, v1_1: T5Config) -> None:
    whole = open_folder(int8_folder(tmp_path / "whole", v1_1))
    write_folder(tmp_path / "shards", v1_1, random_tensors(v1_1), weights="int8", max_shard_bytes=700)
    shards = open_folder(tmp_path / "shards")
    assert len(shards.weight_files) > 5
    for one, other in zip(whole.tensors(), shards.tensors(), strict=True):
        np.testing.assert_array_equal(one.to_float32(), other.to_float32())


def test_an_encoder_or_a_classifier_has_no_head_to_quantise(tmp_path: Path, v1_1: T5Config) -> None:
    for head in (Head.ENCODER, Head.SEQUENCE_CLASSIFICATION):
        labels = 3 if head is Head.SEQUENCE_CLASSIFICATION else 0
        layers = 0 if head is Head.ENCODER else 1
        config = dataclasses.replace(v1_1, head=head, num_labels=labels, num_decoder_layers=layers, is_tied=True)
        folder = open_folder(int8_folder(tmp_path / head.value, config))
        prefix = "transformer." if labels else ""
        assert folder.tensor(f"{prefix}shared.weight").dtype == "BF16"
        assert folder.tensor(f"{prefix}encoder.block.0.layer.0.SelfAttention.q.weight").dtype == "I8"
        if labels:
            assert folder.tensor("classification_head.dense.weight").dtype == "F32"


def test_inspection_counts_what_is_stored(tmp_path: Path, v1_1: T5Config) -> None:
    description = describe(open_folder(int8_folder(tmp_path / "int8", v1_1)))
    assert set(description.dtype_bytes) == {"int8", "float32", "bfloat16"}
    assert description.num_parameters == v1_1.num_parameters and "stored as int8" in description.to_text()


def test_transformers_refuses_the_folder(tmp_path: Path, v1_1: T5Config) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(OSError, match=r"no file named .*model\.safetensors"):
        transformers.T5ForConditionalGeneration.from_pretrained(int8_folder(tmp_path / "int8", v1_1))


# Refusals

Q = "encoder.block.0.layer.0.SelfAttention.q.weight"


@pytest.fixture
def saved_int8(tmp_path: Path, v1_1: T5Config) -> Path:
    return int8_folder(tmp_path / "int8", v1_1)


def rewrite(folder: Path, change: Callable[[dict[str, TensorView]], None]) -> Path:
    """Change the stored tensors of a folder."""
    stored = dict(open_safetensors(folder / "t5kit-int8.safetensors").views)
    change(stored)
    write_safetensors(folder / "new.safetensors", stored.values(), format_word="t5kit")
    (folder / "new.safetensors").replace(folder / "t5kit-int8.safetensors")
    return folder


def array(name: str, values: np.ndarray) -> TensorView:
    return TensorView.from_array(name, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{Q}.scale"), "SelfAttention.q.weight.scale.* is not stored"),
        (lambda t: t.pop(Q), "no int8 tensor that it belongs to"),
        (
            lambda t: t.update({f"{Q}.scale": array(f"{Q}.scale", np.ones((8, 2), np.float32))}),
            r"expected F32 \[8, 1\]",
        ),
        (lambda t: t.update({f"{Q}.scale": array(f"{Q}.scale", np.ones((8, 1), np.float16))}), "is F16"),
        (lambda t: t.update({f"{Q}.scale": array(f"{Q}.scale", np.ones(8, np.float32))}), r"expected F32 \[8, 1\]"),
        (lambda t: t.update({f"{Q}.exact": array(f"{Q}.exact", np.ones((8, 8), np.float32))}), "expected BF16"),
        (lambda t: t.update({"x.exact": array("x.exact", np.ones((8, 8), np.float32))}), "belongs to"),
        (lambda t: t.update({Q: array(Q, np.ones((7, 8), np.int8))}), r"expected F32 \[7, 1\]"),
        (
            lambda t: t.update(
                {"encoder.final_layer_norm.weight": array("encoder.final_layer_norm.weight", np.ones(8, np.int8))}
            ),
            "only linear maps",
        ),
        (lambda t: t.update({Q: array(Q, np.ones((8, 8), np.int16))}), "belongs to"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    saved_int8: Path, change: Callable[[dict[str, TensorView]], None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_folder(rewrite(saved_int8, change))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, 0.0])
def test_scales_that_quantising_cannot_give_are_refused_when_read(saved_int8: Path, scale: float) -> None:
    name = f"{Q}.scale"
    folder = open_folder(
        rewrite(saved_int8, lambda t: t.update({name: array(name, np.full((8, 1), scale, np.float32))}))
    )
    with pytest.raises(CheckpointError, match=r"q\.weight.*save the model again"):
        folder.tensor(Q).to_float32()


def test_a_zero_scale_beside_zeros_is_right(saved_int8: Path) -> None:
    def change(tensors: dict[str, TensorView]) -> None:
        tensors[Q] = array(Q, np.zeros((8, 8), np.int8))
        tensors[f"{Q}.scale"] = array(f"{Q}.scale", np.zeros((8, 1), np.float32))

    assert not open_folder(rewrite(saved_int8, change)).tensor(Q).to_float32().any()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"quant_method": "t5kit"}, "version null|version None"),
        ({"quant_method": "t5kit", "version": 2, "weights": "int8", "group_size": 64}, "Upgrade t5kit"),
        ({"quant_method": "t5kit", "version": True, "weights": "int8", "group_size": 64}, "Upgrade t5kit"),
        ({"quant_method": "t5kit", "version": 1, "weights": "int2", "group_size": 64}, "expected 'int8'"),
        ({"quant_method": "t5kit", "version": 1, "weights": "int8", "group_size": 32}, "expected 64"),
        ({"quant_method": "t5kit", "version": 1, "weights": "int8", "group_size": 64, "exact_head": []}, "exact_head"),
        ({"quant_method": "gptq"}, "gptq"),
        ("t5kit", "t5kit reads float"),
    ],
)
def test_other_quantisations_are_refused(saved_int8: Path, stated: object, message: str) -> None:
    file = saved_int8 / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "quantization_config": stated}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        open_folder(saved_int8)


def test_integers_without_the_word_in_config_json_are_refused(saved_int8: Path) -> None:
    file = saved_int8 / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["quantization_config"]
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError):
        open_folder(saved_int8)


def test_words_that_do_not_fit_are_refused(tmp_path: Path, v1_1: T5Config) -> None:
    for weights, dtype in (("int4", "as_is"), ("int8", "bfloat16")):
        with pytest.raises(CheckpointError):
            write_folder(tmp_path / "never", v1_1, random_tensors(v1_1), weights=weights, dtype=dtype)
    long = dataclasses.replace(v1_1, encoder_attention="local")
    with pytest.raises(CheckpointError, match="LongT5"):
        write_folder(tmp_path / "never", long, random_tensors(long), weights="int8")


def test_joining_changes_no_float_folder(v1_1: T5Config) -> None:
    views = {view.name: view for view in random_tensors(v1_1)}
    assert join_quantized(views) == views


def on_the_grid(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what int8 makes of a matrix, and the step of each of its values."""
    integers, scales = quantize(values)
    steps = np.repeat(scales, 64, axis=1)[:, : values.shape[1]]
    return integers * steps, steps


@pytest.mark.parametrize(
    ("moved_by", "dtype", "expected"),
    [
        pytest.param(None, "F32", False, id="weights that never were int8"),
        pytest.param(None, "BF16", False, id="the same in 16 bits"),
        pytest.param(0.0, "F32", False, id="on the grid: int8 loses nothing"),
        pytest.param(0.0, "BF16", False, id="on the grid but for 16 bits"),
        pytest.param(0.03, "F32", True, id="moved a little"),
        pytest.param(0.2, "F32", True, id="moved by a short training"),
        pytest.param(0.2, "BF16", True, id="the same in 16 bits"),
        pytest.param(1.0, "F32", False, id="moved by so much that int8 holds it"),
    ],
)
def test_weights_beside_an_int8_grid_are_told_from_others(moved_by: float | None, dtype: str, expected: bool) -> None:
    rng = np.random.default_rng(0)
    views = []
    for number in range(4):
        values = rng.standard_normal((64, 96), np.float32)
        if moved_by is not None:
            values, steps = on_the_grid(values)
            values = values + np.float32(moved_by) * steps * rng.standard_normal(values.shape, np.float32)
        view = TensorView.from_array(f"encoder.block.{number}.layer.1.DenseReluDense.wo.weight", values)
        views.append(view.converted(dtype))
    assert moved_off_the_grid(views) is expected


def test_an_adapter_merged_into_a_few_maps_is_seen() -> None:
    rng = np.random.default_rng(0)
    views = []
    for name in "qkvo":
        values, steps = on_the_grid(rng.standard_normal((128, 64), np.float32))
        if name == "q":
            values = values + np.float32(0.1) * steps * rng.standard_normal(values.shape, np.float32)
        views.append(TensorView.from_array(f"encoder.block.0.layer.0.SelfAttention.{name}.weight", values))
    assert moved_off_the_grid(views)

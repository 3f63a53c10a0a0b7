"""Adapters in the runtimes that have them, and peft's files."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from t5kit.checkpoint.adapters import Adapter, check_adapter, linear_map_shapes, open_adapter
from t5kit.checkpoint.safetensors_file import write_safetensors
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import CheckpointError
from t5kit.runtime import ReferenceRuntime
from t5kit.runtime.adapters import AdaptingRuntime
from t5kit.testing.adapter_conformance import AdapterConformance, random_adapter
from t5kit.testing.runtime_conformance import prompts
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

CONFIG = TINY_CONFIGS["t5_v1_1"]


class TestReference(AdapterConformance):
    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> AdaptingRuntime:
        return ReferenceRuntime(config, tensors)


class NativeAdapters(AdapterConformance):
    weights = "float32"

    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> AdaptingRuntime:
        available = pytest.importorskip("t5kit._native").available_kernels()
        from t5kit.runtime.native import NativeRuntime

        # 16-bit activations in the encoder too: these random models amplify what the faster set rounds.
        kernels = "avx512_fine" if "avx512_fine" in available else None
        return NativeRuntime(config, tensors, weights=self.weights, threads=2, kernels=kernels)  # type: ignore[arg-type]


class TestNativeFloat32(NativeAdapters):
    pass


class TestNativeInt8(NativeAdapters):
    weights = "int8"
    tolerance = 2e-3  # 16-bit activations, as in test_native_runtime.py

    @pytest.fixture(params=["t5", "t5_v1_1"])
    def config(self, request: pytest.FixtureRequest) -> T5Config:
        return dataclasses.replace(
            TINY_CONFIGS[request.param], d_model=64, d_ff=130, num_encoder_layers=1, num_decoder_layers=1
        )

    def emulated(self, tensors: list[TensorView], adapter: Adapter) -> list[TensorView]:
        from t5kit.checkpoint.quantized import is_matrix, quantize

        views = []
        for view in tensors:
            low_rank = adapter.maps.get(view.name.removesuffix(".weight"))
            values = view.to_float32()
            if view.name in ("shared.weight", "lm_head.weight"):
                values = view.converted("BF16").to_float32()
            elif is_matrix(view.name, view.shape):
                added = 0 if low_rank is None else low_rank.b @ low_rank.a
                integers, scales = quantize(np.ascontiguousarray(values - added, np.float32))
                values = integers * np.repeat(scales, 64, axis=1)[:, : values.shape[1]] + added
            views.append(TensorView.from_array(view.name, values.astype(np.float32)))
        return views


# peft's files


SETTINGS = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none", "target_modules": ["q", "v"]}


def write_adapter(
    path: Path, adapter: Adapter, *, changes: Mapping[str, object] | None = None, prefix: str = "base_model.model."
) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({**SETTINGS, **(changes or {})}), encoding="utf-8")
    views = []
    for name, low_rank in adapter.maps.items():
        views.append(TensorView.from_array(f"{prefix}{name}.lora_A.weight", low_rank.a))
        views.append(TensorView.from_array(f"{prefix}{name}.lora_B.weight", low_rank.b))
    write_safetensors(path / "adapter_model.safetensors", views)
    return path


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 1.5}, 0.5),
        ({"use_rslora": True}, 6 / 3**0.5),
        ({"alpha_pattern": {"SelfAttention.q": 12}}, 4.0),
        ({"alpha_pattern": {"q": 12}, "r": 8, "rank_pattern": {"q": 3}}, 4.0),
        ({"alpha_pattern": {"^encoder.block.0.layer.0.SelfAttention.q$": 12}}, 4.0),
        ({"alpha_pattern": {"elfAttention.q": 12}}, 2.0),
        ({"modules_to_save": None, "use_dora": False, "fan_in_fan_out": False, "lora_dropout": 0.1}, 2.0),
    ],
)
def test_an_adapter_is_read_with_its_scale(tmp_path: Path, changes: dict[str, object], scale: float) -> None:
    written = random_adapter(CONFIG, ends=("encoder.block.0.layer.0.SelfAttention.q",))
    read = open_adapter(write_adapter(tmp_path / "a", written, changes=changes), CONFIG)
    assert read.maps.keys() == written.maps.keys()
    for name, low_rank in read.maps.items():
        np.testing.assert_array_equal(low_rank.a, written.maps[name].a)
        np.testing.assert_allclose(low_rank.b, written.maps[name].b * scale, rtol=1e-6)


def test_a_read_adapter_answers_as_the_one_it_was_written_from(tmp_path: Path) -> None:
    written = random_adapter(CONFIG)
    read = open_adapter(write_adapter(tmp_path / "a", written, changes={"lora_alpha": 3}), CONFIG)
    runtime = ReferenceRuntime(CONFIG, random_tensors(CONFIG))
    names = [runtime.add_adapter(written), runtime.add_adapter(read)]
    one, other = runtime.encoder_states([prompts(CONFIG)[0]] * 2, names)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": None}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"fan_in_fan_out": 0}, "fan_in_fan_out"),
        ({"r": 4}, "says its rank is 4"),
        ({"r": 0}, "r must be a positive integer"),
        ({"r": True}, "r must be a positive integer"),
        ({"r": 1e9}, "r must be a positive integer"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number"),
        ({"lora_alpha": 1e400}, "NaN|number|Infinity"),
        ({"rank_pattern": {"(a+)+$": 3}}, "expected names of maps"),
        ({"alpha_pattern": []}, None),
        ({"alpha_pattern": ["q"]}, "alpha_pattern must be an object"),
        ({"use_rslora": "yes"}, "use_rslora"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, changes: dict[str, object], message: str | None) -> None:
    folder = write_adapter(tmp_path / "a", random_adapter(CONFIG, ends=(".q",)), changes=changes)
    if message is None:
        open_adapter(folder, CONFIG)
        return
    with pytest.raises(CheckpointError, match=message):
        open_adapter(folder, CONFIG)


def test_tensors_that_are_not_low_rank_maps_of_the_stacks_are_refused(tmp_path: Path) -> None:
    good = random_adapter(CONFIG, ends=(".q",))
    low_rank = next(iter(good.maps.values()))
    for number, (names, prefix, message) in enumerate(
        [
            (["shared"], "base_model.model.", "shared"),
            (["lm_head"], "base_model.model.", "lm_head"),
            (["encoder.block.7.layer.0.SelfAttention.q"], "base_model.model.", "no linear map"),
            (list(good.maps), "", "understood are"),
        ]
    ):
        folder = write_adapter(tmp_path / str(number), Adapter("x", dict.fromkeys(names, low_rank)), prefix=prefix)
        with pytest.raises(CheckpointError, match=message):
            open_adapter(folder, CONFIG)


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    good = random_adapter(CONFIG, ends=(".q",))
    folder = write_adapter(tmp_path / "a", good)
    name, low_rank = next(iter(good.maps.items()))
    (folder / "adapter_model.safetensors").unlink()
    half = TensorView.from_array(f"base_model.model.{name}.lora_B.weight", low_rank.b)
    write_safetensors(folder / "adapter_model.safetensors", [half])
    with pytest.raises(CheckpointError, match="has no lora_A"):
        open_adapter(folder, CONFIG)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = write_adapter(tmp_path / "a", random_adapter(CONFIG, ends=(".q",)))
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        open_adapter(folder, CONFIG)
    with pytest.raises(CheckpointError, match="is no folder"):
        open_adapter(tmp_path / "nothing", CONFIG)


def test_every_linear_map_of_the_stacks_may_be_adapted() -> None:
    names = linear_map_shapes(CONFIG)
    # Two encoder layers of 4 + 3 maps, two decoder layers of 4 + 4 + 3.
    assert len(names) == 2 * 7 + 2 * 11 and not any("bias" in name or "norm" in name for name in names)
    check_adapter(random_adapter(CONFIG), CONFIG)

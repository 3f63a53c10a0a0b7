"""Damaged weights and hostile sizes never crash the native engine: it works, or says what is wrong."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5kit.checkpoint import open_folder, write_folder
from t5kit.errors import CheckpointError, EngineError, T5kitError
from t5kit.runtime import Need, StepInput
from t5kit.runtime.native import NativeRuntime, _config_values, _tensor_tuple
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

_native = pytest.importorskip("t5kit._native")

CONFIG = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], num_encoder_layers=1, num_decoder_layers=1)
TUPLES = [_tensor_tuple(CONFIG, view) for view in random_tensors(CONFIG)]
DTYPES = ("F32", "BF16", "F16", "I8", "F64", "", "f32")
SIZES = st.sampled_from([-(2**63), -1, 0, 1, 7, 32, 96, 2**31 - 1, 2**31, 2**62, 2**63 - 1])
PROMPT = np.array([5, 9, 1], np.int32)


def damage(draw: Callable[[Any], Any], tensor: tuple[Any, ...]) -> tuple[Any, ...]:
    name, dtype, shape, data, is_file = tensor
    what = draw(st.sampled_from(["name", "dtype", "shape", "short", "long", "bytes", "none"]))
    if what == "name":
        name = draw(st.sampled_from(["", name + ".scale", name + "\0", "x" * 10_000, name[1:]]))
    elif what == "dtype":
        dtype = draw(st.sampled_from(DTYPES))
    elif what == "shape":
        shape = tuple(draw(st.lists(SIZES, max_size=9)))
    elif what == "short":
        data = data[: draw(st.integers(0, len(data)))]
    elif what == "long":
        data = bytes(data) + bytes(draw(st.integers(1, 64)))
    elif what == "bytes":
        noise = random.Random(draw(st.integers(0, 999)))
        data = bytes(noise.choice((0, 0x7F, 0x80, 0xFF, noise.randrange(256))) for _ in range(len(data)))
    return name, dtype, shape, data, is_file


@settings(max_examples=150)
@given(data=st.data(), weights=st.sampled_from(["float32", "bfloat16", "int8", "int4"]))
def test_damaged_tensors_are_an_error_or_answer(data: st.DataObject, weights: str) -> None:
    tuples = list(TUPLES)
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(tuples) - 1))
        action = data.draw(st.sampled_from(["damage", "drop", "twice"]))
        if action == "damage":
            tuples[where] = damage(data.draw, tuples[where])
        elif action == "drop":
            del tuples[where]
        else:
            tuples.append(tuples[where])
    try:
        engine = _native.Engine(_config_values(CONFIG), tuples, weights, 1, "", None)
    except EngineError:
        return
    lengths = np.array([3], np.int32)
    handles = engine.encode(PROMPT, lengths, [])
    assert engine.encoder_states(PROMPT, lengths, []).shape == (3, CONFIG.d_model)
    assert engine.score(handles, PROMPT, lengths).shape == (3,)


@settings(max_examples=100)
@given(
    changes=st.dictionaries(
        st.sampled_from(sorted(_config_values(CONFIG))),
        st.one_of(
            st.sampled_from([-(2**31), -1, 0, 1, 2, 3, 5, 2**24, 2**31 - 1, 2**40]), st.text(max_size=3), st.none()
        ),
        min_size=1,
        max_size=3,
    )
)
def test_hostile_sizes_are_an_error_or_answer(changes: dict[str, Any]) -> None:
    try:
        engine = _native.Engine({**_config_values(CONFIG), **changes}, TUPLES, "int8", 1, "", None)
    except (EngineError, TypeError):
        return
    except RuntimeError as error:  # nanobind's word for a value that does not convert
        if "bad_cast" not in str(error):
            raise
        return
    engine.encoder_states(PROMPT, np.array([3], np.int32), [])


@settings(max_examples=80)
@given(
    size=st.sampled_from([0, 1, 64, 4096, "right", "right + 64"]),
    offset=st.integers(0, 65),
    digest=st.sampled_from([0, 1, 2**64 - 1, "right"]),
    seed=st.integers(0, 99),
)
def test_foreign_packed_bytes_are_an_error(size: Any, offset: int, digest: Any, seed: int) -> None:
    whole = _native.Engine(_config_values(CONFIG), TUPLES, "int8", 1, "", None).packed().copy()
    count = {"right": len(whole), "right + 64": len(whole) + 64}.get(size, size)
    buffer = np.random.default_rng(seed).integers(0, 256, count + 200, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    packed = buffer[start : start + count]
    right = _native.xxh64(packed, 0) if digest == "right" else digest
    with pytest.raises(EngineError):
        _native.Engine(_config_values(CONFIG), TUPLES, "int8", 1, "", (packed, right, False))


@settings(max_examples=80)
@given(
    name=st.sampled_from(["encoder.block.0.layer.0.SelfAttention.q", "lm_head", "shared", "", "\0"]),
    a=st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 31, 32, 33])),
    b=st.tuples(st.sampled_from([0, 1, 23, 24, 25]), st.integers(0, 40)),
    times=st.integers(1, 2),
    value=st.sampled_from([0.0, 1.0, 3e38, float("nan"), float("inf")]),
)
def test_hostile_adapters_are_an_error_or_answer(
    name: str, a: tuple[int, int], b: tuple[int, int], times: int, value: float
) -> None:
    engine = _native.Engine(_config_values(CONFIG), TUPLES, "int8", 2, "", None)
    is_right = name in ("encoder.block.0.layer.0.SelfAttention.q",) and a == (b[1], 32) and b[0] == 24 and times == 1
    try:
        adapter = engine.add_adapter([(name, np.full(a, value, np.float32), np.full(b, value, np.float32))] * times)
    except EngineError:
        assert not is_right or b[1] == 0 or not np.isfinite(value)
        return
    assert is_right
    engine.encoder_states(PROMPT, np.array([3], np.int32), [adapter])


@pytest.mark.parametrize("weights", ["as_is", "int8"])
def test_files_with_flipped_bytes_are_an_error_or_answer(tmp_path: Path, weights: str) -> None:
    write_folder(tmp_path / "m", CONFIG, random_tensors(CONFIG), weights=weights)
    (file,) = (tmp_path / "m").glob("*.safetensors")
    whole = file.read_bytes()
    header_bytes = int.from_bytes(whole[:8], "little")
    noise = random.Random(1)
    num_loaded = 0
    for number in range(250):
        damaged = bytearray(whole)
        most = header_bytes + 8 if number % 2 else len(whole)
        for _ in range(noise.randrange(1, 4)):
            damaged[noise.randrange(most)] = noise.randrange(256)
        if number % 5 == 0:
            del damaged[noise.randrange(len(damaged)) :]
        file.write_bytes(damaged)
        try:
            folder = open_folder(tmp_path / "m")
            runtime = NativeRuntime(folder.config, folder.tensors(), weights="int8", threads=1)
        except (CheckpointError, EngineError):
            continue
        runtime.score(runtime.encode([PROMPT]), [PROMPT])
        num_loaded += 1
    assert num_loaded > 20  # what only changes a weight still answers


def test_steps_on_damaged_models_stay_in_their_arrays() -> None:
    """NaN, infinities and huge values everywhere: whatever comes out has the right shape and ids of the vocabulary."""
    for value in (np.nan, np.inf, 3e38, 1e-45, -0.0):
        views = [
            dataclasses.replace(view, data=np.full(view.num_elements, value, np.float32).view(np.uint8).data)
            for view in random_tensors(CONFIG)
        ]
        for weights in ("float32", "bfloat16", "int8", "int4"):
            try:
                runtime = NativeRuntime(CONFIG, views, weights=weights, threads=2)
            except T5kitError:
                continue
            slots = runtime.open_slots(runtime.encode([PROMPT, PROMPT[1:]]))

            out = runtime.step(StepInput.one_token_each(slots, np.zeros(2, np.int32), need=Need(top_k=3)))
            assert out.top_ids.shape == (2, 3)
            assert ((out.top_ids >= -1) & (out.top_ids < CONFIG.vocab_size)).all()

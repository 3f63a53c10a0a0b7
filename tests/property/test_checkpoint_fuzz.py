"""Damaged and hostile model folders: a CheckpointError, or a model of exactly the right shapes; never anything else."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from t5kit.checkpoint import CheckpointFolder, describe, open_folder, write_folder
from t5kit.checkpoint.safetensors_file import open_safetensors
from t5kit.config import Head, T5Config, tensor_shapes
from t5kit.errors import CheckpointError
from t5kit.testing.tiny import random_tensors

CONFIG = T5Config(
    vocab_size=16, d_model=4, d_kv=2, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.1
)
LABELLED = T5Config(
    vocab_size=16, d_model=4, d_kv=2, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=0,
    head=Head.TOKEN_CLASSIFICATION, num_labels=2,
)  # fmt: skip

# Every example writes its own copy, so one temporary folder serves them all.
settings = hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])

Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """A change of some bytes: flipped, cut, repeated, put in, or replaced; most often near the beginning."""
    kind = draw(st.sampled_from(("flip", "cut", "repeat", "insert", "replace", "digits")))
    share = draw(st.floats(0, 1)) ** draw(st.sampled_from((1, 4)))
    length = draw(st.integers(1, 40))
    new = draw(st.binary(min_size=1, max_size=12))

    def damage(raw: bytes) -> bytes:
        at = int(share * max(0, len(raw) - 1))
        if kind == "flip":
            return raw[:at] + bytes([raw[at] ^ (1 << length % 8)]) + raw[at + 1 :] if raw else raw
        if kind == "cut":
            return raw[:at]
        if kind == "repeat":
            return raw[: at + length] + raw[at:]
        if kind == "insert":
            return raw[:at] + new + raw[at:]
        if kind == "digits":  # numbers in headers and keys, the likeliest way to a wrong allocation
            return raw[:at] + raw[at : at + 60].replace(b"1", b"9" * length).replace(b"4", b"-4") + raw[at + 60 :]
        return raw[:at] + new + raw[at + len(new) :]

    return damage


def check(folder: CheckpointFolder) -> None:
    shapes = tensor_shapes(folder.config)
    assert folder.names() == tuple(shapes)
    for view in folder.tensors():
        assert view.shape == shapes[view.name]
        assert view.to_float32().shape == view.shape
    assert describe(folder).to_text()


def open_or_refuse(path: Path) -> None:
    with contextlib.suppress(CheckpointError):
        check(open_folder(path))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole folder of each kind to damage copies of."""
    root = tmp_path_factory.mktemp("originals")
    write_folder(root / "one", CONFIG, random_tensors(CONFIG), generation={"num_beams": 2, "eos_token_ids": [1, 3]})
    write_folder(root / "shards", CONFIG, random_tensors(CONFIG), max_shard_bytes=1500, dtype="bfloat16")
    write_folder(root / "labels", LABELLED, random_tensors(LABELLED), labels=("a", "b"))
    return {path.name: path for path in root.iterdir()}


def damaged_copy(original: Path, tmp_path: Path, name: str, damage: Damage) -> Path:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    (copy / name).write_bytes(damage((copy / name).read_bytes()))
    return copy


@settings
@hypothesis.given(data=st.data(), damage=damages())
def test_damaged_files_never_do_worse_than_a_checkpoint_error(
    data: st.DataObject, damage: Damage, originals: dict[str, Path], tmp_path: Path
) -> None:
    original = originals[data.draw(st.sampled_from(sorted(originals)))]
    name = data.draw(st.sampled_from(sorted(path.name for path in original.iterdir())))
    open_or_refuse(damaged_copy(original, tmp_path, name, damage))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
LIKELY = st.sampled_from(
    [0, 1, -1, 2**31, 2**62, True, False, None, "", "t5", "umt5", "longt5", "gated-silu", [], [1], {}, 1e308, 0.5]
)


@settings
@hypothesis.given(data=st.data(), value=LIKELY | JSON)
def test_any_value_of_any_key_is_taken_or_refused(
    data: st.DataObject, value: object, originals: dict[str, Path], tmp_path: Path
) -> None:
    original = originals[data.draw(st.sampled_from(sorted(originals)))]
    name = data.draw(st.sampled_from(sorted(path.name for path in original.glob("*.json"))))

    def change(raw: bytes) -> bytes:
        keys = json.loads(raw)
        extra = [
            "num_labels",
            "quantization_config",
            "eos_token_id",
            "max_length",
            "encoder_attention_type",
            "local_radius",
        ]
        keys[data.draw(st.sampled_from([*keys, *extra]))] = value
        return json.dumps(keys).encode()

    open_or_refuse(damaged_copy(original, tmp_path, name, change))


SIZES = (
    st.integers(-1, 9)
    | st.sampled_from([2**31, 2**62, 2**64, 10**30])
    | st.booleans()
    | st.floats()
    | st.text(max_size=2)
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F64", "BOOL", "F4", "", 3]),
        "shape": st.lists(SIZES, max_size=4),
        "data_offsets": st.lists(SIZES, max_size=3),
    },
    optional={"more": SIZES},
)


@settings
@hypothesis.given(
    header=st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), ENTRIES | JSON, max_size=4),
    data=st.binary(max_size=64),
    wrong_length=st.none() | st.integers(0, 2**64 - 1),
)
def test_any_header_is_taken_or_refused(
    header: dict[str, object], data: bytes, wrong_length: int | None, tmp_path: Path
) -> None:
    text = json.dumps(header).encode()
    length = len(text) if wrong_length is None else wrong_length
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    try:
        file = open_safetensors(path)
    except CheckpointError:
        return
    assert sum(view.size_bytes for view in file.views.values()) == file.size_bytes - 8 - length


@settings
@hypothesis.given(damage=damages(), is_zip=st.booleans())
def test_damaged_torch_files_never_do_worse(
    damage: Damage, is_zip: bool, originals: dict[str, Path], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    copy = damaged_copy(originals["one"], tmp_path, "model.safetensors", lambda raw: raw)
    (copy / "model.safetensors").unlink()
    state = {view.name: torch.from_numpy(view.to_float32().copy()) for view in random_tensors(CONFIG)}
    torch.save(state, copy / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    (copy / "pytorch_model.bin").write_bytes(damage((copy / "pytorch_model.bin").read_bytes()))
    open_or_refuse(copy)

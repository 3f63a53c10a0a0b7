"""One safetensors file: what we write the library reads, what it writes we read, and nothing crooked is taken."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from t5kit.checkpoint import TensorView
from t5kit.checkpoint.safetensors_file import open_safetensors, write_safetensors
from t5kit.errors import CheckpointError

ml_dtypes = pytest.importorskip("ml_dtypes")

ARRAYS = {
    "odd": np.arange(3, dtype=np.int8),
    "half": np.arange(5, dtype=np.float16),
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.array(2.5),
    "brain": np.arange(4).astype(ml_dtypes.bfloat16),
}


def file_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_what_we_write_the_library_reads(tmp_path: Path) -> None:
    views = [TensorView.from_array(name, array) for name, array in ARRAYS.items()]
    size_bytes = write_safetensors(tmp_path / "x.safetensors", views)
    assert size_bytes == (tmp_path / "x.safetensors").stat().st_size
    read = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert read.keys() == ARRAYS.keys()
    assert all(np.array_equal(read[name], array) and read[name].shape == array.shape for name, array in ARRAYS.items())
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_the_library_writes_we_read(tmp_path: Path) -> None:
    safetensors.numpy.save_file(ARRAYS, tmp_path / "x.safetensors", {"a": "b"})
    file = open_safetensors(tmp_path / "x.safetensors")
    assert file.metadata == {"a": "b"}
    assert {name: view.shape for name, view in file.views.items()} == {name: a.shape for name, a in ARRAYS.items()}
    for name, view in file.views.items():
        assert np.array_equal(view.to_float32(), ARRAYS[name].astype(np.float32)), name


def test_every_tensor_we_write_is_aligned_to_its_own_items(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x", [TensorView.from_array(name, array) for name, array in ARRAYS.items()])
    raw = (tmp_path / "x").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    for name, array in ARRAYS.items():
        assert (8 + length + header[name]["data_offsets"][0]) % array.dtype.itemsize == 0, name


def test_conversion_while_writing_gives_the_asked_dtype(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x", [TensorView.from_array("a", ARRAYS["matrix"])], dtype="BF16")
    view = open_safetensors(tmp_path / "x").views["a"]
    assert (view.dtype, view.to_float32().tolist()) == ("BF16", ARRAYS["matrix"].tolist())


def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError):
        write_safetensors(tmp_path / "x", [])


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "has 0 bytes"),
    "seven bytes": (b"1234567", "has 7 bytes"),
    "header longer than the file": (file_bytes({}, length=10**6), "cut short"),
    "header of 2^63 bytes": (file_bytes({}, length=2**63), "cut short"),
    "header over 100 MB": (file_bytes({}, length=100_000_001), "at most 100000000"),
    "no JSON": (file_bytes(b"{nonsense}"), "not valid JSON"),
    "not UTF-8": (file_bytes(b'{"\xff": 1}'), "not valid JSON"),
    "a list": (file_bytes([]), "expected an object"),
    "deep nesting": (file_bytes(b'{"a":' + b"[" * 200_000), "nested too deeply"),
    "NaN": (file_bytes(b'{"a": NaN}'), "NaN is not a JSON number"),
    "an endless integer": (file_bytes(b'{"a": ' + b"9" * 6000 + b"}"), "not valid JSON"),
    "a tensor twice": (file_bytes(b'{"a": 1, "a": 2}'), "'a' appears twice"),
    "metadata of numbers": (file_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
    "entry is a number": (file_bytes({"a": 3}), "must have exactly"),
    "entry without shape": (file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 0]}}), "must have exactly"),
    "unknown dtype": (file_bytes({"a": entry("F31")}, bytes(8)), "dtype 'F31'"),
    "dtype is a list": (file_bytes({"a": entry([])}, bytes(8)), "dtype"),
    "negative size": (file_bytes({"a": entry(shape=[-2])}, bytes(8)), "shape"),
    "fractional size": (file_bytes({"a": entry(shape=[2.0])}, bytes(8)), "shape"),
    "true as a size": (file_bytes({"a": entry(shape=[True])}, bytes(8)), "shape"),
    "size of 10^30": (file_bytes({"a": entry(shape=[10**30])}, bytes(8)), "shape"),
    "nine dimensions": (file_bytes({"a": entry(shape=[1] * 9)}, bytes(8)), "up to 8"),
    "product beyond the offsets": (file_bytes({"a": entry(shape=[2**40, 2**40])}, bytes(8)), "takes"),
    "backward offsets": (file_bytes({"a": entry(offsets=[8, 0])}, bytes(8)), "data_offsets"),
    "three offsets": (file_bytes({"a": entry(offsets=[0, 4, 8])}, bytes(8)), "data_offsets"),
    "beyond the end": (file_bytes({"a": entry()}, bytes(7)), "cut short"),
    "a hole": (file_bytes({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)), "leave holes"),
    "overlap": (file_bytes({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "overlap"),
    "not from the beginning": (file_bytes({"a": entry(offsets=[4, 12])}, bytes(12)), "begins at byte 4"),
    "bytes after the end": (file_bytes({"a": entry()}, bytes(9)), "1 bytes after"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_crooked_file_is_an_error_that_says_why(name: str, tmp_path: Path) -> None:
    raw, why = HOSTILE[name]
    (tmp_path / "x.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match=why):
        open_safetensors(tmp_path / "x.safetensors")


def test_a_strange_name_cannot_spoil_the_message(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(file_bytes(b'{"\\ud800\\u001b[2J' + b"A" * 10_000 + b'": 3}'))
    with pytest.raises(CheckpointError) as caught:
        open_safetensors(tmp_path / "x")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600

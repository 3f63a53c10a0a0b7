"""Reading and writing one safetensors file, strictly, as memory-mapped views.

Decision: the header (8 bytes of length, one JSON object, then the data without holes) is parsed here. The safetensors
library was tried first: `safe_open(framework="np")` refuses bfloat16 without ml_dtypes, `deserialize` wants the whole
file in memory and copies every tensor, and neither gives the plain (name, dtype, shape, bytes) that NumPy, torch and
C++ all take. The rules checked are the library's own, and the tests let it read what is written here and the reverse.

A mapped file must not be shortened while views of it live: as with any mapping, the system then ends the process.
"""

import dataclasses
import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from t5kit.checkpoint.quantized import LazyTensor
from t5kit.checkpoint.source_files import open_for_reading, parse_json_object, shortened
from t5kit.checkpoint.tensors import ITEM_BYTES, TensorView
from t5kit.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit (its source: MAX_HEADER_SIZE)."""
_MAX_DIMENSIONS = 8
_WRITE_CHUNK_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True, eq=False)
class SafetensorsFile:
    """One mapped file: its tensors by stored name in file order, and its text metadata."""

    path: Path
    """The file."""
    size_bytes: int
    """Its size on disk."""
    views: Mapping[str, TensorView]
    """Stored name -> read-only view on the mapped bytes."""
    metadata: Mapping[str, str]
    """The header's `__metadata__`, such as {"format": "pt"}."""
    status: os.stat_result
    """What the system said of it when it was mapped."""


def open_safetensors(path: Path) -> SafetensorsFile:
    """Map the file and check its whole header; the tensors' bytes are not touched.

    Raises: CheckpointError, naming the tensor where there is one, if a length, offset, shape or dtype does not add up.
    """
    descriptor = open_for_reading(path)
    try:
        status = os.fstat(descriptor)
        size_bytes = status.st_size
        if size_bytes < 8:
            raise CheckpointError(f"{path} has {size_bytes} bytes; a safetensors file has at least 8. Fetch it again.")
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be mapped into memory: {error}.") from error
    finally:
        os.close(descriptor)
    everything = memoryview(mapped)
    # The file may have grown or shrunk since the size was asked for: the mapping's own length counts from here on.
    header_bytes = int.from_bytes(everything[:8], "little")
    if header_bytes > MAX_HEADER_BYTES or header_bytes > len(everything) - 8:
        raise CheckpointError(
            f"{path} says its header has {header_bytes} bytes, but the file has {len(everything)} in all and headers "
            f"at most {MAX_HEADER_BYTES}. It is no safetensors file, or was cut short: fetch it again."
        )
    header = parse_json_object(bytes(everything[8 : 8 + header_bytes]), source=f"The header of {path}")
    metadata = _checked_metadata(path, header.pop("__metadata__", None))
    views = _checked_views(path, header, everything[8 + header_bytes :])
    return SafetensorsFile(path=path, size_bytes=len(everything), views=views, metadata=metadata, status=status)


def _checked_metadata(path: Path, metadata: object) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"The header of {path} has a __metadata__ that is no object of texts.")
    return metadata


def _checked_views(path: Path, header: dict[str, object], data: memoryview) -> dict[str, TensorView]:
    entries = sorted((_checked_entry(path, name, entry) for name, entry in header.items()), key=lambda e: e.span)
    position = 0
    views = {}
    for entry in entries:
        begin, end = entry.span
        if begin != position:
            raise CheckpointError(
                f"{path}: tensor {shortened(entry.name)} begins at byte {begin} of the data, but the one before ends "
                f"at {position}. Tensors must neither overlap nor leave holes."
            )
        if end > len(data):
            raise CheckpointError(
                f"{path}: tensor {shortened(entry.name)} ends at byte {end} of the data, but the file holds "
                f"{len(data)}. It was cut short: fetch it again."
            )
        views[entry.name] = TensorView(name=entry.name, dtype=entry.dtype, shape=entry.shape, data=data[begin:end])
        position = end
    if position != len(data):
        raise CheckpointError(
            f"{path} has {len(data) - position} bytes after its last tensor. It is damaged or altered."
        )
    return views


@dataclasses.dataclass(frozen=True)
class _Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    span: tuple[int, int]


def _checked_entry(path: Path, name: str, entry: object) -> _Entry:
    where = f"{path}: tensor {shortened(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} must have exactly dtype, shape and data_offsets; got {shortened(entry)}.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(f"{where} has the dtype {shortened(dtype)}; understood are: {', '.join(ITEM_BYTES)}.")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{where} has the shape {shortened(shape)}; expected up to {_MAX_DIMENSIONS} sizes.")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where} has the data_offsets {shortened(offsets)}; expected [begin, end].")
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        raise CheckpointError(
            f"{where} of dtype {dtype} and shape {shape} takes {expected} bytes, but its data_offsets {offsets} span "
            f"{offsets[1] - offsets[0]}."
        )
    return _Entry(name=name, dtype=dtype, shape=tuple(shape), span=(offsets[0], offsets[1]))


def _are_sizes(value: object) -> bool:
    # bool is an int in Python; the upper bound keeps products of hostile sizes short.
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def write_safetensors(
    path: Path, tensors: Iterable[TensorView | LazyTensor], *, dtype: str | None = None, format_word: str = "pt"
) -> int:
    """Write `tensors` to a new file and return its size in bytes; `dtype` (F32, BF16, F16) converts, None keeps each.

    Tensors are converted, or made, and written one at a time. format_word: what the header's metadata call the format.
    Raises: OSError as the system gives it (`atomic_folder` words it).
    """
    # Wider dtypes first keeps every tensor aligned to its own item size; equal ones stay in the model's order.
    ordered = sorted(tensors, key=lambda view: -ITEM_BYTES[dtype or view.dtype])
    header: dict[str, object] = {"__metadata__": {"format": format_word}}  # T5: transformers refuses a file without one
    position = 0
    for view in ordered:
        word = dtype or view.dtype
        end = position + view.num_elements * ITEM_BYTES[word]
        header[view.name] = {"dtype": word, "shape": list(view.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for view in ordered:
            made = view.make() if isinstance(view, LazyTensor) else view
            data = (made.converted(dtype) if dtype else made).data
            for start in range(0, len(data), _WRITE_CHUNK_BYTES):
                file.write(data[start : start + _WRITE_CHUNK_BYTES])
    return 8 + len(text) + position

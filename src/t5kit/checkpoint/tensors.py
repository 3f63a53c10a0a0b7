"""One named tensor on its way between a file and a runtime: name, dtype word, shape and bytes.

NumPy has no bfloat16, so the bits travel as they are: the reference runtime widens them, torch and C++ take the bytes.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping

import numpy as np

from t5kit.errors import CheckpointError

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""safetensors' dtype words -> bytes an element. Its packed 4- and 6-bit words are left out: no T5 is stored in them."""

FLOAT_WORDS: Mapping[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
"""The public words for the dtypes a float folder may hold -> safetensors' words."""

_NUMPY_TYPES: Mapping[str, str] = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
# BF16 is read as its bits.

INT8_GROUP = 64
"""Inputs that share one scale in an int8 folder (`checkpoint.quantized`)."""

_CHUNK_ELEMENTS = 1 << 22
# Elements converted at a time, so that the temporaries of an 8 GB embedding stay at some 50 MB.


@dataclasses.dataclass(frozen=True, eq=False)
class TensorView:
    """A tensor as its bytes: little-endian, C order, not copied from where they lie (usually a memory-mapped file).

    Raises: CheckpointError on construction if the dtype is unknown or the bytes are not exactly those of the shape.
    """

    name: str
    """Name in the folder's layout."""
    dtype: str
    """safetensors' word: F32, BF16, F16, I8 ..."""
    shape: tuple[int, ...]
    """Sizes, outermost first; linear maps are [out, in]."""
    data: memoryview
    """Flat bytes (format "B"), math.prod(shape) * itemsize of them."""
    scale: "TensorView | None" = None
    """Of an int8 matrix [out, in] of an int8 folder: float32 [out, ceil(in / 64)]."""
    exact: "TensorView | None" = None
    """Of such a matrix: its values in bfloat16, where the folder keeps them (the head)."""

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_BYTES:
            raise CheckpointError(
                f"Tensor {self.name!r} has the dtype {self.dtype!r}; understood are: {', '.join(ITEM_BYTES)}."
            )
        expected = math.prod(self.shape) * ITEM_BYTES[self.dtype]
        if self.data.nbytes != expected:
            raise CheckpointError(
                f"Tensor {self.name!r} of shape {list(self.shape)} and dtype {self.dtype} takes {expected} bytes, but "
                f"{self.data.nbytes} were given."
            )

    @classmethod
    def from_array(cls, name: str, array: np.ndarray) -> "TensorView":
        """Return the view of a NumPy array, copied only if it is not contiguous or not little-endian.

        An ml_dtypes bfloat16 array is taken too. Raises: CheckpointError for a dtype that no tensor file holds.
        """
        if array.dtype.name == "bfloat16":
            word, plain = "BF16", np.ascontiguousarray(array).view(np.uint16)
        else:
            little = array.dtype.newbyteorder("<")
            words = [word for word, code in _NUMPY_TYPES.items() if np.dtype(code) == little and word != "BF16"]
            if not words:
                raise CheckpointError(f"Tensor {name!r} has the NumPy dtype {array.dtype}, which no tensor file holds.")
            word, plain = words[0], np.ascontiguousarray(array, little)
        return cls(name=name, dtype=word, shape=tuple(array.shape), data=_flat_bytes(plain))

    @property
    def size_bytes(self) -> int:
        """Bytes of the data."""
        return self.data.nbytes

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)

    def renamed(self, name: str) -> "TensorView":
        """Return the same bytes under another name."""
        return dataclasses.replace(self, name=name)

    def rows(self, first: int, count: int) -> "TensorView":
        """Return a view of some rows [count, ...] of a tensor of floats; nothing is read."""
        row_bytes = math.prod(self.shape[1:]) * ITEM_BYTES[self.dtype]
        data = self.data[first * row_bytes : (first + count) * row_bytes]
        return TensorView(name=self.name, dtype=self.dtype, shape=(count, *self.shape[1:]), data=data)

    def to_float32(self) -> np.ndarray:
        """Return the values as float32 [shape]; for aligned F32 the array lies on the same bytes and may be read-only.

        F64 is rounded; 8-bit and 16-bit integers are exact; an int8 matrix with scales gives its exact copy where it
        has one, else integers times scales. Raises: CheckpointError for other dtypes, an F64 value beyond float32, or
        scales that quantising cannot give.
        """
        if self.exact is not None:
            return self.exact.to_float32()
        if self.scale is not None:
            return _dequantized(self, self.scale)
        if self.dtype == "BF16":
            return _widen_bfloat16(np.frombuffer(self.data, "<u2")).reshape(self.shape)
        if self.dtype not in ("F32", "F16", "F64", "I8", "U8", "I16", "U16"):
            raise CheckpointError(f"Tensor {self.name!r} of dtype {self.dtype} cannot be read as float32 weights.")
        stored = np.frombuffer(self.data, _NUMPY_TYPES[self.dtype]).reshape(self.shape)
        if self.dtype == "F32" and sys.byteorder == "little" and stored.flags.aligned:
            return stored
        with np.errstate(over="ignore"):
            widened = stored.astype(np.float32)
        if self.dtype == "F64":
            _check_no_overflow(self.name, stored, np.isinf(widened), "float32")
        return widened

    def converted(self, dtype: str) -> "TensorView":
        """Return the tensor as F32, BF16 or F16 (safetensors' words), rounding to nearest, ties to even.

        The same object comes back if nothing changes. Raises: CheckpointError if a finite value leaves the range.
        """
        if dtype == self.dtype:
            return self
        if self.exact is not None and dtype == self.exact.dtype:
            return self.exact.renamed(self.name)
        values = self.to_float32()
        if dtype == "F32":
            return TensorView.from_array(self.name, values)
        if dtype not in ("BF16", "F16"):
            raise CheckpointError(f"Tensor {self.name!r} cannot be converted to {dtype!r}; possible: F32, BF16, F16.")
        flat = values.reshape(-1)
        bits = np.empty(flat.size, "<u2")
        for start in range(0, flat.size, _CHUNK_ELEMENTS):
            chunk = flat[start : start + _CHUNK_ELEMENTS]
            target = bits[start : start + chunk.size]
            if dtype == "BF16":
                target[:] = _round_to_bfloat16(chunk)
                _check_no_overflow(self.name, chunk, (target & 0x7FFF) == 0x7F80, "bfloat16")
            else:
                with np.errstate(over="ignore", under="ignore"):
                    target[:] = chunk.astype("<f2").view("<u2")
                _check_no_overflow(self.name, chunk, (target & 0x7FFF) == 0x7C00, "float16")
        return TensorView(name=self.name, dtype=dtype, shape=self.shape, data=_flat_bytes(bits))


def _dequantized(view: TensorView, scale: TensorView) -> np.ndarray:
    integers = np.frombuffer(view.data, np.int8).reshape(view.shape)
    scales = scale.to_float32()
    if not np.isfinite(scales).all() or (scales < 0).any() or (integers == -128).any():
        raise CheckpointError(
            f"Tensor {view.name!r} is int8 with a scale that is negative, infinite or not a number, or holds -128. The "
            "file is damaged: save the model again."
        )
    values = integers.astype(np.float32)
    for group in range(scales.shape[1]):
        columns = values[:, group * INT8_GROUP : (group + 1) * INT8_GROUP]
        if (columns[scales[:, group] == 0] != 0).any():
            raise CheckpointError(
                f"Tensor {view.name!r} is int8 with a scale of zero beside weights that are not. The file is damaged: "
                "save the model again."
            )
        columns *= scales[:, group, None]
    return values


def _flat_bytes(array: np.ndarray) -> memoryview:
    # Casting a memoryview with a zero in its shape is refused by Python, and an empty one has no bytes to point to.
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    # Numerics: a bfloat16 is the upper half of the float32 of the same value, so widening is exact.
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bfloat16 bits (uint16) of float32 values [N], to nearest with ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # Numerics: half of the dropped range, minus one if the kept part is even, carries exactly as IEEE rounding does.
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


def _check_no_overflow(name: str, source: np.ndarray, became_infinite: np.ndarray, word: str) -> None:
    lost = became_infinite & np.isfinite(source)
    if lost.any():
        value = float(source[lost].flat[0])
        raise CheckpointError(
            f"Tensor {name!r} holds {value:g}, which is beyond the range of {word}. Store it in a wider dtype."
        )

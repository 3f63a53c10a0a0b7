"""Weights on the way: one tensor as a name, a dtype word, a shape and a view of its bytes."""

import dataclasses

import numpy as np

from t5kit.errors import CheckpointError

_NUMPY_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TensorView:
    """One tensor, uncopied."""

    name: str
    """Name in the home layout."""
    dtype: str
    """safetensors' word: F32, BF16, F16, F64, I8, ..."""
    shape: tuple[int, ...]
    data: memoryview
    """Little-endian bytes in C order."""

    def to_float32(self) -> np.ndarray:
        """Return the values as float32 [shape]; F32 is not copied, bfloat16 is widened by shifting."""
        if self.dtype == "BF16":
            bits = np.frombuffer(self.data, "<u2").astype(np.uint32) << 16
            return bits.view(np.float32).reshape(self.shape)
        if self.dtype not in _NUMPY_DTYPES:
            raise CheckpointError(f"Tensor {self.name!r} is {self.dtype}; expected one of F32, BF16, F16, F64.")
        values = np.frombuffer(self.data, _NUMPY_DTYPES[self.dtype]).reshape(self.shape)
        return values.astype(np.float32, copy=False)

"""Named tensors on their way into the torch runtime: read where they lie, converted, packed, and let go of."""

import math
import mmap
import sys
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config, tensor_shapes
from t5kit.errors import CheckpointError, EngineError
from t5kit.runtime.torch_linear import HalfLinear, Linear, PackedLinear, RmsNorm, can_pack, has_half_linear, make_linear

_MAX_FLOAT16 = 65504.0
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class TensorStore:
    """The tensors of one model, each to be taken once, under their names without a classifier's prefix `transformer.`.

    Raises: EngineError if a tensor of the architecture is missing or misshapen; CheckpointError when one is taken whose
    dtype is no float or, as float16, whose values are beyond its range.
    """

    def __init__(
        self,
        config: T5Config,
        tensors: Mapping[str, TensorView] | Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shapes = tensor_shapes(config)
        missing = [name for name in shapes if name not in tensors]
        if missing:
            raise EngineError(f"The torch runtime was given no tensor {missing[0]!r} ({len(missing)} missing in all).")
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != shape:
                raise EngineError(f"Tensor {name!r} is {list(tensors[name].shape)}; expected {list(shape)}.")
        self.dtype = dtype
        """What embedding and linear maps are to be stored in."""
        self.device = device
        prefix = "transformer." if config.is_classifier else ""
        self._tensors: dict[str, TensorView | Tensor] = {name.removeprefix(prefix): tensors[name] for name in shapes}
        self._epsilon = config.layer_norm_epsilon
        self._read: list[TensorView] = []

    @property
    def can_pack(self) -> bool:
        """Whether there is `PackedLinear` for the store's dtype and device."""
        return self.device.type == "cpu" and can_pack(self.dtype)

    def embedding(self, name: str, *, is_used_again: bool) -> Tensor:
        """Return the embedding [V, D]; a tied one is used again as head."""
        embedding_VD = self._take(name, dtype=self.dtype, is_used_again=is_used_again).clone()
        self._forget_read_pages()
        return embedding_VD

    def table(self, name: str) -> Tensor:
        """Return a relative position table [R, H] as float32 on the CPU."""
        return self._take(name, dtype=torch.float32).cpu().clone()

    def norm(self, name: str) -> RmsNorm:
        """Return the norm whose weight is `name`."""
        return RmsNorm(self._take(name, dtype=torch.float32).clone(), epsilon=self._epsilon)

    def linear(self, *names: str, may_overflow: bool = False) -> Linear:
        """Return one map for the named weights, their outputs one after the other.

        `may_overflow` marks the map whose results leave float16's range.
        """
        if self.dtype is torch.float16 and self._has_half_linear:
            return self._made(HalfLinear(self._take(*names, dtype=torch.float32, fits_float16=True)))
        dtype = torch.float32 if self.dtype is torch.float16 and may_overflow else self.dtype
        return self._made(make_linear(self._take(*names, dtype=dtype, fits_float16=dtype is torch.float16)))

    def packed_linear(self, name: str) -> PackedLinear:
        """Return the named weight packed, where `can_pack`."""
        packed = PackedLinear(self._take(name, dtype=self.dtype).contiguous())
        self._forget_read_pages()
        return packed

    def head(self, name: str) -> Linear:
        """Return the head, whose logits are float32 in every dtype.

        Numerics: logits rounded to bfloat16 tie and flip (their step is 0.06 at 8 to 16): 60 of 64 greedy answers of
        FLAN-T5-small are float32's then, 63 with float32 logits.
        """
        weight_VD = self._take(name, dtype=torch.float32)
        # Speed: the head of a reduced model is read in float16: half of float32's bytes, three bits more than bfloat16.
        if self.dtype is not torch.float32 and self._has_half_linear and weight_VD.abs().max() <= _MAX_FLOAT16:
            return self._made(HalfLinear(weight_VD))
        return self._made(make_linear(weight_VD))

    @property
    def _has_half_linear(self) -> bool:
        return self.device.type == "cpu" and has_half_linear()

    def _take(self, *names: str, dtype: torch.dtype, is_used_again: bool = False, fits_float16: bool = False) -> Tensor:
        """Return the named tensors one under the other, on the device, as `dtype`.

        What is returned may lie in the caller's memory (a mapped file, a live module): copy what is kept.
        """
        parts = []
        for name in names:
            stored = self._tensors[name] if is_used_again else self._tensors.pop(name)
            part = _as_torch(stored) if isinstance(stored, TensorView) else stored.detach()
            if fits_float16 and part.numel() and not part.abs().max() <= _MAX_FLOAT16:
                raise CheckpointError(
                    f"Tensor {name!r} holds values beyond float16's 65504. Use weights='bfloat16' or 'float32'."
                )
            parts.append(part.to(self.device, dtype))
            if isinstance(stored, TensorView):
                self._read.append(stored)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _made(self, linear: Linear) -> Linear:
        self._forget_read_pages()
        return linear

    def _forget_read_pages(self) -> None:
        """Let go of the pages of mapped files that tensors have been read from, so that they do not count as our own.

        They stay in the system's file cache, and the mapping stays valid: whatever still reads it gets them back.
        """
        for view in self._read:
            mapped = view.data.obj
            if isinstance(mapped, mmap.mmap) and sys.platform == "linux":
                begin = _address(view.data) - _address(memoryview(mapped))
                first, last = -(-begin // mmap.PAGESIZE), (begin + view.size_bytes) // mmap.PAGESIZE
                if first < last:
                    mapped.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)
        self._read.clear()


def prevailing_dtype(tensors: Iterable[TensorView]) -> torch.dtype:
    """Return the dtype that most of the tensors' bytes are in; float64 and int8 with scales count as float32."""
    sizes: dict[torch.dtype, int] = {torch.float32: 0}
    for view in tensors:
        dtype = _DTYPES.get(view.dtype, torch.float32)
        sizes[dtype] = sizes.get(dtype, 0) + view.size_bytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _as_torch(view: TensorView) -> Tensor:
    """Return the view's values, uncopied where PyTorch has the dtype (the memory may be read-only: never write)."""
    if view.dtype == "F64" or view.scale is not None:
        return torch.from_numpy(view.to_float32())
    dtype = _DTYPES.get(view.dtype)
    if dtype is None:
        raise CheckpointError(f"Tensor {view.name!r} is {view.dtype}; the torch runtime takes F32, BF16, F16 and F64.")
    if not math.prod(view.shape):
        return torch.empty(view.shape, dtype=dtype)
    is_aligned = _address(view.data) % dtype.itemsize == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        flat = torch.frombuffer(view.data if is_aligned else bytearray(view.data), dtype=dtype)
    return flat.reshape(view.shape)


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)

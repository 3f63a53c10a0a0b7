"""Linear maps and norms of the torch runtime, in whatever form is fastest on the device.

Dimension letters: N tokens, I inputs, O outputs of a linear map, F d_ff.
"""

import functools
import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


def as_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x.to(dtype). Speed: `to` takes 1.5 us where there is nothing to do, which is most of 50 times a step."""
    return x if x.dtype is dtype else x.to(dtype)


class RmsNorm:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis, in float32.

    Speed: off CUDA F.rms_norm is eight small operations, 10.5 us for four rows; as x / |x| with the constants moved
    into the weight it is four, 5 us. A decoder of eight layers has 25 of them a step.
    """

    def __init__(self, weight_D: Tensor, *, epsilon: float) -> None:
        num_elements = weight_D.numel()
        self._weight_D, self._epsilon = weight_D, epsilon
        self._scaled_weight_D = weight_D * math.sqrt(num_elements)
        self._least = torch.tensor(math.sqrt(num_elements * epsilon), device=weight_D.device)

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Shapes: x [N, D] float32 -> [N, D]."""
        if x_ND.is_cuda:
            return F.rms_norm(x_ND, self._weight_D.shape, self._weight_D, self._epsilon)
        length_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True).hypot_(self._least)
        return (x_ND / length_N1).mul_(self._scaled_weight_D)


class Linear(Protocol):
    """A weight [O, I], without bias as everywhere in T5."""

    dtype: torch.dtype
    """Of the result; x is converted to it."""

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Return x [N, I] times the weight, [N, O] in `dtype`."""
        ...

    def padded_rows(self, num_rows: int) -> int:
        """Return with how many rows a product of num_rows is best made."""
        ...


class DenseLinear:
    """A copy of the weight as PyTorch keeps it: on CUDA, and on processors without the forms below."""

    def __init__(self, weight_OI: Tensor) -> None:
        self.dtype = weight_OI.dtype
        self._weight_OI = weight_OI.clone(memory_format=torch.contiguous_format)

    def __call__(self, x_NI: Tensor) -> Tensor:
        return F.linear(as_dtype(x_NI, self.dtype), self._weight_OI)

    def padded_rows(self, num_rows: int) -> int:
        return num_rows


class HalfLinear:
    """The weight in float16, x and the sums in float32: FBGEMM's form. Half the memory of float32 without its error or
    overflow.

    Speed: a head [32128, 512] takes 1.45 ms for one row, PackedLinear 3.3 (float32) and 1.9 (bfloat16, as four rows);
    from some ten rows on it computes at float32's speed, half of bfloat16's (1 thread of Zen 4).
    """

    dtype = torch.float32

    def __init__(self, weight_OI: Tensor) -> None:
        self._weight = torch.ops.quantized.linear_prepack_fp16(weight_OI, None)

    def __call__(self, x_NI: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(as_dtype(x_NI, torch.float32), self._weight)
        return y

    def padded_rows(self, num_rows: int) -> int:
        return num_rows


class PackedLinear:
    """The weight in oneDNN's blocked layout, reordered once at load.

    Speed: `F.linear` gives oneDNN or MKL the plain layout each time. On two Zen 4 cores an [1152, 512] map takes 131 us
    instead of 225 (float32) and 57 instead of 118 (bfloat16) for four rows, and the head [32128, 512] 3.3 ms instead
    of 11.3 (float32, 1 thread). oneDNN reaches the memory's speed from three rows on.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        self.dtype = weight_OI.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI)

    def __call__(self, x_NI: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(as_dtype(x_NI, self.dtype), self._weight, None, "none", [], "")
        return y

    def padded_rows(self, num_rows: int) -> int:
        """Return 4, 6, 8, then multiples of 4 up to 64, of 8 up to 128, of 16 up to 256 and so on.

        oneDNN compiles a product for each number of rows it meets: about 0.6 ms and 0.4 MB each, which it keeps. Texts
        of 1 to 150 tokens one by one made that 400 MB. It also multiplies four rows faster than one, and six as fast
        as four.
        """
        if num_rows <= 8:
            return max(4, num_rows + num_rows % 2)
        step = 4 if num_rows <= 64 else max(8, (1 << (num_rows - 1).bit_length()) // 16)
        return -(-num_rows // step) * step

    def activated(self, x_NI: Tensor, activation: str) -> Tensor:
        """Return activation(x W^T) [N, O], the non-linearity computed in float32 before the result is rounded."""
        name, algorithm = _POST_OPS[activation]
        x = as_dtype(x_NI, self.dtype)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, name, [], algorithm)
        return y

    def times(self, x_NI: Tensor, other_NO: Tensor) -> Tensor:
        """Return (x W^T) * other, [N, O], multiplied in float32 before the result is rounded."""
        x = as_dtype(x_NI, self.dtype)
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other_NO, self._weight, None, "mul")
        return y


_POST_OPS = {"relu": ("relu", ""), "gelu_tanh": ("gelu", "tanh"), "gelu": ("gelu", "none"), "silu": ("swish", "")}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "silu": F.silu,
}
"""T5Config.activation -> the function."""


class FeedForward(Protocol):
    """The feed-forward layer without its norm and residual."""

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Return wo(act(wi_0 x) * wi_1 x), or wo(act(wi x)), [N, D]."""
        ...


class FusedFeedForward:
    """wi_0 and wi_1 in one product: fewer calls, best for the decoder's few rows."""

    def __init__(self, wi: Linear, wo: Linear, *, activation: str, is_gated: bool) -> None:
        self._wi, self._wo = wi, wo
        self._activate = ACTIVATIONS[activation]
        self._is_gated = is_gated

    def __call__(self, x_ND: Tensor) -> Tensor:
        # Numerics: activation and gate are formed in float32 and rounded once. With bfloat16 weights 63 of 64 greedy
        # answers of FLAN-T5-small are float32's then, as many as if only the weights were rounded; with bfloat16 gates
        # 61.
        inner = as_dtype(self._wi(x_ND), torch.float32)
        if not self._is_gated:
            return self._wo(self._activate(inner))
        gate_NF, value_NF = inner.chunk(2, dim=-1)
        return self._wo(self._activate(gate_NF).mul_(value_NF))


class PostOpFeedForward:
    """Activation and gate done by oneDNN while it writes the products: no pass over [N, F] of their own.

    Speed: wi of 128 rows takes 1.41 ms instead of 1.65 (bfloat16), 2.75 instead of 2.98 (float32, 1 thread).
    """

    def __init__(self, wi_0: PackedLinear, wi_1: PackedLinear | None, wo: PackedLinear, *, activation: str) -> None:
        self._wi_0, self._wi_1, self._wo = wi_0, wi_1, wo
        self._activation = activation

    def __call__(self, x_ND: Tensor) -> Tensor:
        x_ND = as_dtype(x_ND, self._wi_0.dtype)
        inner_NF = self._wi_0.activated(x_ND, self._activation)
        if self._wi_1 is not None:
            inner_NF = self._wi_1.times(x_ND, inner_NF)
        return self._wo(inner_NF)


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return whether this PyTorch and processor have `PackedLinear` for weights of `dtype`.

    The operators are PyTorch's own for compiled models, not part of its documented API, so they are tried on a small
    product with every post-operation rather than trusted.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    x_NI, weight_OI = (part.to(dtype) for part in _trial())
    expected_NO = x_NI.float() @ weight_OI.float().T
    try:
        if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        packed = PackedLinear(weight_OI)
        results = [(packed(x_NI), expected_NO), (packed.times(x_NI, x_NI[:, :32]), expected_NO * x_NI[:, :32].float())]
        results += [(packed.activated(x_NI, name), function(expected_NO)) for name, function in ACTIVATIONS.items()]
    except (AttributeError, RuntimeError):
        return False
    tolerance = 1e-5 if dtype is torch.float32 else 1e-2
    return all(torch.allclose(y.float(), expected, rtol=tolerance, atol=tolerance) for y, expected in results)


@functools.cache
def has_half_linear() -> bool:
    """Return whether this PyTorch and processor have `HalfLinear`; tried, as in `can_pack`."""
    x_NI, weight_OI = _trial()
    try:
        y_NO = HalfLinear(weight_OI)(x_NI)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(y_NO, x_NI @ weight_OI.T, rtol=1e-5, atol=1e-5)


def _trial() -> tuple[Tensor, Tensor]:
    """Return an x [4, 48] and a weight [32, 48] of numbers that every dtype holds exactly."""
    weight_OI = (torch.arange(32 * 48).reshape(32, 48) % 13 - 6) / 8
    x_NI = (torch.arange(4 * 48).reshape(4, 48) % 7 - 3) / 8
    return x_NI, weight_OI


def make_linear(weight_OI: Tensor) -> Linear:
    """Return the fastest form that multiplies in the weight's own dtype on its device."""
    if weight_OI.device.type == "cpu" and can_pack(weight_OI.dtype):
        return PackedLinear(weight_OI.contiguous())
    return DenseLinear(weight_OI)

"""T5's norm: the root mean square alone; no mean is subtracted and no bias added."""

from typing import Any, cast

import torch
from torch import Tensor, nn


def normed(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return what `RMSNorm` returns, for any x [..., D] and weight [D]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(weight.dtype)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return what `normed` returns, keeping x alone for the gradients, which cannot be differentiated again.

    Autograd keeps two float32 copies and a rounded one beside x: in bfloat16 six times the memory.
    """
    return cast(Tensor, _RMSNormFunction.apply(x, weight, epsilon))


class _RMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(weight.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        # Speed: whole tensors are widened before they meet; operations on two dtypes take several times as long.
        unit, d_out = x.to(scale.dtype) * scale, d_out.to(scale.dtype)
        d_weight = (d_out * unit).flatten(0, -2).sum(0)
        d_unit = d_out * weight.to(scale.dtype)
        along = (d_unit * unit).mean(-1, keepdim=True)
        d_x = d_unit.addcmul_(unit, along, value=-1).mul_(scale)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis, given back in the weight's dtype.

    Numerics: the statistics are float32 whatever the input is (float64 stays float64).
    Source: mesh transformer.py `layer_norm`; t5x layers.py `LayerNorm`.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return normed(x, self.weight, self.epsilon)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, epsilon={self.epsilon}"

"""Muon: the momentum of a matrix, turned into the nearest matrix that changes all directions alike."""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from t5kit.training.config import MuonConfig, Precision

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration whose singular values come near 1, though not all to it, in few steps (Keller Jordan)."""
EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """One Muon over matrices, or over groups of them with their own lr and weight_decay.

    With the momentum m of the gradient g, the running mean of beta times itself and 1 - beta times g:

        p = p - lr * weight_decay * p - lr * scale(p) * orthogonal(g + beta * (m - g))          m alone without Nesterov

    where scale is 0.2 sqrt(max(rows, columns)), as large as AdamW's changes are, or sqrt(max(1, rows / columns)).
    Numerics: the iteration runs in `precision`, the run's own; in bfloat16 it is torch.optim.Muon's to the bit, which
    knows nothing else, though a processor without instructions for it takes many times as long.
    Source: Keller Jordan, "Muon: an optimizer for hidden layers"; Liu and others, "Muon is scalable for LLM training".
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        config: MuonConfig,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(cast("Iterable[Tensor]", params), {"lr": lr, "weight_decay": weight_decay})
        self.config = config
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        config, state = self.config, self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - config.momentum)
        turned = gradient.lerp(momentum, config.momentum) if config.uses_nesterov else momentum
        change = orthogonal(turned, num_iterations=config.num_iterations, dtype=self._dtype)
        rows, columns = parameter.shape
        as_adamw = config.scale == "match_rms_adamw"
        scale = 0.2 * math.sqrt(max(rows, columns)) if as_adamw else math.sqrt(max(1, rows / columns))
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(change, alpha=-lr * scale)


def orthogonal(matrix: Tensor, *, num_iterations: int, dtype: torch.dtype) -> Tensor:
    """Return a matrix [M, N] of the same singular vectors, with singular values near 1, by Newton-Schulz in dtype."""
    is_tall = matrix.size(0) > matrix.size(1)
    x = (matrix.T if is_tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=EPSILON)
    first, third, fifth = COEFFICIENTS
    for _ in range(num_iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.T if is_tall else x

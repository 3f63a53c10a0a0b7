"""AdamW whose step is relative to the parameter, nanoT5's way to Adafactor's scale with Adam's moments."""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from t5kit.training.config import AdamWRmsConfig


class AdamWRms(torch.optim.Optimizer):
    """One RMS-scaled AdamW over parameters, or over groups of them with their own lr and weight_decay.

    At step t (from 1), with the running means m of g and v of g^2, all in p's dtype:

        p = p - lr * max(min_parameter_rms, RMS(p)) * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)
        p = p - lr * weight_decay * p                                            without the RMS, and after the step

    Source: nanoT5 `AdamWScale`, which trained T5-base with lr 2e-2.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        config: AdamWRmsConfig,
    ) -> None:
        super().__init__(cast("Iterable[Tensor]", params), {"lr": lr, "weight_decay": weight_decay})
        self.config = config

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.to(parameter.dtype), group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        config, state = self.config, self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step = int(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - config.beta1)
        state["exp_avg_sq"].mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
        correction = math.sqrt(1 - config.beta2**step) / (1 - config.beta1**step)
        rms = parameter.square().mean().sqrt().clamp_(min=config.min_parameter_rms)
        update = state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(config.epsilon)
        parameter.sub_(update.mul_(rms * (lr * correction)))
        if weight_decay:
            parameter.mul_(1 - lr * weight_decay)

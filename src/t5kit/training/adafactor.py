"""Adafactor as t5x and mesh run it, which is not what Hugging Face's class of that name does.

Three differences decide whether T5's published settings work: small tensors keep their whole second moment (the rule of
128), larger ones are factored over their two largest dimensions, and the step is relative to the parameter's RMS.
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from t5kit.errors import ConfigError
from t5kit.training.config import AdafactorConfig


def factored_dims(shape: tuple[int, ...], config: AdafactorConfig) -> tuple[int, int] | None:
    """Return the second largest and the largest dimension, or None where the whole second moment is kept.

    Of equal sizes the later dimension counts as larger. Source: t5x adafactor.py `_factored_dims`.
    Example (min_dim_size_to_factor 128): [512, 1024] -> (0, 1); [1024, 512] -> (1, 0); [32, 8] -> None.
    """
    if not config.is_factored or len(shape) < 2:
        return None
    *_, second, largest = sorted(range(len(shape)), key=lambda dim: shape[dim])
    return (second, largest) if shape[second] >= config.min_dim_size_to_factor else None


def adafactor_slots(shape: tuple[int, ...], config: AdafactorConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of what Adafactor remembers of a parameter of this shape."""
    slots: dict[str, tuple[int, ...]] = {"step": ()}
    dims = factored_dims(shape, config)
    if dims is None:
        slots["v"] = shape
    else:
        second, largest = dims
        slots["v_row"] = tuple(size for dim, size in enumerate(shape) if dim != largest)
        slots["v_col"] = tuple(size for dim, size in enumerate(shape) if dim != second)
    if config.beta1:
        slots["m"] = shape
    return slots


class Adafactor(torch.optim.Optimizer):
    """One Adafactor over parameters, or over groups of them with their own lr and weight_decay.

    For a gradient g of a parameter p at step t (from 0), all in p's dtype:

        decay = 1 - (t - step_offset + 1)^-0.8
        V = decay * V + (1 - decay) * (g^2 + epsilon1)           kept whole, or as means over rows and columns
        u = g / sqrt(V);  u /= max(1, RMS(u) / clipping_threshold)
        p = p * (1 - weight_decay * lr^exponent) - lr * max(epsilon2, RMS(p)) * u

    Source: Shazeer and Stern 2018; t5x adafactor.py `apply_param_gradient`.
    Raises: ConfigError in `step` if step_offset is above the steps made.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        config: AdafactorConfig,
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
        dims = factored_dims(tuple(parameter.shape), config)
        if not state:
            for name, shape in adafactor_slots(tuple(parameter.shape), config).items():
                if name == "step":
                    state[name] = torch.zeros(())
                else:  # zeros_like keeps the shards of a sharded parameter; row and column means are small
                    is_whole = shape == parameter.shape
                    state[name] = torch.zeros_like(parameter) if is_whole else parameter.new_zeros(shape)
        decay = self._decay(int(state["step"]))
        squared = gradient.square().add_(config.epsilon1)
        if dims is None:
            state["v"].mul_(decay).add_(squared, alpha=1 - decay)
            update = state["v"].rsqrt().mul_(gradient)
        else:
            second, largest = dims
            state["v_row"].mul_(decay).add_(squared.mean(largest), alpha=1 - decay)
            state["v_col"].mul_(decay).add_(squared.mean(second), alpha=1 - decay)
            # v_row has lost the largest dimension; the second largest may have moved up by it.
            mean = state["v_row"].mean(second - (largest < second), keepdim=True)
            update = gradient * (state["v_row"] / mean).rsqrt_().unsqueeze(largest)
            update.mul_(state["v_col"].rsqrt().unsqueeze(second))
        scale = _rms(parameter).clamp_(min=config.epsilon2) if config.multiplies_by_parameter_scale else 1.0
        if config.clipping_threshold:
            scale = scale / (_rms(update) / config.clipping_threshold).clamp_(min=1.0)
        update.mul_(scale * lr)
        if config.beta1:
            update = state["m"].mul_(config.beta1).add_(update, alpha=1 - config.beta1)
        if weight_decay:
            parameter.mul_(1 - weight_decay * lr**config.weight_decay_lr_exponent)
        parameter.sub_(update)
        state["step"] += 1

    def _decay(self, step: int) -> float:
        """Return the share of the past that the second moment keeps."""
        num_steps = step - self.config.step_offset + 1
        if num_steps < 1:
            raise ConfigError(
                f"optimizer.adafactor.step_offset = {self.config.step_offset} is above the {step} steps this optimizer "
                "has made. Use 0 to start the decay with this run."
            )
        return 1.0 - math.pow(num_steps, -self.config.decay_exponent)


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()

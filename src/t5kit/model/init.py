"""T5's initialisation, as mesh and t5x draw it.

Hugging Face (modeling_t5.py `_init_weights`, transformers 5.23) differs in three places: its untied head is N(0, 1), so
that training starts at a loss of about 110 instead of ln(vocabulary); wi and wo are not truncated; the position tables
are N(0, 1/D).
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from t5kit.config import T5Config

# The standard deviation of a normal distribution cut at two deviations; dividing by it restores the wanted one, as
# jax.nn.initializers.variance_scaling and TensorFlow's VarianceScaling do.
_TRUNCATED_DEVIATION = 0.87962566103423978


@dataclasses.dataclass(frozen=True)
class Distribution:
    """How one tensor is drawn: `scale` is the standard deviation, the limit of "uniform", or the "constant"."""

    kind: Literal["normal", "truncated_normal", "uniform", "constant"]
    scale: float


def distribution_of(name: str, config: T5Config) -> Distribution:
    """Return how the parameter of this name (as in `tensor_shapes`) starts. Source: t5x network.py and layers.py.

    T5: q carries the 1/sqrt(E) that the attention lacks.
    """
    d, inner = config.d_model, config.inner_width
    module = name.split(".")[-2]
    if module.endswith("layer_norm"):
        return Distribution("constant", 1.0)
    if module == "shared":
        # Nobody published a tied model without scaling that was trained from scratch; this starts it near ln(V) too.
        is_unscaled_head = config.is_tied and not config.scales_logits
        return Distribution("normal", d**-0.5 if is_unscaled_head else 1.0)
    if module == "relative_attention_bias":
        # Glorot-uniform over [heads, buckets].
        return Distribution("uniform", (6 / (config.num_heads + config.relative_attention_num_buckets)) ** 0.5)
    if module == "q":
        return Distribution("normal", (d * config.d_kv) ** -0.5)
    if module in ("k", "v"):
        return Distribution("normal", d**-0.5)
    if module == "o":
        return Distribution("normal", inner**-0.5)
    if module in ("wi", "wi_0", "wi_1", "lm_head"):
        return Distribution("truncated_normal", d**-0.5)
    if module == "wo":
        return Distribution("truncated_normal", config.d_ff**-0.5)
    assert module in ("dense", "out_proj", "classifier"), name
    # Classification heads are Hugging Face's invention; its classifier is N(0, 1), whose logits would be sqrt(D) wide.
    return Distribution("constant", 0.0) if name.endswith("bias") else Distribution("normal", d**-0.5)


def draw(shape: torch.Size, distribution: Distribution, generator: torch.Generator) -> Tensor:
    """Return a float32 tensor of this shape on the generator's device."""
    values = torch.empty(shape, dtype=torch.float32, device=generator.device)
    scale = distribution.scale
    if distribution.kind == "normal":
        return values.normal_(0, scale, generator=generator)
    if distribution.kind == "truncated_normal":
        deviation = scale / _TRUNCATED_DEVIATION
        return nn.init.trunc_normal_(values, 0, deviation, -2 * deviation, 2 * deviation, generator=generator)
    if distribution.kind == "uniform":
        return values.uniform_(-scale, scale, generator=generator)
    return values.fill_(scale)

"""Models small enough to test with, one of each family, with random weights that are not degenerate."""

import dataclasses

import numpy as np

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config, tensor_shapes

_TINY = T5Config(
    vocab_size=96,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_heads=3,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.0,
)

TINY_CONFIGS: dict[str, T5Config] = {
    "t5": dataclasses.replace(_TINY, uses_gated_mlp=False, activation="relu", is_tied=True, scales_logits=True),
    "t5_v1_1": _TINY,
    "mt5": dataclasses.replace(_TINY, vocab_size=160),
    "umt5": dataclasses.replace(_TINY, has_bias_per_layer=True),
    "byt5": dataclasses.replace(_TINY, vocab_size=384, num_encoder_layers=3, num_decoder_layers=1),
    "tied_unscaled": dataclasses.replace(_TINY, is_tied=True),
}
"""A family's name -> an architecture of some ten thousand parameters that has every peculiarity of that family."""


def random_tensors(config: T5Config, *, seed: int = 0) -> list[TensorView]:
    """Return one float32 tensor for every name of `tensor_shapes(config)`, equal for equal seeds.

    Deviations follow T5's initialisation, but the position tables and the head are larger, so that answers depend on
    the positions and greedy decoding does not repeat one token.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    views = []
    for name, shape in tensor_shapes(config).items():
        if name.endswith("layer_norm.weight"):
            values = 1 + 0.2 * generator.standard_normal(shape)
        elif "relative_attention_bias" in name or name.endswith(("bias", "shared.weight")):
            values = generator.standard_normal(shape)
        elif name == "lm_head.weight":
            values = 3 * generator.standard_normal(shape) / np.sqrt(shape[1])
        else:
            values = 1.5 * generator.standard_normal(shape) / np.sqrt(shape[-1])
        views.append(TensorView.from_array(name, np.ascontiguousarray(values, np.float32)))
    return views

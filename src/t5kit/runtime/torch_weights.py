"""A T5's weights as the torch runtime wants them: fused, converted and packed, each tensor held once.

Dimension letters: D d_model, I all heads' width (num_heads * d_kv), V vocabulary, R buckets, H heads.
"""

import dataclasses

import torch
from torch import Tensor

from t5kit.config import Head, T5Config
from t5kit.runtime.torch_linear import FeedForward, FusedFeedForward, Linear, PostOpFeedForward, RmsNorm
from t5kit.runtime.torch_store import TensorStore


@dataclasses.dataclass(frozen=True, eq=False)
class EncoderLayer:
    """One encoder block."""

    attention_norm: RmsNorm
    qkv: Linear
    """[3 I, D]: queries, keys, values of all heads, one under the other."""
    o: Linear
    """[D, I]."""
    feed_forward_norm: RmsNorm
    feed_forward: FeedForward


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderLayer:
    """One decoder block. Its cross-attention keys and values are in `DecoderWeights.cross_kv`."""

    self_norm: RmsNorm
    qkv: Linear
    """[3 I, D]."""
    self_o: Linear
    """[D, I]."""
    cross_norm: RmsNorm
    cross_q: Linear
    """[I, D]."""
    cross_o: Linear
    """[D, I]."""
    feed_forward_norm: RmsNorm
    feed_forward: FeedForward


@dataclasses.dataclass(frozen=True, eq=False)
class EncoderWeights:
    """The encoder stack."""

    layers: tuple[EncoderLayer, ...]
    final_norm: RmsNorm
    position_tables: Tensor
    """[layers that own a table, R, H] float32, on the CPU."""


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderWeights:
    """The decoder stack and the head."""

    layers: tuple[DecoderLayer, ...]
    final_norm: RmsNorm
    position_tables: Tensor
    """[layers that own a table, R, H] float32, on the CPU."""
    cross_kv: Linear
    """[layers * 2 * I, D]: every layer's cross-attention keys and values from the encoder's states in one product."""
    head: Linear
    """[V, D]; its results are float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """A whole model."""

    dtype: torch.dtype
    """What embedding and linear maps are stored in."""
    device: torch.device
    embedding: Tensor
    """[V, D]."""
    encoder: EncoderWeights
    decoder: DecoderWeights | None
    """None where the head does not generate."""


def build_weights(config: T5Config, store: TensorStore) -> Weights:
    """Take everything out of the store, layer by layer, so that at no time much is held twice."""
    return Weights(
        dtype=store.dtype,
        device=store.device,
        embedding=store.embedding("shared.weight", is_used_again=config.is_tied),
        encoder=_encoder_weights(config, store),
        decoder=_decoder_weights(config, store) if config.head is Head.LANGUAGE_MODEL else None,
    )


def _encoder_weights(config: T5Config, store: TensorStore) -> EncoderWeights:
    tables = _position_tables(config, store, "encoder", config.num_encoder_layers)
    layers = []
    for i in range(config.num_encoder_layers):
        attention, mlp = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        layers.append(
            EncoderLayer(
                attention_norm=store.norm(f"{attention}.layer_norm.weight"),
                qkv=store.linear(*(f"{attention}.SelfAttention.{part}.weight" for part in "qkv")),
                o=store.linear(f"{attention}.SelfAttention.o.weight"),
                feed_forward_norm=store.norm(f"{mlp}.layer_norm.weight"),
                feed_forward=_wide_feed_forward(config, store, f"{mlp}.DenseReluDense"),
            )
        )
    return EncoderWeights(tuple(layers), store.norm("encoder.final_layer_norm.weight"), tables)


def _decoder_weights(config: T5Config, store: TensorStore) -> DecoderWeights:
    tables = _position_tables(config, store, "decoder", config.num_decoder_layers)
    blocks = [f"decoder.block.{i}" for i in range(config.num_decoder_layers)]
    cross_kv = store.linear(*(f"{block}.layer.1.EncDecAttention.{part}.weight" for block in blocks for part in "kv"))
    layers = []
    for block in blocks:
        own, cross, mlp = f"{block}.layer.0", f"{block}.layer.1", f"{block}.layer.2"
        layers.append(
            DecoderLayer(
                self_norm=store.norm(f"{own}.layer_norm.weight"),
                qkv=store.linear(*(f"{own}.SelfAttention.{part}.weight" for part in "qkv")),
                self_o=store.linear(f"{own}.SelfAttention.o.weight"),
                cross_norm=store.norm(f"{cross}.layer_norm.weight"),
                cross_q=store.linear(f"{cross}.EncDecAttention.q.weight"),
                cross_o=store.linear(f"{cross}.EncDecAttention.o.weight"),
                feed_forward_norm=store.norm(f"{mlp}.layer_norm.weight"),
                feed_forward=_narrow_feed_forward(config, store, f"{mlp}.DenseReluDense"),
            )
        )
    head = store.head("shared.weight" if config.is_tied else "lm_head.weight")
    return DecoderWeights(tuple(layers), store.norm("decoder.final_layer_norm.weight"), tables, cross_kv, head)


def _position_tables(config: T5Config, store: TensorStore, stack: str, num_layers: int) -> Tensor:
    owners = range(num_layers) if config.has_bias_per_layer else range(1)
    names = [f"{stack}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight" for i in owners]
    return torch.stack([store.table(name) for name in names])


def _wide_feed_forward(config: T5Config, store: TensorStore, name: str) -> FeedForward:
    """Return the form for many rows (the encoder)."""
    if not store.can_pack:
        return _narrow_feed_forward(config, store, name)
    parts = ("wi_0", "wi_1", "wo") if config.uses_gated_mlp else ("wi", "wo")
    first, *second, wo = (store.packed_linear(f"{name}.{part}.weight") for part in parts)
    return PostOpFeedForward(first, second[0] if second else None, wo, activation=config.activation)


def _narrow_feed_forward(config: T5Config, store: TensorStore, name: str) -> FeedForward:
    """Return the form for few rows (the decoder)."""
    inputs = ("wi_0", "wi_1") if config.uses_gated_mlp else ("wi",)
    wi = store.linear(*(f"{name}.{part}.weight" for part in inputs))
    # T5: in float16 the sums of wo leave the range (T5_FACTS "fp16"; Hugging Face keeps wo in float32 too).
    wo = store.linear(f"{name}.wo.weight", may_overflow=True)
    return FusedFeedForward(wi, wo, activation=config.activation, is_gated=config.uses_gated_mlp)

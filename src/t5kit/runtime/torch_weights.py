"""A T5's weights as the torch runtime wants them: fused, converted and packed, each tensor held once.

Dimension letters: D d_model, I all heads' width (num_heads * d_kv), F d_ff, V vocabulary, R buckets, H heads.
"""

import dataclasses
import math
import mmap
import sys
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import Head, T5Config, tensor_shapes
from t5kit.errors import CheckpointError, EngineError
from t5kit.runtime.torch_linear import (
    FeedForward,
    FusedFeedForward,
    HalfLinear,
    Linear,
    PackedLinear,
    PostOpFeedForward,
    RmsNorm,
    has_half_linear,
    make_linear,
)

_MAX_FLOAT16 = 65504.0
_STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


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


class TensorStore:
    """Named tensors of a model on their way into `Weights`; what is taken is dropped here.

    Raises: EngineError if a tensor of the architecture is missing or misshapen, CheckpointError for a dtype that is no
    float, or (float16) a value beyond its range.
    """

    def __init__(
        self,
        config: T5Config,
        tensors: Mapping[str, TensorView] | Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.dtype, self.device = dtype, device
        self._epsilon = config.layer_norm_epsilon
        self._prefix = "transformer." if config.is_classifier else ""
        shapes = tensor_shapes(config)
        missing = [name for name in shapes if name not in tensors]
        if missing:
            raise EngineError(f"The torch runtime was given no tensor {missing[0]!r} ({len(missing)} missing in all).")
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != shape:
                raise EngineError(f"Tensor {name!r} is {list(tensors[name].shape)}; expected {list(shape)}.")
        self._tensors: dict[str, TensorView | Tensor] = {name: tensors[name] for name in shapes}
        self._read: list[TensorView] = []

    def take(self, *names: str, dtype: torch.dtype | None = None, is_shared: bool = False) -> Tensor:
        """Return the named tensors one under the other, on the device, as `dtype` (the store's, unless given).

        What is returned may lie in the caller's memory (a mapped file, a live module): copy what is kept. `is_shared`
        keeps the tensors here for a second use.
        """
        dtype = dtype or self.dtype
        parts = []
        for name in names:
            stored = self._tensors[self._prefix + name] if is_shared else self._tensors.pop(self._prefix + name)
            part = _as_torch(stored) if isinstance(stored, TensorView) else stored.detach()
            if dtype is torch.float16:
                _check_float16(part, name)
            parts.append(part.to(self.device, dtype))
            if isinstance(stored, TensorView):
                self._read.append(stored)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _forget_read_pages(self) -> None:
        """Let the pages of mapped files go that tensors have been taken from, so that they do not count as our memory.

        They stay in the system's file cache, and the mapping stays valid: whatever still reads it gets them back.
        """
        for view in self._read:
            mapped = view.data.obj
            if isinstance(mapped, mmap.mmap) and sys.platform == "linux":
                begin = np.frombuffer(view.data, np.uint8).ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
                first, last = -(-begin // mmap.PAGESIZE), (begin + view.size_bytes) // mmap.PAGESIZE
                if first < last:
                    mapped.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)
        self._read.clear()

    def embedding(self, name: str, *, is_shared: bool) -> Tensor:
        """Return the embedding [V, D]."""
        embedding_VD = self.take(name, is_shared=is_shared).clone()
        self._forget_read_pages()
        return embedding_VD

    def linear(self, *names: str, is_wo: bool = False) -> Linear:
        """Return one map for the named weights, their outputs one after the other; `is_wo` marks the feed-forward's
        second."""
        dtype = self.dtype
        is_half = dtype is torch.float16 and self._may_use_half()
        if is_half:
            for name in names:
                _check_float16(self._tensors[self._prefix + name], name)
        # T5: in float16 the sums of wo leave the range (T5_FACTS "fp16"; Hugging Face keeps wo in float32 too).
        if is_half or (dtype is torch.float16 and is_wo):
            dtype = torch.float32
        weight_OI = self.take(*names, dtype=dtype)
        linear = HalfLinear(weight_OI) if is_half else make_linear(weight_OI)
        self._forget_read_pages()
        return linear

    def head(self, name: str, *, is_shared: bool) -> Linear:
        """Return the head, whose logits are float32 in every dtype.

        Numerics: logits rounded to bfloat16 tie and flip (their step is 0.06 at 8 to 16): 60 of 64 greedy answers of
        FLAN-T5-small are float32's then, 63 with float32 logits.
        """
        weight_VD = self.take(name, dtype=torch.float32, is_shared=is_shared)
        # Speed: float16 has three bits more than bfloat16 and half the bytes of float32; a reduced model's head is
        # read in it.
        is_half = self.dtype is not torch.float32 and self._may_use_half() and weight_VD.abs().max() <= _MAX_FLOAT16
        head = HalfLinear(weight_VD) if is_half else make_linear(weight_VD)
        self._forget_read_pages()
        return head

    def _may_use_half(self) -> bool:
        return self.device.type == "cpu" and has_half_linear()

    def norm(self, name: str) -> RmsNorm:
        """Return the norm whose weight is `name`."""
        return RmsNorm(self.take(name, dtype=torch.float32).clone(), epsilon=self._epsilon)


def _as_torch(view: TensorView) -> Tensor:
    """Return the view's values, uncopied where PyTorch has the dtype (the memory may be read-only: never write)."""
    dtype = _STORED_DTYPES.get(view.dtype)
    if dtype is None:  # F64; anything that is no float is refused by to_float32
        return torch.from_numpy(view.to_float32())
    if not math.prod(view.shape):
        return torch.empty(view.shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(view.data, dtype=dtype).reshape(view.shape)


def _check_float16(values: TensorView | Tensor, name: str) -> None:
    """Raise CheckpointError if a value is beyond float16."""
    tensor = _as_torch(values) if isinstance(values, TensorView) else values
    if tensor.numel() and not tensor.detach().abs().max() <= _MAX_FLOAT16:
        raise CheckpointError(
            f"Tensor {name!r} holds values beyond float16's 65504. Use weights='bfloat16' or 'float32'."
        )


def prevailing_dtype(tensors: Iterable[TensorView]) -> torch.dtype:
    """Return the dtype that most of the tensors' bytes are in; float64 counts as float32."""
    sizes: dict[torch.dtype, int] = {torch.float32: 0}
    for view in tensors:
        dtype = _STORED_DTYPES.get(view.dtype, torch.float32)
        sizes[dtype] = sizes.get(dtype, 0) + view.size_bytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def build_weights(config: T5Config, store: TensorStore) -> Weights:
    """Take everything out of the store, layer by layer, so that at no time much is held twice."""
    return Weights(
        dtype=store.dtype,
        device=store.device,
        embedding=store.embedding("shared.weight", is_shared=config.is_tied),
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
    head = store.head("shared.weight" if config.is_tied else "lm_head.weight", is_shared=config.is_tied)
    return DecoderWeights(tuple(layers), store.norm("decoder.final_layer_norm.weight"), tables, cross_kv, head)


def _position_tables(config: T5Config, store: TensorStore, stack: str, num_layers: int) -> Tensor:
    owners = range(num_layers) if config.has_bias_per_layer else range(1)
    names = [f"{stack}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight" for i in owners]
    return torch.stack([store.take(name, dtype=torch.float32).cpu() for name in names])


def _wide_feed_forward(config: T5Config, store: TensorStore, name: str) -> FeedForward:
    """Return the form for many rows (the encoder)."""
    wo = store.linear(f"{name}.wo.weight", is_wo=True)
    inputs = ("wi_0", "wi_1") if config.uses_gated_mlp else ("wi",)
    if not isinstance(wo, PackedLinear):
        wi = store.linear(*(f"{name}.{part}.weight" for part in inputs))
        return FusedFeedForward(wi, wo, activation=config.activation, is_gated=config.uses_gated_mlp)
    maps = [store.linear(f"{name}.{part}.weight") for part in inputs]
    first, second = maps[0], maps[-1] if config.uses_gated_mlp else None
    assert isinstance(first, PackedLinear) and (second is None or isinstance(second, PackedLinear))
    return PostOpFeedForward(first, second, wo, activation=config.activation)


def _narrow_feed_forward(config: T5Config, store: TensorStore, name: str) -> FeedForward:
    """Return the form for few rows (the decoder)."""
    inputs = ("wi_0", "wi_1") if config.uses_gated_mlp else ("wi",)
    wi = store.linear(*(f"{name}.{part}.weight" for part in inputs))
    wo = store.linear(f"{name}.wo.weight", is_wo=True)
    return FusedFeedForward(wi, wo, activation=config.activation, is_gated=config.uses_gated_mlp)

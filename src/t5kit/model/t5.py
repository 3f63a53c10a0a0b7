"""The whole architecture: two stacks of pre-norm blocks over one embedding, and a head.

    encoder ids -> embedding -> [ self-attention, feed-forward ] x L -> norm -> encoder hidden
    decoder ids -> embedding -> [ causal self-attention, cross-attention, feed-forward ] x L -> norm -> head -> logits

`T5Encoder` is the first line, `T5EncoderDecoder` both without the head, `T5` everything; classifiers stand in heads.py.
Parameters have the names of the home layout (`tensor_shapes`), so folders load as they are. Construct models with
`fresh_model` or `load_model` (loading.py): a constructor alone leaves PyTorch's initialisation, which is not T5's.

Letters: B batch, S encoder length, T decoder length, K keys, D d_model, H heads, E head width, V vocabulary.

Numerics: with float16 weights the residual stream, which outgrows float16, is float32, and products are float16. With
bfloat16 weights, in which T5 was trained, all of it is bfloat16. Norms and softmax compute in float32.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from t5kit.config import Head, T5Config
from t5kit.errors import ConfigError, EngineError, RequestError
from t5kit.model.attention import CrossAttentionLayer, SelfAttentionLayer, attention_dtype
from t5kit.model.cache import DecoderCacheState, LayerCache
from t5kit.model.dropout import Dropout, DropoutBroadcast
from t5kit.model.embedding import Embedding
from t5kit.model.feed_forward import FeedForwardLayer
from t5kit.model.masks import (
    additive_mask,
    both,
    causal_mask,
    check_attention_mask,
    check_segment_ids,
    visible_keys,
)
from t5kit.model.norm import RMSNorm


class EncoderBlock(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: T5Config, dropout_broadcast: DropoutBroadcast, *, index: int) -> None:
        super().__init__()
        self_attention = SelfAttentionLayer(config, dropout_broadcast, index=index, is_bidirectional=True)
        self.layer = nn.ModuleList([self_attention, FeedForwardLayer(config, dropout_broadcast)])

    def forward(self, x_BSD: Tensor, bias: Tensor | None, visible: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return [B, S, D], and self-attention's bias (positions and mask) for the blocks that own no table.

        bias: the one the block before gave back, None at the first. visible: boolean over [B, H, S, S] (masks.py).
        """
        self_attention, feed_forward = self.layer
        x_BSD, bias = self_attention(x_BSD, bias, visible)
        return feed_forward(x_BSD), bias


class DecoderBlock(nn.Module):
    """Causal self-attention, attention over the encoder's states, feed-forward."""

    def __init__(self, config: T5Config, dropout_broadcast: DropoutBroadcast, *, index: int) -> None:
        super().__init__()
        self_attention = SelfAttentionLayer(config, dropout_broadcast, index=index, is_bidirectional=False)
        cross_attention = CrossAttentionLayer(config, dropout_broadcast)
        self.layer = nn.ModuleList([self_attention, cross_attention, FeedForwardLayer(config, dropout_broadcast)])

    def forward(
        self,
        x_BTD: Tensor,
        bias: Tensor | None,
        visible: Tensor,
        encoder_hidden_BSD: Tensor,
        cross_bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return [B, T, D] for whole sequences, and the self-attention bias as `EncoderBlock.forward` does.

        visible: boolean over [B, H, T, T]; cross_bias: what to add to the scores of cross-attention, over [B, H, T, S].
        """
        self_attention, cross_attention, feed_forward = self.layer
        x_BTD, bias = self_attention(x_BTD, bias, visible)
        x_BTD = cross_attention(x_BTD, *self.cross_keys_values(encoder_hidden_BSD), cross_bias)
        return feed_forward(x_BTD), bias

    def step(
        self, x_BTD: Tensor, bias: Tensor | None, visible: Tensor, cache: LayerCache, cross_bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the same for T new tokens after those in the cache, and put them into it."""
        self_attention, cross_attention, feed_forward = self.layer
        x_BTD, bias = self_attention(x_BTD, bias, visible, cache)
        x_BTD = cross_attention(x_BTD, cache.cross_k, cache.cross_v, cross_bias)
        return feed_forward(x_BTD), bias

    def cross_keys_values(self, encoder_hidden_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-attention's keys and values, both [B, H, S, E]."""
        return cast(CrossAttentionLayer, self.layer[1]).EncDecAttention.keys_values(encoder_hidden_BSD)


def run_block(block: nn.Module, *inputs: Tensor | None, recomputes: bool) -> tuple[Tensor, Tensor]:
    """Return block(*inputs); where `recomputes`, its inside is computed again in the backward pass, same dropout."""
    if recomputes and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class EncoderStack(nn.Module):
    """The encoder's blocks and final norm, over embedded tokens.

    recomputes_layers: while training, keep a block's inputs alone and compute its inside again for the gradients.
    """

    recomputes_layers = False

    def __init__(self, config: T5Config, dropout_broadcast: DropoutBroadcast) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            EncoderBlock(config, dropout_broadcast, index=i) for i in range(config.num_encoder_layers)
        )
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate, dropout_broadcast)

    def forward(self, x_BSD: Tensor, visible: Tensor | None) -> Tensor:
        """Return the hidden states [B, S, D]; visible is a boolean mask over [B, H, S, S] (masks.py)."""
        x_BSD, bias = self.dropout(_residual(x_BSD)), None
        for block in self.block:
            x_BSD, bias = run_block(block, x_BSD, bias, visible, recomputes=self.recomputes_layers)
        return self.dropout(self.final_layer_norm(x_BSD))


class DecoderStack(nn.Module):
    """The decoder's blocks and final norm, over embedded tokens.

    recomputes_layers: while training, keep a block's inputs alone and compute its inside again for the gradients.
    """

    recomputes_layers = False

    def __init__(self, config: T5Config, dropout_broadcast: DropoutBroadcast) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            DecoderBlock(config, dropout_broadcast, index=i) for i in range(config.num_decoder_layers)
        )
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate, dropout_broadcast)

    def forward(
        self, x_BTD: Tensor, visible: Tensor, encoder_hidden_BSD: Tensor, cross_visible: Tensor | None
    ) -> Tensor:
        """Return the hidden states [B, T, D]; the masks are boolean, over [B, H, T, T] and [B, H, T, S]."""
        cross_bias = additive_mask(cross_visible, attention_dtype(encoder_hidden_BSD))
        x_BTD, bias = self.dropout(_residual(x_BTD)), None
        for block in self.block:
            x_BTD, bias = run_block(
                block, x_BTD, bias, visible, encoder_hidden_BSD, cross_bias, recomputes=self.recomputes_layers
            )
        return self.dropout(self.final_layer_norm(x_BTD))

    def step(self, x_BTD: Tensor, visible: Tensor, cache: DecoderCacheState, cross_visible: Tensor | None) -> Tensor:
        """Return the hidden states [B, T, D] of new tokens, which go into the cache; masks as in `forward`."""
        cross_bias = additive_mask(cross_visible, cache.cross_kv.dtype)
        x_BTD, bias = self.dropout(_residual(x_BTD)), None
        for i, block in enumerate(self.block):
            x_BTD, bias = cast(DecoderBlock, block).step(x_BTD, bias, visible, cache.layer(i), cross_bias)
        cache.num_tokens += x_BTD.shape[1]
        return self.dropout(self.final_layer_norm(x_BTD))

    def cross_keys_values(self, encoder_hidden_BSD: Tensor) -> Tensor:
        """Return every layer's cross-attention keys and values, [L, 2, B, H, S, E]."""
        pairs = [cast(DecoderBlock, block).cross_keys_values(encoder_hidden_BSD) for block in self.block]
        return torch.stack([torch.stack(pair) for pair in pairs])


class T5Encoder(nn.Module):
    """The embedding and the encoder.

    dropout_broadcast: "none" as Hugging Face, "length" as t5x and mesh (dropout.py).
    Raises: EngineError for an encoder that attends locally (LongT5), which is not run here.
    """

    def __init__(self, config: T5Config, *, dropout_broadcast: DropoutBroadcast = "none") -> None:
        super().__init__()
        if config.encoder_attention != "full":
            raise EngineError(
                f"encoder_attention = {config.encoder_attention!r} (LongT5) cannot be run: only 'full' can."
            )
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = EncoderStack(config, dropout_broadcast)

    def encode(
        self,
        encoder_input_ids: Tensor,
        *,
        encoder_segment_ids: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the encoder's hidden states, [B, S, D]; what stands at padding means nothing.

        Shapes: encoder_input_ids [B, S]; encoder_segment_ids [B, S], integers with 0 at padding or a boolean mask with
        True at real tokens; encoder_attention_mask [B, S, S] or [B, H, S, S], boolean, on top of the segments. Without
        segments all tokens are real.
        Raises: RequestError for other shapes or dtypes.
        """
        batch_size, length = _check_ids("encoder_input_ids", encoder_input_ids)
        check_segment_ids("encoder_segment_ids", encoder_segment_ids, encoder_input_ids.shape)
        check_attention_mask(
            "encoder_attention_mask",
            encoder_attention_mask,
            num_queries=length,
            num_keys=length,
            batch_size=batch_size,
        )
        visible = visible_keys(encoder_segment_ids, encoder_segment_ids, encoder_attention_mask)
        # T5: the embedding is not multiplied by sqrt(D).
        return self.encoder(self.shared(encoder_input_ids), visible)

    def forward(
        self,
        *,
        encoder_input_ids: Tensor,
        encoder_segment_ids: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return what `encode` returns."""
        return self.encode(
            encoder_input_ids,
            encoder_segment_ids=encoder_segment_ids,
            encoder_attention_mask=encoder_attention_mask,
        )


class T5EncoderDecoder(T5Encoder):
    """Both stacks over one embedding, without a head."""

    def __init__(self, config: T5Config, *, dropout_broadcast: DropoutBroadcast = "none") -> None:
        super().__init__(config, dropout_broadcast=dropout_broadcast)
        self.decoder = DecoderStack(config, dropout_broadcast)

    def decode(
        self,
        decoder_input_ids: Tensor,
        encoder_hidden: Tensor,
        *,
        decoder_segment_ids: Tensor | None = None,
        encoder_segment_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        cross_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the decoder's hidden states for whole sequences, [B, T, D]: training and scoring.

        Shapes: decoder_input_ids [B, T] (the labels moved right behind the start token); encoder_hidden [B, S, D];
        segment ids [B, T] and [B, S] as in `encode`, the same number on both sides for the same text;
        decoder_attention_mask [B, T, T] on top of causality; cross_attention_mask [B, T, S]. Masks may have heads too.
        Raises: RequestError for other shapes or dtypes.
        """
        batch_size, length = _check_ids("decoder_input_ids", decoder_input_ids)
        num_keys = _check_encoder_hidden(encoder_hidden, batch_size, self.config)
        check_segment_ids("decoder_segment_ids", decoder_segment_ids, decoder_input_ids.shape)
        check_segment_ids("encoder_segment_ids", encoder_segment_ids, encoder_hidden.shape[:2])
        sizes = {"num_queries": length, "batch_size": batch_size}
        check_attention_mask("decoder_attention_mask", decoder_attention_mask, num_keys=length, **sizes)
        check_attention_mask("cross_attention_mask", cross_attention_mask, num_keys=num_keys, **sizes)
        causal = causal_mask(length, length, first_query=0, device=decoder_input_ids.device)
        visible = both(visible_keys(decoder_segment_ids, decoder_segment_ids, decoder_attention_mask), causal)
        cross_visible = visible_keys(decoder_segment_ids, encoder_segment_ids, cross_attention_mask)
        return self.decoder(self.shared(decoder_input_ids), visible, encoder_hidden, cross_visible)

    def hidden(
        self,
        *,
        encoder_input_ids: Tensor,
        decoder_input_ids: Tensor,
        encoder_segment_ids: Tensor | None = None,
        decoder_segment_ids: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        cross_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the decoder's hidden states [B, T, D] of a batch; arguments as `encode` and `decode` describe them."""
        encoder_hidden = self.encode(
            encoder_input_ids,
            encoder_segment_ids=encoder_segment_ids,
            encoder_attention_mask=encoder_attention_mask,
        )
        return self.decode(
            decoder_input_ids,
            encoder_hidden,
            decoder_segment_ids=decoder_segment_ids,
            encoder_segment_ids=encoder_segment_ids,
            decoder_attention_mask=decoder_attention_mask,
            cross_attention_mask=cross_attention_mask,
        )

    @torch.no_grad()
    def start_cache(
        self, encoder_hidden: Tensor, *, capacity: int, encoder_segment_ids: Tensor | None = None
    ) -> DecoderCacheState:
        """Return the memory for decoding one text a row, up to `capacity` tokens: the caller owns it.

        Shapes: encoder_hidden [B, S, D]; encoder_segment_ids [B, S] tell the padding (0 or False).
        Cross-attention's keys and values are computed here, once. Gradients do not flow through a cache.
        """
        _check_encoder_hidden(encoder_hidden, encoder_hidden.shape[0], self.config)
        check_segment_ids("encoder_segment_ids", encoder_segment_ids, encoder_hidden.shape[:2])
        if capacity < 1:
            raise RequestError(f"capacity = {capacity} must be at least 1 token.")
        cross_kv = self.decoder.cross_keys_values(encoder_hidden)
        *leading, _, head_width = cross_kv.shape
        return DecoderCacheState(
            self_kv=cross_kv.new_zeros((*leading, capacity, head_width)),
            cross_kv=cross_kv,
            encoder_segment_ids=encoder_segment_ids,
        )

    @torch.no_grad()
    def decode_next(
        self,
        decoder_input_ids: Tensor,
        cache: DecoderCacheState,
        *,
        decoder_attention_mask: Tensor | None = None,
        cross_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states [B, T, D] of the next T tokens of every row, and put these into the cache.

        The same numbers as `decode` gives at these positions. Shapes: decoder_input_ids [B, T], T >= 1;
        decoder_attention_mask [B, T, K] with K = tokens before and new; cross_attention_mask [B, T, S].
        Raises: RequestError for other shapes or dtypes, or when the cache is full.
        """
        batch_size, length = _check_ids("decoder_input_ids", decoder_input_ids)
        num_keys = cache.num_tokens + length
        if batch_size != cache.batch_size or num_keys > cache.capacity:
            raise RequestError(
                f"decoder_input_ids {[batch_size, length]} do not fit a cache of {cache.batch_size} rows with "
                f"{cache.num_tokens} of {cache.capacity} tokens used. Give start_cache a larger capacity."
            )
        sizes = {"num_queries": length, "batch_size": batch_size}
        check_attention_mask("decoder_attention_mask", decoder_attention_mask, num_keys=num_keys, **sizes)
        check_attention_mask("cross_attention_mask", cross_attention_mask, num_keys=cache.cross_kv.shape[4], **sizes)
        causal = causal_mask(length, num_keys, first_query=cache.num_tokens, device=decoder_input_ids.device)
        visible = both(visible_keys(None, None, decoder_attention_mask), causal)
        cross_visible = visible_keys(None, cache.encoder_segment_ids, cross_attention_mask)
        return self.decoder.step(self.shared(decoder_input_ids), visible, cache, cross_visible)


class T5(T5EncoderDecoder):
    """The language model: both stacks and the head.

    Raises: ConfigError for a config with another head (those models stand in heads.py; `build_model` chooses).
    """

    def __init__(self, config: T5Config, *, dropout_broadcast: DropoutBroadcast = "none") -> None:
        if config.head is not Head.LANGUAGE_MODEL:
            raise ConfigError(f"T5 has the head 'language_model', the config {config.head.value!r}. Use build_model.")
        super().__init__(config, dropout_broadcast=dropout_broadcast)
        if not config.is_tied:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def logits(self, decoder_hidden: Tensor) -> Tensor:
        """Return the scores of every next token: [..., D] -> [..., V], in the weights' dtype."""
        if self.config.scales_logits:
            # T5: v1.0 only, whose head is the embedding of variance 1 (mesh transformer.py, `shared_embedding`).
            decoder_hidden = decoder_hidden * self.config.d_model**-0.5
        head = self.shared if self.config.is_tied else self.lm_head
        return F.linear(decoder_hidden, head.weight)

    def forward(  # type: ignore[override]
        self,
        *,
        encoder_input_ids: Tensor,
        decoder_input_ids: Tensor,
        encoder_segment_ids: Tensor | None = None,
        decoder_segment_ids: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        cross_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the logits [B, T, V] of a batch; arguments as `encode` and `decode` describe them."""
        decoder_hidden = self.hidden(
            encoder_input_ids=encoder_input_ids,
            decoder_input_ids=decoder_input_ids,
            encoder_segment_ids=encoder_segment_ids,
            decoder_segment_ids=decoder_segment_ids,
            encoder_attention_mask=encoder_attention_mask,
            decoder_attention_mask=decoder_attention_mask,
            cross_attention_mask=cross_attention_mask,
        )
        return self.logits(decoder_hidden)


def _residual(embedded: Tensor) -> Tensor:
    return embedded.float() if embedded.dtype == torch.float16 else embedded


def _check_ids(name: str, ids: Tensor) -> tuple[int, int]:
    if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32) or 0 in ids.shape:
        raise RequestError(f"{name} must be integers [batch, length], neither 0; got {ids.dtype} {list(ids.shape)}.")
    return ids.shape[0], ids.shape[1]


def _check_encoder_hidden(encoder_hidden: Tensor, batch_size: int, config: T5Config) -> int:
    shape = tuple(encoder_hidden.shape)
    if len(shape) != 3 or shape[0] != batch_size or shape[2] != config.d_model:
        raise RequestError(f"encoder_hidden must be [{batch_size}, S, {config.d_model}]; got {list(shape)}.")
    return shape[1]

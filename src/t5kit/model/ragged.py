"""A T5 over the real tokens of a batch alone: the way training computes on a processor.

The same modules, weights and numbers as `T5.hidden`, which is the slow twin; only padding is left out, and the order of
work is chosen for speed: tokens stand in one long list (ragged_layout.py), attention runs on groups of texts of similar
length, dropout draws one mask a text and keeps no generator.

Letters: N tokens and a last row of zeros, D d_model, F d_ff, H heads, E head width, n texts of a group, T, K positions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from t5kit.model.attention import Attention, CrossAttentionLayer, SelfAttentionLayer
from t5kit.model.feed_forward import DenseGatedActDense, FeedForwardLayer
from t5kit.model.masks import additive_mask, with_mask
from t5kit.model.norm import RMSNorm
from t5kit.model.passes import PLAIN, Passes
from t5kit.model.ragged_layout import AttentionPlan, RaggedBatch
from t5kit.model.t5 import DecoderBlock, DecoderStack, EncoderBlock, EncoderStack, T5EncoderDecoder


@dataclasses.dataclass(frozen=True, slots=True)
class TextDropout:
    """Dropout that draws one mask for all positions of a text, anew from its seeds at every place of the network.

    A mask is a function of the seeds and the place, so a layer computed twice is dropped alike.
    """

    rate: float
    """Share that is dropped, in [0, 1)."""
    seeds: tuple[int, ...]
    """Whatever the masks shall depend on: the run's seed, the step, …; integers from 0."""

    def mask(self, place: tuple[int, ...], shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Return zeros and 1 / (1 - rate)s of a shape, in the dtype of `like`; None where nothing is dropped."""
        if not self.rate:
            return None
        seed = np.random.SeedSequence((*self.seeds, *place)).generate_state(1, np.uint64)[0]
        generator = torch.Generator(like.device).manual_seed(int(seed))
        kept = torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - self.rate, generator=generator)
        return kept.div_(1 - self.rate)


NO_DROPOUT = TextDropout(0.0, ())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """What every layer of one stack needs to know of the batch."""

    stack: int
    """0 the encoder, 1 the decoder: the first part of every dropout's place."""
    segments: Tensor
    num_segments: int
    plan: AttentionPlan
    """Of self-attention."""
    dropout: TextDropout
    passes: Passes

    def mask(self, layer: int, place: int, like: Tensor, width: int) -> Tensor | None:
        """Return the dropout mask of activations, [N, width]."""
        mask = self.dropout.mask((self.stack, layer, place), (self.num_segments + 1, width), like)
        return None if mask is None else mask.index_select(0, self.segments)

    def drop(self, x_ND: Tensor, layer: int, place: int) -> Tensor:
        mask_ND = self.mask(layer, place, x_ND, x_ND.shape[-1])
        return x_ND if mask_ND is None else x_ND * mask_ND

    def norm(self, module: RMSNorm, x_ND: Tensor) -> Tensor:
        return self.passes.norm(x_ND, module.weight, module.epsilon)

    def add(self, x_ND: Tensor, update_ND: Tensor, layer: int, place: int) -> Tensor:
        """Return the residual sum, the update dropped out."""
        return self.passes.add(x_ND, update_ND, self.mask(layer, place, update_ND, update_ND.shape[-1]))


# Places of dropout; a stack's entrance and exit count as layers.
_ENTRANCE, _EXIT = 1_000_000, 1_000_001
_PROBABILITIES, _CROSS_PROBABILITIES, _AFTER_SELF, _AFTER_CROSS, _INNER, _AFTER_FEED_FORWARD = range(6)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Biases:
    """What an attention's scores get added, a group each."""

    learned: tuple[Tensor, ...]
    """[H, T, K] of the position table, for their gradients; empty where an attention has none."""
    added: tuple[Tensor | None, ...]
    """The same with the mask, over [n, H, T, K], without gradients; None adds nothing."""


def ragged_hidden(
    model: T5EncoderDecoder,
    batch: RaggedBatch,
    *,
    dropout: TextDropout = NO_DROPOUT,
    recomputes_layers: bool = False,
    passes: Passes = PLAIN,
) -> Tensor:
    """Return the decoder's hidden states [N, D] of a batch's target tokens, in the order of its labels.

    recomputes_layers: keep each block's input alone and compute its inside again for the gradients.
    """
    encoder = _Side(0, batch.encoder_segments, batch.num_segments, batch.encoder_plan, dropout, passes)
    decoder = _Side(1, batch.decoder_segments, batch.num_segments, batch.decoder_plan, dropout, passes)
    # Speed: one lookup for both sides, whose gradient is as large as the vocabulary, is scattered once.
    embedded_ND = model.shared(torch.cat([batch.encoder_input_ids, batch.decoder_input_ids]))
    sides = embedded_ND.split([len(batch.encoder_input_ids), len(batch.decoder_input_ids)])
    x_ND, y_ND = (F.pad(side_ND, (0, 0, 0, 1)) for side_ND in sides)
    hidden_ND = _encode(model.encoder, x_ND, encoder, recomputes_layers)
    return _decode(model.decoder, y_ND, decoder, hidden_ND, batch.cross_plan, recomputes_layers)[:-1]


def _encode(stack: EncoderStack, x_ND: Tensor, side: _Side, recomputes: bool) -> Tensor:
    x_ND, biases = side.drop(x_ND, _ENTRANCE, 0), None
    for number, block in enumerate(stack.block):
        biases = _position_biases(cast(EncoderBlock, block).layer[0], side.plan, x_ND, biases)
        x_ND = _run(_encoder_block, recomputes, block, x_ND, biases, side, number)
    return side.drop(side.norm(stack.final_layer_norm, x_ND), _EXIT, 0)


def _decode(
    stack: DecoderStack, x_ND: Tensor, side: _Side, hidden_ND: Tensor, cross_plan: AttentionPlan, recomputes: bool
) -> Tensor:
    x_ND, biases = side.drop(x_ND, _ENTRANCE, 0), None
    cross = _Biases((), tuple(additive_mask(group.visible, x_ND.dtype) for group in cross_plan.groups))
    for number, block in enumerate(stack.block):
        biases = _position_biases(cast(DecoderBlock, block).layer[0], side.plan, x_ND, biases)
        x_ND = _run(_decoder_block, recomputes, block, x_ND, biases, side, number, hidden_ND, cross_plan, cross)
    return side.drop(side.norm(stack.final_layer_norm, x_ND), _EXIT, 0)


def _run(block: Callable[..., Tensor], recomputes: bool, *inputs: object) -> Tensor:
    if recomputes and torch.is_grad_enabled():
        # LoRA's dropout draws from PyTorch's generator, and must draw the same when the block is computed again.
        return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=True))
    return block(*inputs)


def _encoder_block(block: EncoderBlock, x_ND: Tensor, biases: _Biases, side: _Side, number: int) -> Tensor:
    self_attention, feed_forward = block.layer
    x_ND = _self_attention(cast(SelfAttentionLayer, self_attention), x_ND, biases, side, number)
    return _feed_forward(cast(FeedForwardLayer, feed_forward), x_ND, side, number)


def _decoder_block(
    block: DecoderBlock,
    x_ND: Tensor,
    biases: _Biases,
    side: _Side,
    number: int,
    hidden_ND: Tensor,
    cross_plan: AttentionPlan,
    cross: _Biases,
) -> Tensor:
    self_attention, cross_attention, feed_forward = block.layer
    x_ND = _self_attention(cast(SelfAttentionLayer, self_attention), x_ND, biases, side, number)
    layer = cast(CrossAttentionLayer, cross_attention)
    query_ND = side.norm(layer.layer_norm, x_ND)
    masks = _key_masks(side, cross_plan, number, _CROSS_PROBABILITIES, x_ND)
    update_ND = _attention(layer.EncDecAttention, query_ND, hidden_ND, cross_plan, cross, masks)
    x_ND = side.add(x_ND, update_ND, number, _AFTER_CROSS)
    return _feed_forward(cast(FeedForwardLayer, feed_forward), x_ND, side, number)


def _self_attention(layer: SelfAttentionLayer, x_ND: Tensor, biases: _Biases, side: _Side, number: int) -> Tensor:
    normed_ND = side.norm(layer.layer_norm, x_ND)
    masks = _key_masks(side, side.plan, number, _PROBABILITIES, x_ND)
    update_ND = _attention(layer.SelfAttention, normed_ND, normed_ND, side.plan, biases, masks)
    return side.add(x_ND, update_ND, number, _AFTER_SELF)


def _feed_forward(layer: FeedForwardLayer, x_ND: Tensor, side: _Side, number: int) -> Tensor:
    dense, normed_ND = layer.DenseReluDense, side.norm(layer.layer_norm, x_ND)
    if isinstance(dense, DenseGatedActDense):
        opened_NF, linear_NF = dense.wi_0(normed_ND), dense.wi_1(normed_ND)
        mask_NF = side.mask(number, _INNER, opened_NF, opened_NF.shape[-1])
        inner_NF = side.passes.gate(opened_NF, linear_NF, mask_NF, dense.activation)
    else:
        inner_NF = side.drop(dense.activation(dense.wi(normed_ND)), number, _INNER)
    return side.add(x_ND, dense.wo(inner_NF), number, _AFTER_FEED_FORWARD)


def _position_biases(layer: nn.Module, plan: AttentionPlan, x_ND: Tensor, of_layer_before: _Biases | None) -> _Biases:
    """Return what the layer's own table says, or where it has none what the layer before was given."""
    table = cast(SelfAttentionLayer, layer).SelfAttention.relative_attention_bias
    if table is None:
        assert of_layer_before is not None, "the first layer of every stack owns a table"
        return of_layer_before
    # Numerics: float32, since the table's gradient sums over all texts, positions and layers.
    wide = torch.promote_types(x_ND.dtype, torch.float32)
    learned = tuple(table(group.num_queries, group.num_keys, dtype=wide)[0] for group in plan.groups)
    added = tuple(
        with_mask(bias_HTK.detach().to(x_ND.dtype)[None], group.visible)
        for bias_HTK, group in zip(learned, plan.groups, strict=True)
    )
    return _Biases(learned, added)


def _key_masks(side: _Side, plan: AttentionPlan, number: int, place: int, like: Tensor) -> tuple[Tensor | None, ...]:
    """Return each group's dropout of attention weights, [n * H, K, 1]: a key is dropped for all queries of a text."""
    return tuple(
        side.dropout.mask(
            (side.stack, number, place, index), (len(group.segments) * plan.num_heads, group.num_keys, 1), like
        )
        for index, group in enumerate(plan.groups)
    )


def _attention(
    module: Attention,
    query_ND: Tensor,
    source_ND: Tensor,
    plan: AttentionPlan,
    biases: _Biases,
    masks: tuple[Tensor | None, ...],
) -> Tensor:
    q_NI, k_NI, v_NI = module.q(query_ND), module.k(source_ND), module.v(source_ND)
    found_NI = cast(Tensor, _GroupedAttention.apply(q_NI, k_NI, v_NI, plan, biases.added, masks, *biases.learned))
    return module.o(found_NI)


class _GroupedAttention(torch.autograd.Function):
    """softmax(q k^T + bias) v of every group, with its gradients, [N, I] -> [N, I]; I is H * E.

    Dropping a key for all queries of a text is dropping its value, so that the masks are multiplied into v, which is
    small, and the weights are read once. Numerics: scores are rounded to the dtype of q, as t5x has them by default;
    the softmax computes in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_NI: Tensor,
        k_NI: Tensor,
        v_NI: Tensor,
        plan: AttentionPlan,
        added: tuple[Tensor | None, ...],
        masks: tuple[Tensor | None, ...],
        *learned: Tensor,
    ) -> Tensor:
        rows_q, rows_k, rows_v = (x_NI.reshape(-1, x_NI.shape[-1] // plan.num_heads) for x_NI in (q_NI, k_NI, v_NI))
        head_width = rows_q.shape[1]
        results = rows_q.new_empty(sum(len(group.query_index) for group in plan.groups) + 1, head_width)
        results[-1] = 0
        first, kept = 0, []
        for group, bias, mask in zip(plan.groups, added, masks, strict=True):
            q = rows_q.index_select(0, group.query_index).view(-1, group.num_queries, head_width)
            k = rows_k.index_select(0, group.key_index).view(-1, group.num_keys, head_width)
            v = rows_v.index_select(0, group.key_index).view(-1, group.num_keys, head_width)
            if mask is not None:
                v.mul_(mask)
            scores = torch.bmm(q, k.mT)
            if bias is not None:
                scores.view(-1, plan.num_heads, *scores.shape[1:]).add_(bias)
            weights = scores.softmax(-1)
            last = first + len(group.query_index)
            torch.bmm(weights, v, out=results[first:last].view_as(q))
            first = last
            kept += [q, k, v, weights] if mask is None else [q, k, v, weights, mask]
        ctx.save_for_backward(*kept)
        ctx.plan, ctx.has_masks = plan, [mask is not None for mask in masks]
        ctx.num_learned, ctx.learns_bias = len(learned), any(ctx.needs_input_grad[6:])
        ctx.num_key_rows = k_NI.shape[0]
        return results.index_select(0, plan.way_back).view_as(q_NI)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out_NI: Tensor) -> tuple[Tensor | None, ...]:
        plan, kept = ctx.plan, list(ctx.saved_tensors)
        rows_out = d_out_NI.reshape(-1, d_out_NI.shape[-1] // plan.num_heads)
        head_width = rows_out.shape[1]
        num_queries = sum(len(group.query_index) for group in plan.groups)
        num_keys = sum(len(group.key_index) for group in plan.groups)
        d_q = rows_out.new_empty(num_queries + 1, head_width)
        d_k, d_v = (rows_out.new_empty(num_keys + 1, head_width) for _ in range(2))
        for gradient in (d_q, d_k, d_v):
            gradient[-1] = 0
        d_learned: list[Tensor | None] = []
        first_q = first_k = 0
        for group, has_mask in zip(plan.groups, ctx.has_masks, strict=True):
            q, k, v, weights = kept[:4]
            mask = kept[4] if has_mask else None
            del kept[: 5 if has_mask else 4]
            last_q, last_k = first_q + len(group.query_index), first_k + len(group.key_index)
            d_out = rows_out.index_select(0, group.query_index).view_as(q)
            d_value = torch.bmm(weights.mT, d_out, out=d_v[first_k:last_k].view_as(v))
            if mask is not None:
                d_value.mul_(mask)
            d_weights = torch.bmm(d_out, v.mT)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, k, out=d_q[first_q:last_q].view_as(q))
            torch.bmm(d_scores.mT, q, out=d_k[first_k:last_k].view_as(k))
            if ctx.learns_bias:
                by_text = d_scores.view(-1, plan.num_heads, *d_scores.shape[1:])
                d_learned.append(by_text.sum(0).to(torch.promote_types(by_text.dtype, torch.float32)))
            first_q, first_k = last_q, last_k
        d_q_NI = d_q.index_select(0, plan.way_back).view_as(d_out_NI)
        d_k_NI, d_v_NI = (
            gradient.index_select(0, plan.way_back_of_keys).view(ctx.num_key_rows, -1) for gradient in (d_k, d_v)
        )
        return d_q_NI, d_k_NI, d_v_NI, None, None, None, *(d_learned or [None] * ctx.num_learned)

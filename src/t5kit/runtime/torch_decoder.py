"""The decoder stack of the torch runtime: one pass over new tokens of some slots, and the plan that repeats it.

Dimension letters: N new tokens, P computed rows (N and some that fill the products up), D d_model, I all heads'
width, L layers, H heads, E head width, G rows of a group, T query places a row, K keys.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t5kit.config import T5Config
from t5kit.runtime.torch_attention import QueryGroup, QueryPlan, attention_weights, plan_queries
from t5kit.runtime.torch_cache import CacheEntry
from t5kit.runtime.torch_linear import as_dtype
from t5kit.runtime.torch_position import PositionBias, position_biases
from t5kit.runtime.torch_weights import DecoderWeights

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each [G, H, K, E]."""


@dataclasses.dataclass(frozen=True, eq=False)
class NewTokens:
    """Which slots get how many tokens."""

    own: Sequence[CacheEntry]
    """R self-attention entries, with room for the new tokens."""
    prompts: Sequence[CacheEntry]
    """R cross-attention entries."""
    lengths: np.ndarray
    """[R] int64, at least 1 each."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return int(self.lengths.sum())


class DecoderPlan:
    """Everything about a step that the tokens' values do not change. It stays valid while no entry moves.

    `prepare` before each pass looks up where the slots stand.
    """

    def __init__(
        self,
        new: NewTokens,
        config: T5Config,
        position_biases: Sequence[PositionBias],
        *,
        device: torch.device,
    ) -> None:
        self.num_tokens = new.num_tokens
        self._config = config
        self._entries = new.own
        self._lengths = new.lengths
        self._row_N = np.repeat(np.arange(len(new.lengths)), new.lengths)
        self._rank_N = np.arange(self.num_tokens) - (np.cumsum(new.lengths) - new.lengths)[self._row_N]
        own = plan_queries([new.own[row] for row in self._row_N.tolist()], device)
        self._own = _OwnAttention(own, position_biases, device)
        self._cross = _CrossAttention(plan_queries([new.prompts[row] for row in self._row_N.tolist()], device))
        self._capacities = np.array([entry.arena.capacity for entry in new.own])

    def has_room(self) -> bool:
        """Return whether every slot's arena can take the new tokens."""
        return bool((self._past_lengths() + self._lengths <= self._capacities).all())

    def prepare(self, *, keeps_weights: bool) -> None:
        """Look up the slots' lengths: with them come the bias and the places of the new keys and values."""
        self._cross.weights = [] if keeps_weights else None
        lengths = self._past_lengths()
        self._own.prepare(lengths[self._row_N] + self._rank_N)

    def attend_to_past(self, layer: int, qkv: Tensor) -> Tensor:
        """Store the new keys and values and attend causally. Shapes: qkv [N, 3 I] -> [N, I]."""
        inner, heads = self._config.inner_width, self._config.num_heads
        self._own.write(layer, qkv[:, inner:].view(self.num_tokens, 2, heads, -1))
        return self._own.attend(layer, qkv[:, :inner], num_heads=heads)

    def attend_to_prompt(self, layer: int, q_NI: Tensor) -> Tensor:
        """Attend to the encoder's keys and values: [N, I] -> [N, I]."""
        return self._cross.attend(layer, q_NI, num_heads=self._config.num_heads)

    def cross_weights(self) -> list[np.ndarray]:
        """Return each slot's cross-attention [L, H, n, S] of the last pass."""
        return self._cross.weights_of_rows(self._row_N)

    def _past_lengths(self) -> np.ndarray:
        return np.array([entry.num_tokens for entry in self._entries])

    def advance(self) -> None:
        """Count the new tokens as past."""
        for entry, length in zip(self._entries, self._lengths.tolist(), strict=True):
            entry.num_tokens += length


class _OwnAttention:
    """Causal self-attention over the slots' own keys and values."""

    def __init__(self, plan: QueryPlan, position_biases: Sequence[PositionBias], device: torch.device) -> None:
        self._plan, self._position_biases, self._device = plan, position_biases, device
        self._num_keys = [-1] * len(plan.groups)
        self._views: list[list[KeysValues]] = [[]] * len(plan.groups)
        self._biases: list[Sequence[Tensor]] = []
        """A group's bias for each layer that owns a table."""
        self._slabs: tuple[Tensor, ...] | None = None
        """Where a layer's new keys and values go, [2, N, H, E], if that is one block."""
        self._scattered: list[tuple[Tensor | None, Tensor, Tensor]] = []
        """Otherwise a group's tokens, their rows and their positions, each [n] int64."""

    def prepare(self, positions_N: np.ndarray) -> None:
        """Set up for new tokens at these positions."""
        self._biases = []
        for i, group in enumerate(self._plan.groups):
            positions = positions_N[group.tokens]
            num_keys = group.keys_to_read(int(positions.max()) + 1)
            if num_keys != self._num_keys[i]:
                self._num_keys[i] = num_keys
                self._views[i] = [] if group.row_index is not None else group.views(num_keys)
            self._biases.append([self._bias(table, group, positions, num_keys) for table in self._position_biases])
        self._find_targets(positions_N)

    def write(self, layer: int, kv_N2HE: Tensor) -> None:
        """Store a layer's new keys and values."""
        if self._slabs is not None:
            self._slabs[layer].copy_(kv_N2HE.transpose(0, 1))
            return
        for group, (tokens, rows, positions) in zip(self._plan.groups, self._scattered, strict=True):
            new = kv_N2HE if tokens is None else kv_N2HE.index_select(0, tokens)
            group.arena.kv[layer].permute(1, 3, 0, 2, 4)[rows, positions] = new.to(group.arena.kv.dtype)

    def attend(self, layer: int, q_NI: Tensor, *, num_heads: int) -> Tensor:
        """Return [N, I]."""
        keys_values = [
            views[layer] if views else group.gathered(layer, num_keys)
            for group, views, num_keys in zip(self._plan.groups, self._views, self._num_keys, strict=True)
        ]
        biases = [bias[layer if len(bias) > 1 else 0] for bias in self._biases]
        return self._plan.attend(q_NI, keys_values, biases, num_heads=num_heads)

    def _bias(self, table: PositionBias, group: QueryGroup, positions: np.ndarray, num_keys: int) -> Tensor:
        """Return [1|G, H, 1|T, K]."""
        if (positions == positions[0]).all():
            return table.row(int(positions[0]), num_keys)
        ranks = group.places % group.num_places
        starts = positions - ranks
        if (starts == starts[0]).all():
            return table.band(int(starts[0]), group.num_places, num_keys)
        positions_GT = np.full(group.num_rows * group.num_places, positions[0])
        positions_GT[group.places] = positions
        return table.ragged(
            torch.from_numpy(positions_GT.reshape(group.num_rows, group.num_places)).to(self._device), num_keys
        )

    def _find_targets(self, positions: np.ndarray) -> None:
        groups, num_tokens = self._plan.groups, len(positions)
        first = groups[0]
        is_one_run = len(groups) == 1 and first.row_index is None
        rows = slice(first.first_row, first.first_row + first.num_rows)
        position = int(positions[0])
        self._slabs, self._scattered = None, []
        if is_one_run and first.num_rows == 1:
            # [L, 2, H, N, E]: the tokens of one slot follow each other
            run = first.arena.kv[:, :, first.first_row, :, position : position + num_tokens]
            self._slabs = run.transpose(2, 3).unbind(0)
        elif (
            is_one_run and first.query_index is None and first.num_rows == num_tokens and (positions == position).all()
        ):
            self._slabs = first.arena.kv[:, :, rows, :, position].unbind(0)
        else:
            for group in groups:
                token_rows = group.rows[group.places // group.num_places]
                self._scattered.append(
                    (
                        None if len(groups) == 1 else torch.from_numpy(group.tokens).to(self._device),
                        torch.from_numpy(token_rows).to(self._device),
                        torch.from_numpy(positions[group.tokens]).to(self._device),
                    )
                )


class _CrossAttention:
    """Attention to the encoder's states, whose keys and values never change."""

    def __init__(self, plan: QueryPlan) -> None:
        self._plan = plan
        self._masks: list[Tensor | None] = []
        views = []
        for group in plan.groups:
            lengths_G = np.array([group.arena.entries[row].num_tokens for row in group.rows])
            num_keys = int(lengths_G[group.places // group.num_places].max())
            if group.uses_products:
                num_keys = group.arena.capacity
            self._masks.append(_padding_mask(lengths_G, num_keys, group.arena.kv))
            if group.row_index is None:
                views.append(group.views(num_keys))
            else:
                num_layers = group.arena.kv.shape[0]
                views.append([group.gathered(layer, num_keys) for layer in range(num_layers)])
        self._keys_values: list[list[KeysValues]] = [list(each) for each in zip(*views, strict=True)]
        self.weights: list[list[Tensor]] | None = None
        """If a list, it collects [G, H, T, K] for each layer and group."""

    def attend(self, layer: int, q_NI: Tensor, *, num_heads: int) -> Tensor:
        """Return [N, I]."""
        keys_values = self._keys_values[layer]
        if self.weights is not None:
            self.weights.append(
                [
                    attention_weights(group.queries(q_NI, num_heads) @ k_GHKE.mT, mask)
                    for group, (k_GHKE, _), mask in zip(self._plan.groups, keys_values, self._masks, strict=True)
                ]
            )
        return self._plan.attend(q_NI, keys_values, self._masks, num_heads=num_heads)

    def weights_of_rows(self, row_N: np.ndarray) -> list[np.ndarray]:
        """Return what was collected for each slot, [L, H, n, S], given the slot of each new token."""
        assert self.weights is not None
        found: list[np.ndarray] = [np.empty(0)] * (int(row_N[-1]) + 1)
        for i, group in enumerate(self._plan.groups):
            weights_LGHTK = torch.stack([layer[i] for layer in self.weights]).float().cpu().numpy()
            for row in np.unique(row_N[group.tokens]):
                at_row, at_place = np.divmod(group.places[row_N[group.tokens] == row], group.num_places)
                num_keys = group.arena.entries[group.rows[at_row[0]]].num_tokens
                found[row] = weights_LGHTK[:, at_row, :, at_place, :num_keys].transpose(1, 2, 0, 3)
        return found


def _padding_mask(lengths_G: np.ndarray, num_keys: int, like: Tensor) -> Tensor | None:
    """Return [G, 1, 1, K], -inf behind each row's length, or None if every row is full."""
    if (lengths_G >= num_keys).all():
        return None
    mask_GK = np.where(np.arange(num_keys) < lengths_G[:, None], np.float32(0), np.float32(-math.inf))
    return torch.from_numpy(mask_GK[:, None, None]).to(like.device, like.dtype)


class Decoder:
    """The stack, ready to run."""

    def __init__(
        self, config: T5Config, embedding: Tensor, weights: DecoderWeights, *, attention_dtype: torch.dtype
    ) -> None:
        self._config, self._embedding, self._weights = config, embedding, weights
        self._attention_dtype = attention_dtype
        self._position_biases = position_biases(
            config, weights.position_tables, is_bidirectional=False, dtype=attention_dtype, device=embedding.device
        )

    def plan(self, new: NewTokens) -> DecoderPlan:
        """Return the plan of a pass."""
        return DecoderPlan(new, self._config, self._position_biases, device=self._embedding.device)

    def cross_keys_values(self, states_ND: Tensor) -> Tensor:
        """Return every layer's keys and values of encoder states [N, D]: [N, L, 2, H, E]."""
        c = self._config
        kv = self._weights.cross_kv(_padded(states_ND, self._weights.cross_kv.padded_rows(len(states_ND))))
        return as_dtype(kv[: len(states_ND)], self._attention_dtype).view(
            len(states_ND), c.num_decoder_layers, 2, c.num_heads, c.d_kv
        )

    def run(self, plan: DecoderPlan, tokens_N: Tensor, *, keeps_weights: bool = False) -> Tensor:
        """Feed tokens [N] (int64) as planned; return their states after the final norm, [N, D] float32."""
        weights, dtype = self._weights, self._attention_dtype
        plan.prepare(keeps_weights=keeps_weights)
        num_tokens = len(tokens_N)
        padded = weights.layers[0].qkv.padded_rows(num_tokens)
        with torch.autocast(self._embedding.device.type, enabled=False):
            # Rows behind the tokens are zero and stay so: they only fill the products up.
            x_PD = F.pad(self._embedding[tokens_N].float(), (0, 0, 0, padded - num_tokens))
            for i, layer in enumerate(weights.layers):
                qkv = as_dtype(layer.qkv(layer.self_norm(x_PD))[:num_tokens], dtype)
                x_PD.add_(layer.self_o(_padded(plan.attend_to_past(i, qkv), padded)))
                q_NI = as_dtype(layer.cross_q(layer.cross_norm(x_PD))[:num_tokens], dtype)
                x_PD.add_(layer.cross_o(_padded(plan.attend_to_prompt(i, q_NI), padded)))
                x_PD.add_(layer.feed_forward(layer.feed_forward_norm(x_PD)))
            hidden_ND = weights.final_norm(x_PD[:num_tokens])
        plan.advance()
        return hidden_ND


def _padded(x_NI: Tensor, num_rows: int) -> Tensor:
    return x_NI if len(x_NI) == num_rows else F.pad(x_NI, (0, 0, 0, num_rows - len(x_NI)))

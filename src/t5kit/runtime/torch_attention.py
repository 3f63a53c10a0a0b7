"""Attention of many decoder rows over cached keys and values, read where they lie.

A step's query tokens are dealt to the arena rows they look at: `QueryGroup` is the plan for one arena, made once and
used by every layer and, while the same slots step, by every step.

Dimension letters: N query tokens of the step, G rows of a group, T query places a row, K keys, H heads, E head width,
I all heads' width (H * E), L layers.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t5kit.runtime.torch_cache import CacheEntry, KeyValueArena

_MAX_QUERIES_FOR_PRODUCTS = 16
# Up to so many queries a row, attention over several rows is written as two batched products; above, scores are not
# materialised. Speed: 32 rows of one query and 128 keys take 0.64 ms, F.scaled_dot_product_attention 1.16 (1 thread).
_KEY_STEP = 16
# F.scaled_dot_product_attention reads keys in multiples of it, so that views stay valid for as many steps.


@dataclasses.dataclass(frozen=True, eq=False)
class QueryGroup:
    """The queries of a step that look into one arena: G rows with T places each.

    Short rows and rows of sequences that do not take part are filled with queries whose results nobody reads.
    """

    arena: KeyValueArena
    first_row: int
    num_rows: int
    row_index: Tensor | None
    """[G] int64: arena rows to be gathered; None where they are the run that begins at first_row."""
    num_places: int
    """T."""
    query_index: Tensor | None
    """[G * T] int64: the query token in each place; None where place i holds token i."""
    tokens: np.ndarray
    """[n] int64: the group's query tokens."""
    places: np.ndarray
    """[n] int64: where in [G * T] each of them is."""

    @property
    def uses_products(self) -> bool:
        """Attention is written as two batched products; see `attend`."""
        return _uses_products(self.arena.kv, self.num_rows, self.num_places)

    def keys_to_read(self, num_keys: int) -> int:
        """Return how many keys to read where `num_keys` mean something; the rest of them is masked.

        Speed: products of one query read whole rows, which lie one behind the other: 60 times 128 keys take 0.22 ms,
        124 of 128 keys 0.41 (the processor reads ahead until it meets a gap).
        """
        if self.uses_products:
            return self.arena.capacity
        return min(self.arena.capacity, -(-num_keys // _KEY_STEP) * _KEY_STEP)

    @property
    def rows(self) -> np.ndarray:
        """[G] arena rows."""
        if self.row_index is not None:
            return self.row_index.cpu().numpy()
        return np.arange(self.first_row, self.first_row + self.num_rows)

    def views(self, num_keys: int) -> list[tuple[Tensor, Tensor]]:
        """Return every layer's keys and values, each [G, H, K, E], read in place: the rows must be a run."""
        kv = self.arena.kv[:, :, self.first_row : self.first_row + self.num_rows, :, :num_keys]
        return [(layer[0], layer[1]) for layer in kv.unbind(0)]

    def gathered(self, layer: int, num_keys: int) -> tuple[Tensor, Tensor]:
        """Return copies of a layer's keys and values as they are now, each [G, H, K, E]."""
        assert self.row_index is not None
        kv = self.arena.kv[layer, :, :, :, :num_keys].index_select(1, self.row_index)
        return kv[0], kv[1]

    def queries(self, q_NI: Tensor, num_heads: int) -> Tensor:
        """Return the step's queries [N, I] in the group's places, [G, H, T, E]."""
        q = q_NI if self.query_index is None else q_NI.index_select(0, self.query_index)
        return q.view(self.num_rows, self.num_places, num_heads, -1).transpose(1, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class QueryPlan:
    """All query tokens of a step dealt to groups."""

    groups: tuple[QueryGroup, ...]
    result_index: Tensor | None
    """[N] int64: where in the groups' results, one after the other, each token's is; None where it is in its place."""

    def attend(
        self,
        q_NI: Tensor,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        biases: Sequence[Tensor | None],
        *,
        num_heads: int,
    ) -> Tensor:
        """Return attention's output [N, I].

        Shapes, one of each a group: keys and values [G, H, K, E], bias [1|G, 1|H, 1|T, K].
        """
        outputs = []
        for group, (k_GHKE, v_GHKE), bias in zip(self.groups, keys_values, biases, strict=True):
            o_GHTE = attend(group.queries(q_NI, num_heads), k_GHKE, v_GHKE, bias)
            outputs.append(o_GHTE.transpose(1, 2).reshape(group.num_rows * group.num_places, -1))
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return output if self.result_index is None else output.index_select(0, self.result_index)


def plan_queries(entries: Sequence[CacheEntry], device: torch.device) -> QueryPlan:
    """Return the plan for query tokens of which the i-th looks at `entries[i]`, in order within an entry."""
    arenas = {id(entry.arena): entry.arena for entry in entries}
    arena_N = np.array([id(entry.arena) for entry in entries])
    row_N = np.array([entry.row for entry in entries])
    groups = []
    result_index = np.empty(len(entries), np.int64)
    num_results = 0
    for name, arena in arenas.items():
        tokens = np.flatnonzero(arena_N == name)
        group = _group(arena, tokens, row_N[tokens], len(entries), device)
        result_index[tokens] = num_results + group.places
        num_results += group.num_rows * group.num_places
        groups.append(group)
    is_in_place = num_results == len(entries) and (result_index == np.arange(len(entries))).all()
    return QueryPlan(tuple(groups), None if is_in_place else torch.from_numpy(result_index).to(device))


def _group(
    arena: KeyValueArena, tokens: np.ndarray, arena_rows: np.ndarray, num_tokens: int, device: torch.device
) -> QueryGroup:
    distinct, rows = np.unique(arena_rows, return_inverse=True)
    first_row, num_rows = int(distinct[0]), int(distinct[-1] - distinct[0]) + 1
    is_run = 2 * len(distinct) >= num_rows
    # Speed: reading up to as many idle rows in place costs less than gathering the wanted ones into a copy.
    if is_run:
        rows = arena_rows - first_row
    else:
        num_rows = len(distinct)
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=num_rows)
    num_places = int(counts.max())
    places = np.empty(len(tokens), np.int64)
    places[order] = rows[order] * num_places + np.arange(len(tokens)) - (np.cumsum(counts) - counts)[rows[order]]
    query_index = np.full(num_rows * num_places, tokens[0])
    query_index[places] = tokens
    is_in_place = len(query_index) == num_tokens and (query_index == np.arange(num_tokens)).all()
    return QueryGroup(
        arena=arena,
        first_row=first_row,
        num_rows=num_rows,
        row_index=None if is_run else torch.from_numpy(distinct).to(device),
        num_places=num_places,
        query_index=None if is_in_place else torch.from_numpy(query_index).to(device),
        tokens=tokens,
        places=places,
    )


def attend(q_GHTE: Tensor, k_GHKE: Tensor, v_GHKE: Tensor, bias: Tensor | None) -> Tensor:
    """Return attention's output [G, H, T, E]; the bias, -inf where masked, broadcasts to [G, H, T, K].

    T5: no 1/sqrt(E); the scale lives in q's init. Softmax is in float32 whatever the inputs are.
    """
    num_rows, num_heads, num_queries, width = q_GHTE.shape
    if not _uses_products(q_GHTE, num_rows, num_queries):
        return F.scaled_dot_product_attention(q_GHTE, k_GHKE, v_GHKE, attn_mask=bias, scale=1.0)
    batch = num_rows * num_heads
    q, k, v = q_GHTE.reshape(batch, num_queries, width), k_GHKE.flatten(0, 1), v_GHKE.flatten(0, 1)
    weights = attention_weights(torch.bmm(q, k.mT).view(num_rows, num_heads, num_queries, -1), bias)
    return torch.bmm(weights.view(batch, num_queries, -1), v).view(num_rows, num_heads, num_queries, width)


def _uses_products(like: Tensor, num_rows: int, num_queries: int) -> bool:
    return not like.is_cuda and num_rows > 1 and num_queries <= _MAX_QUERIES_FOR_PRODUCTS


def attention_weights(scores_GHTK: Tensor, bias: Tensor | None) -> Tensor:
    """Return softmax(scores + bias) in the scores' dtype; the scores are overwritten."""
    if bias is not None:
        scores_GHTK.add_(bias)
    return torch.softmax(scores_GHTK, dim=-1)

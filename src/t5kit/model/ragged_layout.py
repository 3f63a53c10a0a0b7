"""Where the tokens of a batch stand when its padding is gone, and how attention finds them again.

    Batch, rows of segments and padding -> all real tokens, segment after segment, and one row of zeros at the end

Everything but attention runs over these rows. Attention gathers the segments of similar length into groups, which are
dense: what a group pads comes from the row of zeros, and goes back to it.

Letters: N rows of one side, the row of zeros included; n segments of a group; T queries, K keys; H heads; E head width.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from t5kit.data import Batch

LEAST_FILL = 0.75
"""A group's shortest segment, as a share of its longest. Speed: a lower share pads more, a higher one makes groups of
few segments, whose products are too small to fill a processor."""

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class AttentionGroup:
    """Segments whose attention is computed as one dense batch."""

    segments: Tensor
    """[n] which segments."""
    query_index: Tensor
    """[n * H * T] the rows of [N * H, E] that are the queries, in the order of [n, H, T]."""
    key_index: Tensor
    """[n * H * K] likewise the keys."""
    visible: Tensor | None
    """Boolean over [n, 1, T, K]: who may look at whom; None where everyone sees everyone."""
    num_queries: int
    """T."""
    num_keys: int
    """K."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class AttentionPlan:
    """All groups of one attention, and the way back."""

    groups: tuple[AttentionGroup, ...]
    way_back: Tensor
    """[N * H] for every row of the queries' side, its place among all groups' results laid end to end; the row of zeros
    finds itself behind them."""
    way_back_of_keys: Tensor
    """[N * H] likewise for the keys' side; a row that is in no group finds the zeros too."""
    num_heads: int
    """H."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RaggedBatch:
    """A batch without padding. The last row of each side is the row of zeros, of the segment behind the last."""

    encoder_input_ids: Tensor
    """[N - 1] of the encoder's side."""
    decoder_input_ids: Tensor
    """[N - 1] of the decoder's side."""
    labels: Tensor
    """[N - 1] of the decoder's side."""
    loss_weights: Tensor
    """[N - 1] of the decoder's side."""
    encoder_segments: Tensor
    """[N] the number of each row's segment, from 0."""
    decoder_segments: Tensor
    """[N] likewise."""
    num_segments: int
    """Segments of the batch."""
    encoder_plan: AttentionPlan
    decoder_plan: AttentionPlan
    cross_plan: AttentionPlan

    @classmethod
    def of(cls, batch: Batch, *, num_heads: int, device: torch.device) -> "RaggedBatch":
        """Return the batch without padding. A segment's tokens must stand together, as `Batch.of_rows` puts them."""
        encoder_at, decoder_at, segment_of_encoder, segment_of_decoder, num_segments = _real_tokens(batch)
        encoder, decoder = _Side(segment_of_encoder, num_segments), _Side(segment_of_decoder, num_segments)

        def chosen(values: np.ndarray, places: Rows) -> Tensor:
            return torch.from_numpy(values.reshape(-1)[places]).to(device)

        return cls(
            encoder_input_ids=chosen(batch.encoder_input_ids, encoder_at),
            decoder_input_ids=chosen(batch.decoder_input_ids, decoder_at),
            labels=chosen(batch.labels, decoder_at),
            loss_weights=chosen(batch.loss_weights, decoder_at),
            encoder_segments=torch.from_numpy(np.append(segment_of_encoder, num_segments)).to(device),
            decoder_segments=torch.from_numpy(np.append(segment_of_decoder, num_segments)).to(device),
            num_segments=num_segments,
            encoder_plan=_plan(encoder, encoder, num_heads=num_heads, is_causal=False, device=device),
            decoder_plan=_plan(decoder, decoder, num_heads=num_heads, is_causal=True, device=device),
            cross_plan=_plan(decoder, encoder, num_heads=num_heads, is_causal=False, device=device),
        )


def _real_tokens(batch: Batch) -> tuple[Rows, Rows, Rows, Rows, int]:
    """Return the places of each side's real tokens in its flat array, sorted by segment, their segments, and n."""
    keys = []
    for segment_ids in (batch.encoder_segment_ids, batch.decoder_segment_ids):
        rows = np.arange(len(segment_ids), dtype=np.int64)[:, None]
        keys.append(np.where(segment_ids > 0, rows * 2**32 + segment_ids, -1).reshape(-1))
    places = [np.flatnonzero(side >= 0) for side in keys]
    known = np.unique(np.concatenate([side[at] for side, at in zip(keys, places, strict=True)]))
    numbers = [np.searchsorted(known, side[at]) for side, at in zip(keys, places, strict=True)]
    orders = [np.argsort(number, kind="stable") for number in numbers]
    encoder_at, decoder_at = (at[order] for at, order in zip(places, orders, strict=True))
    of_encoder, of_decoder = (number[order] for number, order in zip(numbers, orders, strict=True))
    return encoder_at, decoder_at, of_encoder, of_decoder, len(known)


class _Side:
    """The segments of one side: where each begins and how long it is."""

    def __init__(self, segment_of: Rows, num_segments: int) -> None:
        self.lengths = np.bincount(segment_of, minlength=num_segments)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.num_tokens = len(segment_of)

    def rows(self, segments: Rows, length: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Return the rows [n, length] of these segments, the row of zeros where there is none, and what is real."""
        within = np.arange(length)
        is_real = within < self.lengths[segments, None]
        return np.where(is_real, self.starts[segments, None] + within, self.num_tokens), is_real


def _plan(queries: _Side, keys: _Side, *, num_heads: int, is_causal: bool, device: torch.device) -> AttentionPlan:
    heads = np.arange(num_heads)
    groups: list[AttentionGroup] = []
    back_of_queries, back_of_keys = _WayBack(queries, num_heads), _WayBack(keys, num_heads)
    for segments in _similar(keys.lengths, queries.lengths):
        num_queries, num_keys = int(queries.lengths[segments].max()), max(1, int(keys.lengths[segments].max()))
        query_rows, is_query = queries.rows(segments, num_queries)
        key_rows, is_key = keys.rows(segments, num_keys)
        visible = None if is_key.all() else is_key[:, None, None, :]
        if is_causal:
            causal = np.tri(num_queries, num_keys, dtype=np.bool_)[None, None]
            visible = causal if visible is None else causal & visible
        back_of_queries.add(query_rows, is_query)
        back_of_keys.add(key_rows, is_key)
        query_index = query_rows[:, None, :] * num_heads + heads[:, None]
        key_index = key_rows[:, None, :] * num_heads + heads[:, None]
        groups.append(
            AttentionGroup(
                segments=torch.from_numpy(segments).to(device),
                query_index=torch.from_numpy(query_index.reshape(-1)).to(device),
                key_index=torch.from_numpy(key_index.reshape(-1)).to(device),
                visible=None if visible is None else torch.from_numpy(visible).to(device),
                num_queries=num_queries,
                num_keys=num_keys,
            )
        )
    return AttentionPlan(
        groups=tuple(groups),
        way_back=torch.from_numpy(back_of_queries.finished()).to(device),
        way_back_of_keys=torch.from_numpy(back_of_keys.finished()).to(device),
        num_heads=num_heads,
    )


class _WayBack:
    """Notes where each row's heads end up while groups [n, H, length] are laid end to end."""

    def __init__(self, side: _Side, num_heads: int) -> None:
        self.place_NH = np.full((side.num_tokens + 1, num_heads), -1)
        self.total = 0

    def add(self, rows: Rows, is_real: npt.NDArray[np.bool_]) -> None:
        """Lay one more group down: its rows [n, length]."""
        num_heads = self.place_NH.shape[1]
        places = self.total + np.arange(rows.size * num_heads).reshape(len(rows), num_heads, -1)
        self.place_NH[rows[is_real]] = places.transpose(0, 2, 1)[is_real]
        self.total += places.size

    def finished(self) -> Rows:
        """Return the places [N * H]; rows in no group stand behind all others."""
        return np.where(self.place_NH < 0, self.total, self.place_NH).reshape(-1)


def _similar(lengths: Rows, other_lengths: Rows) -> Iterator[Rows]:
    """Yield groups of the segments that have queries, by falling length, none shorter than a share of its longest."""
    order = np.lexsort((-other_lengths, -lengths))
    order = order[other_lengths[order] > 0]
    first = 0
    while first < len(order):
        longest = lengths[order[first]]
        last = first + int(np.count_nonzero(lengths[order[first:]] >= LEAST_FILL * longest))
        yield order[first:last]
        first = last

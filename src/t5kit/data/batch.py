"""Batch: what data hands to training, padded arrays that say by segment what belongs together."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from t5kit.errors import DataError
from t5kit.tasks.example import Example, FloatArray, IntArray

START_ID = 0
"""T5: decoding starts from the padding id; so an id of 0 never tells padding."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of examples. Segment 0 is padding, 1, 2, … are the row's examples, numbered alike on both sides.

    Shapes: encoder_input_ids, encoder_segment_ids [B, S] int32; decoder_input_ids, labels, decoder_segment_ids [B, T]
    int32; loss_weights [B, T] float32, 0 on padding. decoder_input_ids are the labels of each segment moved right by
    one, with 0 in front. No token of one segment may see another's, in any of the three attentions.
    """

    encoder_input_ids: IntArray
    decoder_input_ids: IntArray
    labels: IntArray
    loss_weights: FloatArray
    encoder_segment_ids: IntArray
    decoder_segment_ids: IntArray

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Example]], *, encoder_length: int, target_length: int) -> Self:
        """Return the batch whose row b holds the examples rows[b], one behind the other.

        Raises: DataError if the examples of a row do not fit.
        """
        encoder, encoder_segment = _zeros(len(rows), encoder_length), _zeros(len(rows), encoder_length)
        decoder_input, labels = _zeros(len(rows), target_length), _zeros(len(rows), target_length)
        decoder_segment, weights = _zeros(len(rows), target_length), np.zeros((len(rows), target_length), np.float32)
        for b, row in enumerate(rows):
            s = t = 0
            for segment, example in enumerate(row, 1):
                s_end, t_end = s + len(example.encoder_ids), t + len(example.target_ids)
                if s_end > encoder_length or t_end > target_length:
                    raise DataError(
                        f"a row of {len(row)} example(s) needs at least {s_end} encoder and {t_end} target positions; "
                        f"there are {encoder_length} and {target_length}."
                    )
                encoder[b, s:s_end] = example.encoder_ids
                encoder_segment[b, s:s_end] = segment
                labels[b, t:t_end] = example.target_ids
                decoder_input[b, t] = START_ID
                decoder_input[b, t + 1 : t_end] = example.target_ids[:-1]
                weights[b, t:t_end] = example.loss_weights
                decoder_segment[b, t:t_end] = segment
                s, t = s_end, t_end
        return cls(encoder, decoder_input, labels, weights, encoder_segment, decoder_segment)

    def rows(self, first: int, last: int) -> Self:
        """Return the rows first … last - 1 as views: one process's part of the batch."""
        return type(self)(*(getattr(self, field.name)[first:last] for field in dataclasses.fields(self)))

    def examples(self) -> list[list[Example]]:
        """Return the examples of every row, in order: the inverse of `of_rows`, for people and for tests."""
        return [
            [self._example(row, segment) for segment in range(1, int(self.encoder_segment_ids[row].max(initial=0)) + 1)]
            for row in range(len(self.labels))
        ]

    def _example(self, row: int, segment: int) -> Example:
        in_encoder = self.encoder_segment_ids[row] == segment
        in_decoder = self.decoder_segment_ids[row] == segment
        return Example(
            self.encoder_input_ids[row][in_encoder], self.labels[row][in_decoder], self.loss_weights[row][in_decoder]
        )

    def num_examples(self) -> int:
        """Return how many examples there are in all rows."""
        return int(self.encoder_segment_ids.max(axis=1, initial=0).sum())

    def num_encoder_tokens(self) -> int:
        """Count encoder positions that are not padding."""
        return int(np.count_nonzero(self.encoder_segment_ids))

    def num_target_tokens(self) -> int:
        """Count target positions that are not padding."""
        return int(np.count_nonzero(self.decoder_segment_ids))


def _zeros(num_rows: int, length: int) -> IntArray:
    return np.zeros((num_rows, length), np.int32)

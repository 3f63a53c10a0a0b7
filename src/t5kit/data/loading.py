"""Batches one after another, packed or by length, with a state that resumes them exactly.

Work goes by windows: a window of examples is taken from the stream, arranged into whole batches, and given out. The
state is where the stream stood at the window's start, what the window before left over, and how many batches of the
window are given. So it stays small, and a resumed run makes the same window again.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal, Self

import numpy as np

from t5kit.data.batch import Batch
from t5kit.data.lengths import LengthLimits
from t5kit.data.packing import pack
from t5kit.data.shuffling import generator_at
from t5kit.data.streams import MixedStream, MixShare, State
from t5kit.errors import ConfigError, DataError
from t5kit.sources import BadRecord
from t5kit.tasks.example import Example

WINDOW_PURPOSE = 3
MAX_DROPPED_IN_A_ROW = 100_000
"""Examples too long, one after another, after which a stream, whose end may be days away, is given up."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchConfig:
    """How examples become batches."""

    batch_rows: int
    """Rows of a batch, over all processes."""
    encoder_length: int
    """Encoder positions of a row."""
    target_length: int
    """Target positions of a row."""
    arrangement: Literal["packed", "bucketed"] = "packed"
    """packed: rows of full length hold several examples. bucketed: one example a row, batches of similar lengths,
    padded to their longest."""
    too_long: Literal["truncate", "drop"] = "truncate"
    """Examples over the lengths: cut before EOS, or left out."""
    window_batches: int = 16
    """Batches arranged together. More: less padding, and shuffled over a wider window."""
    length_multiple: int = 8
    """Bucketed: padded lengths are multiples of this, so that there are few different shapes."""

    def __post_init__(self) -> None:
        for name in ("batch_rows", "encoder_length", "target_length", "window_batches", "length_multiple"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} = {getattr(self, name)} must be at least 1.")
        if self.arrangement not in ("packed", "bucketed"):
            raise ConfigError(f"data.arrangement = {self.arrangement!r} must be one of packed, bucketed.")
        LengthLimits(self.encoder_length, self.target_length, self.too_long)

    @property
    def limits(self) -> LengthLimits:
        """The lengths as limits of one example."""
        return LengthLimits(self.encoder_length, self.target_length, self.too_long)


class BatchLoader:
    """Batches of a stream: `for batch in loader`, `state()` between any two, `restore(state)` into a new one."""

    def __init__(self, stream: MixedStream, config: BatchConfig, *, seed: int) -> None:
        self._stream = stream
        self._config = config
        self._seed = seed
        self._window = self._given = 0
        self._left_over: list[Example] = []
        self._rows: list[list[Example]] | None = None
        self.num_truncated = 0
        """Examples cut so far, up to the end of the window being given."""
        self.num_dropped = 0
        """Examples left out so far, likewise."""
        self._window_start = self._state_here()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch. The last one of a stream that ends may have rows of padding alone."""
        config = self._config
        if self._rows is None or self._given * config.batch_rows >= len(self._rows):
            if self._rows is not None:
                self._window, self._given = self._window + 1, 0
                self._window_start = self._state_here()
            self._rows = self._next_window()
            if not self._rows:
                raise StopIteration
        first = self._given * config.batch_rows
        rows = self._rows[first : first + config.batch_rows]
        rows += [[] for _ in range(config.batch_rows - len(rows))]
        self._given += 1
        return self._batch(rows)

    def state(self) -> State:
        """Return where the loader stands, as plain data for JSON: numbers, and the ids of examples left over."""
        return {**self._window_start, "given": self._given}

    def restore(self, state: State) -> Self:
        """Stand where another loader of the same stream, config and seed stood; returns self."""
        self._stream.restore(state["stream"])
        self._window = int(state["window"])
        self._left_over = [_example_of(saved) for saved in state["left_over"]]
        self.num_truncated, self.num_dropped = int(state["num_truncated"]), int(state["num_dropped"])
        self._window_start = self._state_here()
        self._rows = self._next_window() if state["given"] else None
        self._given = int(state["given"])
        return self

    def shares(self) -> list[MixShare]:
        """Return what each source gave to the windows taken so far."""
        return self._stream.shares()

    def bad(self) -> list[list[BadRecord]]:
        """Return the first bad records of each source that this process met, to show; `shares` counts them all."""
        return self._stream.bad()

    def _state_here(self) -> State:
        return {
            "stream": self._stream.state(),
            "window": self._window,
            "left_over": [_plain(example) for example in self._left_over],
            "num_truncated": self.num_truncated,
            "num_dropped": self.num_dropped,
        }

    def _next_window(self) -> list[list[Example]]:
        """Take examples for a window and return its rows in the order they are given out; none at the end."""
        return self._packed_window() if self._config.arrangement == "packed" else self._bucketed_window()

    def _packed_window(self) -> list[list[Example]]:
        config = self._config
        num_rows = config.window_batches * config.batch_rows
        examples, num_first = self._left_over, len(self._left_over)
        encoder_room = num_rows * config.encoder_length - sum(len(e.encoder_ids) for e in examples)
        target_room = num_rows * config.target_length - sum(len(e.target_ids) for e in examples)
        while encoder_room > 0 and target_room > 0 and (example := self._next_example()) is not None:
            examples.append(example)
            encoder_room -= len(example.encoder_ids)
            target_room -= len(example.target_ids)
        packed = pack(
            examples,
            num_rows=num_rows,
            encoder_length=config.encoder_length,
            target_length=config.target_length,
            num_first=num_first,
        )
        self._left_over = [examples[number] for number in packed.left_over]
        rows = [[examples[number] for number in row] for row in packed.rows if row]
        # Packing sorts by length; the shuffle makes every batch a fair sample of its window.
        order = generator_at(self._seed, WINDOW_PURPOSE, self._window).permutation(len(rows))
        return [rows[place] for place in order]

    def _bucketed_window(self) -> list[list[Example]]:
        config = self._config
        examples: list[Example] = []
        while len(examples) < config.window_batches * config.batch_rows:
            example = self._next_example()
            if example is None:
                break
            examples.append(example)
        examples.sort(key=lambda e: (len(e.encoder_ids), len(e.target_ids)))
        starts = range(0, len(examples), config.batch_rows)
        batches = [examples[start : start + config.batch_rows] for start in starts]
        whole = len(examples) // config.batch_rows  # a short batch stays last
        order = generator_at(self._seed, WINDOW_PURPOSE, self._window).permutation(whole)
        return [[example] for place in [*order, *range(whole, len(batches))] for example in batches[place]]

    def _next_example(self) -> Example | None:
        limits = self._config.limits
        passes: list[float] = []
        for _ in range(MAX_DROPPED_IN_A_ROW):
            example = self._stream.next()
            if example is None or limits.fits(example):
                return example
            if limits.too_long == "truncate":
                self.num_truncated += 1
                return limits.truncated(example)
            self.num_dropped += 1
            passes = passes or self._stream.passes()
            # The pass in which this began may be half over: only the end of the next one has seen everything.
            if all(now >= before + 2 for now, before in zip(self._stream.passes(), passes, strict=True)):
                raise DataError(f"all examples of a whole pass over the data {self._too_long_words()}")
        raise DataError(f"{MAX_DROPPED_IN_A_ROW:,} examples in a row {self._too_long_words()}")

    def _too_long_words(self) -> str:
        return (
            f"are longer than data.encoder_length = {self._config.encoder_length} or data.target_length = "
            f"{self._config.target_length}, and data.too_long is drop. Raise the lengths or truncate."
        )

    def _batch(self, rows: list[list[Example]]) -> Batch:
        config = self._config
        encoder_length, target_length = config.encoder_length, config.target_length
        if config.arrangement == "bucketed":
            longest_encoder = max(len(e.encoder_ids) for row in rows for e in row)
            longest_target = max(len(e.target_ids) for row in rows for e in row)
            encoder_length = min(encoder_length, _rounded_up(longest_encoder, config.length_multiple))
            target_length = min(target_length, _rounded_up(longest_target, config.length_multiple))
        return Batch.of_rows(rows, encoder_length=encoder_length, target_length=target_length)


def _rounded_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _plain(example: Example) -> State:
    return {
        "encoder_ids": example.encoder_ids.tolist(),
        "target_ids": example.target_ids.tolist(),
        "loss_weights": example.loss_weights.tolist(),
    }


def _example_of(saved: State) -> Example:
    return Example(
        encoder_ids=np.array(saved["encoder_ids"], np.int32),
        target_ids=np.array(saved["target_ids"], np.int32),
        loss_weights=np.array(saved["loss_weights"], np.float32),
    )

"""Examples one after another, from one source or mixed from several; where they stand is a few plain numbers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5kit.data.shuffling import generator_at
from t5kit.data.workers import BlockMaker, BlockPlace, num_blocks
from t5kit.errors import ConfigError, DataError
from t5kit.sources import BadRecord
from t5kit.tasks.example import Example
from t5kit.tasks.example_sources import ExampleBlock

DRAWS_PURPOSE = 2
DRAWS_AT_ONCE = 1024
NUM_SHOWN = 20

State = dict[str, Any]
"""Plain data: numbers, texts, lists and dicts, as JSON can hold them."""


class SourceStream:
    """The examples of one source, pass after pass; each pass is shuffled anew."""

    def __init__(self, maker: BlockMaker, source: int, *, num_epochs: int | None = None) -> None:
        if maker.sources[source].num_records < 1:
            raise DataError(f"data source {source} has no records.")
        self._maker = maker
        self._source = source
        self._num_epochs = num_epochs
        self._num_blocks = num_blocks(maker.sources[source])
        self._epoch = self._block = self._taken = 0
        self._num_examples_in_epoch = 0
        self._loaded: ExampleBlock | None = None
        self.num_bad = 0
        """Records that gave no example, counted again in every pass."""
        self.bad: list[BadRecord] = []
        """The first of those met by this process."""

    def next(self) -> Example | None:
        """Return the next example, or None after the last pass.

        Raises: DataError after a whole pass without a single example.
        """
        while self._num_epochs is None or self._epoch < self._num_epochs:
            if self._loaded is None:
                self._loaded = self._load()
            if self._taken < len(self._loaded.examples):
                self._taken += 1
                self._num_examples_in_epoch += 1
                return self._loaded.examples[self._taken - 1]
            self.num_bad += len(self._loaded.bad)
            self._loaded, self._taken, self._block = None, 0, self._block + 1
            if self._block == self._num_blocks:
                if not self._num_examples_in_epoch:
                    reason = self.bad[0].error if self.bad else "every text is too short."
                    raise DataError(
                        f"none of the {self._maker.sources[self._source].num_records} records gave an example; {reason}"
                    )
                self._num_examples_in_epoch, self._block, self._epoch = 0, 0, self._epoch + 1
        return None

    def state(self) -> State:
        """Return where the stream stands."""
        return {
            "epoch": self._epoch,
            "block": self._block,
            "taken": self._taken,
            "in_epoch": self._num_examples_in_epoch,
            "num_bad": self.num_bad,
        }

    def restore(self, state: State) -> None:
        """Stand where another stream of the same source and seed stood."""
        self._epoch, self._block, self._taken = int(state["epoch"]), int(state["block"]), int(state["taken"])
        self._num_examples_in_epoch, self.num_bad = int(state["in_epoch"]), int(state["num_bad"])
        self._loaded = None

    def _load(self) -> ExampleBlock:
        ahead = max(1, 2 * self._maker.num_workers // len(self._maker.sources))
        here = self._epoch * self._num_blocks + self._block
        places = [BlockPlace(self._source, *divmod(n, self._num_blocks)) for n in range(here, here + ahead + 1)]
        if self._num_epochs is not None:
            places = [place for place in places if place.epoch < self._num_epochs]
        block = self._maker.block(places[0], next_places=places[1:])
        self.bad += block.bad[: NUM_SHOWN - len(self.bad)]
        return block


@dataclasses.dataclass(frozen=True, slots=True)
class MixShare:
    """How much one member gave so far."""

    num_examples: int
    num_epochs: int
    num_bad: int


class MixedStream:
    """Examples drawn from several sources by rate; a source that has ended leaves its share to the others."""

    def __init__(self, maker: BlockMaker, rates: Sequence[float], *, seed: int, num_epochs: int | None = None) -> None:
        if len(rates) != len(maker.sources) or not all(rate > 0.0 for rate in rates):
            raise ConfigError(f"mixture.rates = {list(rates)} must be {len(maker.sources)} numbers above 0.")
        self._streams = [SourceStream(maker, n, num_epochs=num_epochs) for n in range(len(rates))]
        self._rates = np.array(rates, np.float64)
        self._seed = seed
        self._num_draws = 0
        self._given = [0] * len(rates)
        self._has_ended = [False] * len(rates)
        self._chosen: list[int] | None = None
        """The sources of the current chunk of draws, made anew when a source ends."""

    def next(self) -> Example | None:
        """Return the next example, or None when every source has ended."""
        while not all(self._has_ended):
            chosen = self._draw()
            example = self._streams[chosen].next()
            if example is not None:
                self._given[chosen] += 1
                return example
            self._has_ended[chosen], self._chosen = True, None
        return None

    def shares(self) -> list[MixShare]:
        """Return what each source gave so far."""
        return [
            MixShare(given, stream.state()["epoch"], stream.num_bad)
            for given, stream in zip(self._given, self._streams, strict=True)
        ]

    def bad(self) -> list[BadRecord]:
        """Return the first bad records of every source."""
        return [record for stream in self._streams for record in stream.bad]

    def state(self) -> State:
        """Return where the stream stands: a few numbers a source."""
        return {
            "num_draws": self._num_draws,
            "given": list(self._given),
            "has_ended": list(self._has_ended),
            "streams": [stream.state() for stream in self._streams],
        }

    def restore(self, state: State) -> None:
        """Stand where another stream of the same sources, rates and seed stood.

        Raises: DataError if the state is of another number of sources.
        """
        if len(state["streams"]) != len(self._streams):
            raise DataError(
                f"the saved data state has {len(state['streams'])} sources, this run {len(self._streams)}. Resume with "
                "the recipe that the run was started with."
            )
        self._num_draws, self._chosen = int(state["num_draws"]), None
        self._given, self._has_ended = list(state["given"]), list(state["has_ended"])
        for stream, saved in zip(self._streams, state["streams"], strict=True):
            stream.restore(saved)

    def _draw(self) -> int:
        chunk, place = divmod(self._num_draws, DRAWS_AT_ONCE)
        if self._chosen is None or place == 0:
            # Speed: a chunk at once; drawing one by one took 30 of 40 microseconds an example.
            draws = generator_at(self._seed, DRAWS_PURPOSE, chunk).random(DRAWS_AT_ONCE)
            upper = np.cumsum(np.where(self._has_ended, 0.0, self._rates))
            self._chosen = np.searchsorted(upper, draws * upper[-1], side="right").tolist()
        self._num_draws += 1
        return self._chosen[place]

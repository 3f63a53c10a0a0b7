"""Examples one after another, from one source or mixed from several; where they stand is a few plain numbers."""

import collections
import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from t5kit.data.shuffling import generator_at
from t5kit.data.streamed import RecordBlock, StreamedExamples, read_blocks
from t5kit.data.workers import BlockJob, BlockMaker, BlockPlace, num_blocks
from t5kit.errors import ConfigError, DataError
from t5kit.sources import BadRecord
from t5kit.tasks.example import Example
from t5kit.tasks.example_sources import ExampleSource

DRAWS_PURPOSE = 2
DRAWS_AT_ONCE = 1024
NUM_SHOWN = 20

State = dict[str, Any]
"""Plain data: numbers, texts, lists and dicts, as JSON can hold them."""


@dataclasses.dataclass(frozen=True, slots=True)
class FedBlock:
    """One block's examples, and the records that gave none."""

    examples: tuple[Example, ...]
    num_bad: int
    bad: tuple[BadRecord, ...]
    """The first of them."""
    checksum: int = 0
    """Of a stream's records up to here."""


class BlockFeed(Protocol):
    """A source's blocks in order: after block n of a pass block n + 1, or block 0 of the next pass."""

    def block(self, epoch: int, number: int) -> FedBlock | None:
        """Return a block, or None where the pass has no such block."""

    def restore(self, epoch: int, number: int, *, checksum: int) -> None:
        """Prepare to give this block next; checksum is that of the block before.

        Warns where a stream's records are not those that the saved run had.
        """

    def records(self) -> State:
        """Return what tells the records from others before any is read."""


class TableBlocks:
    """The blocks of a source with random access."""

    def __init__(self, maker: BlockMaker, source: int, examples: ExampleSource, *, num_epochs: int | None) -> None:
        if examples.num_records < 1:
            raise DataError(f"data source {source} has no records.")
        self._maker = maker
        self._source = source
        self._num_epochs = num_epochs
        self._num_blocks = num_blocks(examples)
        self._records = {"num_records": examples.num_records, "checksum": examples.checksum()}

    def block(self, epoch: int, number: int) -> FedBlock | None:
        """Return a block; the following ones are begun meanwhile."""
        if number >= self._num_blocks:  # above: the table has shrunk since the run was saved
            return None
        here = epoch * self._num_blocks + number
        ahead = range(here, here + blocks_ahead(self._maker) + 1)
        jobs = [BlockJob(BlockPlace(self._source, *divmod(n, self._num_blocks))) for n in ahead]
        if self._num_epochs is not None:
            jobs = [job for job in jobs if job.place.epoch < self._num_epochs]
        made = self._maker.block(jobs[0], next_jobs=jobs[1:])
        return FedBlock(made.examples, len(made.bad), made.bad)

    def restore(self, epoch: int, number: int, *, checksum: int) -> None:
        """Do nothing: every block can be had at once."""

    def records(self) -> State:
        """Return their number and a checksum."""
        return dict(self._records)


class StreamBlocks:
    """The blocks of a stream: read here, made here or by workers."""

    def __init__(self, maker: BlockMaker, source: int, examples: StreamedExamples) -> None:
        self._maker = maker
        self._source = source
        self._examples = examples
        self._epoch = self._number = 0
        """The next block to be taken."""
        self._unread = self._open()
        self._read: collections.deque[RecordBlock] = collections.deque()
        """Blocks read ahead."""

    def block(self, epoch: int, number: int) -> FedBlock | None:
        """Return the next block, reading on as far as workers can begin; epoch and number must be its."""
        if epoch != self._epoch:
            self._epoch, self._number = epoch, 0
            self._unread = self._open()
            self._read.clear()
        assert number == self._number, "blocks are taken in order"
        self._read_ahead(1 + blocks_ahead(self._maker))
        if not self._read:
            return None
        jobs = [
            BlockJob(BlockPlace(self._source, epoch, number + n), block.records) for n, block in enumerate(self._read)
        ]
        read = self._read.popleft()
        self._number += 1
        made = self._maker.block(jobs[0], next_jobs=jobs[1:])
        return FedBlock(made.examples, len(made.bad) + read.num_bad, (*read.bad, *made.bad), read.checksum)

    def restore(self, epoch: int, number: int, *, checksum: int) -> None:
        """Read the pass from its start and pass over the blocks before this one.

        Warns where their records are not those that the saved run had.
        """
        self._epoch, self._number = epoch, number
        self._unread = self._open()
        self._read.clear()
        passed = list(itertools.islice((block.checksum for block in self._unread), number))
        if len(passed) < number or (passed and passed[-1] != checksum):
            warnings.warn(
                f"data source {self._source} is a stream that gives other records than the saved run had: training "
                "goes on, but not as if it had never stopped.",
                stacklevel=2,
            )

    def records(self) -> State:
        """Return nothing: a stream's records are known when they come."""
        return {}

    def _open(self) -> Iterator[RecordBlock]:
        maker = self._maker
        return read_blocks(
            self._examples, seed=maker.seed, number=self._source, epoch=self._epoch, is_shuffled=maker.is_shuffled
        )

    def _read_ahead(self, count: int) -> None:
        self._read.extend(itertools.islice(self._unread, count - len(self._read)))


def blocks_ahead(maker: BlockMaker) -> int:
    """Return how many blocks of each source are begun before they are asked for."""
    return max(1, 2 * maker.num_workers // len(maker.sources)) if maker.num_workers else 0


class SourceStream:
    """The examples of one source, pass after pass; each pass is shuffled anew."""

    def __init__(self, maker: BlockMaker, source: int, *, num_epochs: int | None = None) -> None:
        examples = maker.sources[source]
        self._source = source
        self._feed: BlockFeed = (
            StreamBlocks(maker, source, examples)
            if isinstance(examples, StreamedExamples)
            else TableBlocks(maker, source, examples, num_epochs=num_epochs)
        )
        self._num_epochs = num_epochs
        self._epoch = self._block = self._taken = self._checksum = 0
        self._num_examples_in_epoch = 0
        self._loaded: FedBlock | None = None
        self.num_bad = 0
        """Records that gave no example, counted again in every pass."""
        self.bad: list[BadRecord] = []
        """The first of those met by this process."""
        self._num_bad_by_pass = [0, 0]
        """In the pass before and in this one."""

    def next(self) -> Example | None:
        """Return the next example, or None after the last pass.

        Raises: DataError after a whole pass without a single example.
        """
        while self._num_epochs is None or self._epoch < self._num_epochs:
            if self._loaded is None and not self._load():
                self._end_pass()
                continue
            assert self._loaded is not None
            if self._taken < len(self._loaded.examples):
                self._taken += 1
                self._num_examples_in_epoch += 1
                return self._loaded.examples[self._taken - 1]
            self.num_bad += self._loaded.num_bad
            self._num_bad_by_pass[1] += self._loaded.num_bad
            self._checksum = self._loaded.checksum
            self._loaded, self._taken, self._block = None, 0, self._block + 1
        return None

    @property
    def num_passes(self) -> int:
        """Passes that have ended."""
        return self._epoch

    @property
    def num_bad_in_pass(self) -> int:
        """Records that gave no example in this pass, or in the one before if it had more."""
        return max(self._num_bad_by_pass)

    def state(self) -> State:
        """Return where the stream stands."""
        return {
            "epoch": self._epoch,
            "block": self._block,
            "taken": self._taken,
            "in_epoch": self._num_examples_in_epoch,
            "num_bad": self.num_bad,
            "num_bad_by_pass": list(self._num_bad_by_pass),
            "checksum": self._checksum,
            "records": self._feed.records(),
        }

    def restore(self, state: State) -> None:
        """Stand where another stream of the same source and seed stood.

        Warns (UserWarning) where its records were others.
        """
        self._epoch, self._block, self._taken = int(state["epoch"]), int(state["block"]), int(state["taken"])
        self._num_examples_in_epoch, self.num_bad = int(state["in_epoch"]), int(state["num_bad"])
        self._num_bad_by_pass = [int(number) for number in state.get("num_bad_by_pass", (0, self.num_bad))]
        self._checksum = int(state.get("checksum", 0))
        self._loaded = None
        before, now = state.get("records") or {}, self._feed.records()
        if before and now and before != now:
            warnings.warn(
                f"data source {self._source} has other records than the saved run had ({before['num_records']:,} then, "
                f"{now['num_records']:,} now): training goes on, but not as if it had never stopped. Put the files "
                "back, or begin a new run.",
                UserWarning,
                stacklevel=2,
            )
        self._feed.restore(self._epoch, self._block, checksum=self._checksum)

    def _load(self) -> bool:
        """Take the next block of this pass; say whether there is one."""
        self._loaded = self._feed.block(self._epoch, self._block)
        if self._loaded is None:
            return False
        self.bad += self._loaded.bad[: NUM_SHOWN - len(self.bad)]
        return True

    def _end_pass(self) -> None:
        if not self._num_examples_in_epoch:
            reason = self.bad[0].error if self.bad else "there are none, or every text is too short."
            raise DataError(f"no record of a whole pass over the data gave an example; {reason}")
        self._num_examples_in_epoch = self._block = self._taken = self._checksum = 0
        self._num_bad_by_pass = [self._num_bad_by_pass[1], 0]
        self._epoch += 1


@dataclasses.dataclass(frozen=True, slots=True)
class MixShare:
    """How much one member gave so far."""

    num_examples: int
    num_epochs: int
    num_bad: int
    """Records that gave no example, counted again in every pass."""
    num_bad_in_pass: int
    """Those of the current pass, or of the one before if it had more."""


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
            MixShare(given, stream.num_passes, stream.num_bad, stream.num_bad_in_pass)
            for given, stream in zip(self._given, self._streams, strict=True)
        ]

    def passes(self) -> list[float]:
        """Return how many passes each source has ended; infinity where it gives nothing more."""
        return [
            math.inf if has_ended else stream.num_passes
            for stream, has_ended in zip(self._streams, self._has_ended, strict=True)
        ]

    def bad(self) -> list[list[BadRecord]]:
        """Return the first bad records of each source."""
        return [list(stream.bad) for stream in self._streams]

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

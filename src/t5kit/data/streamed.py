"""Streams as a source: records that come in one order, of unknown number, shuffled within a bounded buffer.

The promise: the order is a function of the stream and the seed, whatever the number of workers. A resumed run reads the
stream anew from its start and passes over what was given before, which costs that reading; it goes on to the bit if the
stream gives the same records again. A checksum tells; where they differ, a warning says so.
"""

import dataclasses
from collections.abc import Iterator

from t5kit.data.shuffling import generator_at
from t5kit.errors import ConfigError
from t5kit.sources import BadRecord, MemoryTable, ReadReport, Record, RecordStream
from t5kit.sources.tables import NUM_SHOWN, record_checksum
from t5kit.tasks.example_sources import DenoisingExamples, PairExamples

STREAM_PURPOSE = 4
"""generator_at's purpose of the draws from shuffle buffers, under the seed plus the number of the source."""

NO_RECORDS = MemoryTable((), ReadReport(0, 0, (), {}))
"""The table of examples that are made of a stream."""


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedExamples:
    """Examples of a stream's records.

    Example: StreamedExamples(stream_files("c4/*.json.gz", format="jsonl"), PairExamples(form, NO_RECORDS, tokenizer))
    """

    stream: RecordStream
    """Read from its start in every pass, by the process that trains."""
    examples: PairExamples | DenoisingExamples
    """How records become examples; its own table is not read."""
    shuffle_buffer: int = 10_000
    """Records held in memory, of which the next one is drawn. One comes about so many places from where it stood; a
    stream sorted by kind needs a buffer larger than its runs of one kind."""

    def __post_init__(self) -> None:
        if self.shuffle_buffer < 1:
            raise ConfigError(f"data.shuffle_buffer = {self.shuffle_buffer} must be at least 1 (1: as they come).")

    @property
    def block_size(self) -> int:
        """How many records make a block."""
        return self.examples.block_size


@dataclasses.dataclass(frozen=True, slots=True)
class RecordBlock:
    """The records of one block, not yet examples."""

    records: tuple[Record, ...]
    """None in a last block that has only bad ones."""
    num_bad: int
    """Bad records that reading met since the block before."""
    bad: tuple[BadRecord, ...]
    """The first of them."""
    checksum: int
    """CRC-32 over all records given so far in this pass."""


def read_blocks(
    source: StreamedExamples, *, seed: int, number: int, epoch: int, is_shuffled: bool
) -> Iterator[RecordBlock]:
    """Yield the blocks of one pass over a stream; number is the source's place in the mixture.

    The buffer is filled first; then a record is drawn from it, and the next of the stream takes its place.
    """
    unread = iter(source.stream)
    buffer: list[Record] = []
    capacity = source.shuffle_buffer if is_shuffled else 1
    checksum = block = 0
    has_ended = False
    while not has_ended or buffer:
        draws = generator_at(seed + number, STREAM_PURPOSE, epoch, block).random(source.block_size)
        records: list[Record] = []
        bad: list[BadRecord] = []
        num_bad = 0
        while len(records) < source.block_size and not (has_ended and not buffer):
            while len(buffer) < capacity and not has_ended:
                found = next(unread, None)
                if isinstance(found, Record):
                    buffer.append(found)
                elif found is None:
                    has_ended = True
                else:
                    num_bad += 1
                    bad += [found] * (len(bad) < NUM_SHOWN)
            if buffer:
                place = int(draws[len(records)] * len(buffer))
                buffer[place], buffer[-1] = buffer[-1], buffer[place]
                records.append(buffer.pop())
        for record in records:
            checksum = record_checksum(record, checksum)
        if records or num_bad:
            yield RecordBlock(tuple(records), num_bad, tuple(bad), checksum)
        block += 1

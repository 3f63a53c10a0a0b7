"""Blocks of examples, made here or by worker processes; either way the same blocks in the same order."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from typing import Self

import numpy as np

from t5kit.data.shuffling import generator_at, shuffled_indices
from t5kit.data.streamed import NO_RECORDS, StreamedExamples
from t5kit.errors import ConfigError, T5kitError
from t5kit.sources import Record
from t5kit.tasks.example_sources import DenoisingExamples, ExampleBlock, ExampleSource, PairExamples

AnySource = ExampleSource | StreamedExamples

FIRST_SOURCE_PURPOSE = 16
"""generator_at's purpose of source 0; lower numbers are the data stage's own."""


@dataclasses.dataclass(frozen=True, slots=True)
class BlockPlace:
    """Which block: of which source, in which pass over it, and the how-manieth."""

    source: int
    epoch: int
    block: int


@dataclasses.dataclass(frozen=True, slots=True)
class BlockJob:
    """A block to be made: of its place alone, or, in a stream, of these records."""

    place: BlockPlace
    records: tuple[Record, ...] | None = None


def num_blocks(source: ExampleSource) -> int:
    """Return how many blocks make one pass."""
    return -(-source.num_records // source.block_size)


def make_block(sources: Sequence[ExampleSource], job: BlockJob, *, seed: int, is_shuffled: bool) -> ExampleBlock:
    """Return one block: a function of its arguments alone. Streams stand among the sources as their `examples`."""
    place = job.place
    source = sources[place.source]
    rng = generator_at(seed, FIRST_SOURCE_PURPOSE + place.source, place.epoch, place.block)
    if job.records is not None:
        assert isinstance(source, PairExamples | DenoisingExamples), "a stream's examples"
        table = dataclasses.replace(NO_RECORDS, records=job.records)
        return dataclasses.replace(source, table=table).block(range(len(table)), rng=rng)
    first = place.block * source.block_size
    positions = np.arange(first, min(first + source.block_size, source.num_records))
    if is_shuffled:
        positions = shuffled_indices(positions, source.num_records, seed=seed + place.source, epoch=place.epoch)
    return source.block(positions.tolist(), rng=rng)


class BlockMaker:
    """Makes blocks, with num_workers processes if there are any; use it as a context, or `close` it.

    Workers are started by spawning, which is safe beside threads and GPUs: sources, tokenizers and preparing functions
    must be picklable (streams need not be: they are read here), and a script needs its `if __name__ == "__main__":`.
    """

    def __init__(self, sources: Sequence[AnySource], *, seed: int, is_shuffled: bool, num_workers: int) -> None:
        if num_workers < 0:
            raise ConfigError(f"data.num_workers = {num_workers} must be at least 0 (0: no processes beside this one).")
        self.sources = tuple(sources)
        self.num_workers = num_workers
        self.seed = seed
        self.is_shuffled = is_shuffled
        self._made_of = tuple(one.examples if isinstance(one, StreamedExamples) else one for one in self.sources)
        self._pending: dict[BlockPlace, concurrent.futures.Future[ExampleBlock]] = {}
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        if num_workers:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                num_workers,
                multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self._made_of, seed, is_shuffled),
            )

    def block(self, job: BlockJob, *, next_jobs: Sequence[BlockJob] = ()) -> ExampleBlock:
        """Return a block; next_jobs are likely to be asked for next and are begun meanwhile."""
        place = job.place
        if self._pool is None:
            return make_block(self._made_of, job, seed=self.seed, is_shuffled=self.is_shuffled)
        try:
            for wanted in (job, *next_jobs):
                if wanted.place not in self._pending:
                    self._pending[wanted.place] = self._pool.submit(_work, wanted)
            return self._pending.pop(place).result()
        except concurrent.futures.BrokenExecutor as error:
            raise WorkerError(
                f"a data worker died while the block {place} was made ({error}). Its memory may have run out: use "
                "fewer workers (data.num_workers), or 0 to see the error itself."
            ) from error

    def close(self) -> None:
        """Stop the workers; blocks they have begun are thrown away."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WorkerError(T5kitError, RuntimeError):
    """A worker process died."""


_worker_arguments: tuple[tuple[ExampleSource, ...], int, bool] | None = None
"""What a worker process was started with; set once, in the worker alone."""


def _start_worker(sources: tuple[ExampleSource, ...], seed: int, is_shuffled: bool) -> None:
    global _worker_arguments
    _worker_arguments = (sources, seed, is_shuffled)
    # Ctrl-C reaches the whole process group; the process that trains finishes its step and closes the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone: one that was killed closes no pool."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by a process"
    parent.join()
    os._exit(1)


def _work(job: BlockJob) -> ExampleBlock:
    assert _worker_arguments is not None
    sources, seed, is_shuffled = _worker_arguments
    return make_block(sources, job, seed=seed, is_shuffled=is_shuffled)

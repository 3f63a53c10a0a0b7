"""A run's data as its recipe says it: tasks opened and mixed, batches to train on and batches to evaluate on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t5kit.data.batch import Batch
from t5kit.data.config import DataConfig
from t5kit.data.loading import BatchLoader
from t5kit.data.streamed import NO_RECORDS, StreamedExamples
from t5kit.data.streams import MixedStream
from t5kit.data.workers import BlockMaker
from t5kit.errors import ConfigError, DataError
from t5kit.sources import BadRecord
from t5kit.tasks.configured import DEV, TRAIN, OpenedTask, open_task
from t5kit.tasks.example_sources import ExampleSource, PrefixedExamples
from t5kit.tasks.mixture import Mixture, proportional_rates, rates_by_name
from t5kit.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingData:
    """The batches of a run, with what makes them; use it as a context, or `close` it."""

    mixture: Mixture[OpenedTask]
    """The tasks that training draws from."""
    maker: BlockMaker
    loader: BatchLoader

    def close(self) -> None:
        """Stop the workers."""
        self.maker.close()

    def __enter__(self) -> "TrainingData":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tasks(config: DataConfig, *, seed: int, splits: Sequence[str] = (TRAIN, DEV)) -> tuple[OpenedTask, ...]:
    """Return the recipe's tasks with these splits. Raises: ConfigError, DataError"""
    folder = Path(config.dir).expanduser()
    return tuple(open_task(name, task, folder, seed=seed, splits=splits) for name, task in config.tasks.items())


def make_mixture(config: DataConfig, tasks: Sequence[OpenedTask]) -> Mixture[OpenedTask]:
    """Return the tasks that have train records and a rate above 0. Raises: ConfigError if there is none."""
    if config.mixture.kind == "fixed":
        rates = rates_by_name([task.name for task in tasks], config.mixture.rates)
        for task, rate in zip(tasks, rates, strict=True):
            if rate and not task.is_trained:
                raise ConfigError(
                    f"data.mixture.rates.{task.name} = {rate}, but the task has no train files. Name some, or set 0."
                )
    else:
        sizes: list[float] = [task.size for task in tasks]
        trained = [task for task in tasks if task.is_trained]
        unsaid = next((task.name for task in trained if not task.size), None)
        if len(trained) == 1:
            sizes = [float(task.is_trained) for task in tasks]
        elif unsaid is not None:
            raise ConfigError(
                f"data.tasks.{unsaid} is streamed, so its size is not known: say data.tasks.{unsaid}.num_examples, or "
                'mix by data.mixture.kind = "fixed".'
            )
        rates = proportional_rates(sizes, maximum=config.mixture.maximum, temperature=config.mixture.temperature)
    drawn = [(task, rate) for task, rate in zip(tasks, rates, strict=True) if rate]
    if not drawn:
        raise ConfigError("data.mixture: every rate is 0, so there is nothing to learn from.")
    return Mixture(tuple(task for task, _ in drawn), tuple(rate for _, rate in drawn))


def training_data(
    config: DataConfig,
    tasks: Sequence[OpenedTask],
    tokenizer: Tokenizer,
    *,
    seed: int,
    prefix_ids: np.ndarray | None = None,
) -> TrainingData:
    """Return the batches that a run trains on; prefix_ids stand before every input. Raises: ConfigError, DataError"""
    mixture = make_mixture(config, tasks)
    sources = [_source(config, task, tokenizer, prefix_ids) for task in mixture.members]
    maker = BlockMaker(sources, seed=seed, is_shuffled=True, num_workers=config.num_workers)
    stream = MixedStream(maker, mixture.rates, seed=seed, num_epochs=config.num_epochs or None)
    return TrainingData(mixture, maker, BatchLoader(stream, config.batches, seed=seed))


def _source(
    config: DataConfig, task: OpenedTask, tokenizer: Tokenizer, prefix_ids: np.ndarray | None
) -> ExampleSource | StreamedExamples:
    lengths = dict(encoder_length=config.encoder_length, target_length=config.target_length)
    if task.stream is None:
        task.check_usable(TRAIN)
        return _prefixed(task.examples(TRAIN, tokenizer, **lengths), prefix_ids)
    if prefix_ids is not None:
        raise ConfigError(
            f"data.tasks.{task.name}.is_streamed: records that are streamed cannot be given a prompt of vectors. "
            "Hold them in memory, or choose another adaptation.method."
        )
    return StreamedExamples(
        task.stream, task.examples_of(NO_RECORDS, tokenizer, **lengths), shuffle_buffer=task.config.shuffle_buffer
    )


def _prefixed(source: ExampleSource, prefix_ids: np.ndarray | None) -> ExampleSource:
    return source if prefix_ids is None else PrefixedExamples(source, prefix_ids)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class EvaluationBatches:
    """A split in batches, each example once, with what did not come into them as it stands."""

    batches: tuple[Batch, ...]
    """At least one."""
    num_truncated: int
    """Examples that were cut to the lengths."""
    num_dropped: int
    """Examples that were too long and left out."""
    num_bad: int
    """Records that gave no example."""
    bad: tuple[BadRecord, ...] = ()
    """The first of them."""


def evaluation_batches(
    config: DataConfig,
    task: OpenedTask,
    tokenizer: Tokenizer,
    *,
    split: str = DEV,
    max_examples: int = 0,
    seed: int = 0,
    prefix_ids: np.ndarray | None = None,
) -> EvaluationBatches:
    """Return a split once, in batches of training's own lengths and rows; the same ones at every call.

    An objective corrupts the same tokens every time. max_examples: only the first batches of a shuffled order, until
    they hold so many; 0: all.
    Raises: DataError if no record gives an example, or none of them is within lengths that leave out longer ones.
    """
    source = _prefixed(
        task.examples(split, tokenizer, encoder_length=config.encoder_length, target_length=config.target_length),
        prefix_ids,
    )
    with BlockMaker([source], seed=seed, is_shuffled=max_examples > 0, num_workers=0) as maker:
        loader = BatchLoader(MixedStream(maker, [1.0], seed=seed, num_epochs=1), config.batches, seed=seed)
        try:
            batches = _first_batches(loader, max_examples) if max_examples else tuple(loader)
        except DataError as error:
            raise DataError(f"data.tasks.{task.name}.{split}: {error}") from error
    if not batches:
        raise DataError(
            f"data.tasks.{task.name}.{split}: all {loader.num_dropped:,} examples are longer than data.encoder_length "
            f"= {config.encoder_length} or data.target_length = {config.target_length}, and data.too_long is drop. "
            "Raise the lengths or truncate."
        )
    num_bad = sum(share.num_bad for share in loader.shares())
    return EvaluationBatches(batches, loader.num_truncated, loader.num_dropped, num_bad, tuple(loader.bad()[0]))


def _first_batches(loader: BatchLoader, max_examples: int) -> tuple[Batch, ...]:
    taken: list[Batch] = []
    num_examples = 0
    while num_examples < max_examples and (batch := next(loader, None)) is not None:
        taken.append(batch)
        num_examples += batch.num_examples()
    return tuple(taken)

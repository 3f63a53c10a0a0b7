"""What a recipe will do, before it does it: its examples as the model sees them, lengths, shares, memory and time."""

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from t5kit.api.run_parts import RunParts, open_parts
from t5kit.api.training import has_torch
from t5kit.data.configured import TrainingData, open_tasks, training_data
from t5kit.data.statistics import DataStatistics, measure
from t5kit.recipe import RunConfig
from t5kit.tasks import Example
from t5kit.tasks.configured import TRAIN, OpenedTask
from t5kit.text import Tokenizer

if TYPE_CHECKING:
    from t5kit.training.measuring import StepCost

NUM_BAD_SHOWN = 5
"""Bad records of a task that stand in the text; JSON has more."""


@dataclasses.dataclass(frozen=True)
class ShownExample:
    """One example in words."""

    encoder: str
    target: str
    num_encoder_ids: int
    num_target_ids: int


@dataclasses.dataclass(frozen=True)
class TaskDescription:
    """One task's records and some of its examples."""

    name: str
    num_records: dict[str, int]
    """By split, as far as training opens them."""
    num_unreadable: int
    """Lines of its files that are no records."""
    bad: tuple[str, ...]
    """The first of these, and of the records looked at that give no example: file, line and reason of each."""
    share: float
    """Of the examples, by the mixture's rates; 0 for a task that is only evaluated."""
    examples: tuple[ShownExample, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeDescription:
    """Everything that `t5kit inspect RECIPE.toml` tells."""

    num_parameters: int
    model: str
    vocabulary: str
    tasks: tuple[TaskDescription, ...]
    statistics: DataStatistics
    """Of the first batches; sources are the tasks that are trained on, in order."""
    num_steps: int
    epochs: float | None
    """Passes over the train records that the steps make; None for tasks of running text and mixtures."""
    cost: "StepCost | None"
    """Of one step; None without PyTorch, or if it was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data for JSON."""
        return dataclasses.asdict(self)

    def to_text(self, width: int | None = None) -> str:
        """Return the description for people. width: columns of a terminal, to which lines of examples are cut."""
        lines = [f"model       {self.model}, {self.num_parameters:,} parameters", f"vocabulary  {self.vocabulary}"]
        for task in self.tasks:
            lines += ["", *_task_lines(task, width)]
        names = [task.name for task in self.tasks if task.share]
        text = str(self.statistics)
        for number, name in enumerate(names):
            text = text.replace(f"source {number}:", f"{name}:")
        lines += ["", f"First {self.statistics.num_batches} batches:", *(f"  {line}" for line in text.splitlines())]
        lines += ["", *self._cost_lines()]
        return "\n".join(lines)

    def _cost_lines(self) -> list[str]:
        epochs = "" if self.epochs is None else f", about {self.epochs:.1f} passes over the records"
        lines = [f"steps       {self.num_steps:,}{epochs}"]
        if self.cost is None:
            return [*lines, "time        not measured"]
        cost = self.cost
        parts = {
            "weights and gradients": cost.weights_bytes,
            "optimizer": cost.optimizer_bytes,
            "activations": cost.activations_bytes,
        }
        shown = ", ".join(f"{name} {_megabytes(size)}" for name, size in parts.items())
        lines.append(f"memory      about {_megabytes(cost.memory_bytes)}: {shown}")
        lines.append(
            f"time        {cost.seconds:.3g} s a step (measured on {cost.num_rows} rows), "
            f"{_duration(cost.seconds * self.num_steps)} in all without evaluations"
        )
        lines.append(
            f"work        {cost.flops / 1e9:,.1f} GFLOP a step, {cost.flops / cost.seconds / 1e9:,.1f} GFLOP a second"
        )
        return lines


def inspect_recipe(
    config: RunConfig, *, num_examples: int = 2, num_batches: int = 50, measures: bool = True
) -> RecipeDescription:
    """Return what a recipe will do; nothing is written.

    num_examples: shown of each task. num_batches: looked at for the statistics. measures: whether a step is timed.
    Raises: what training would raise for this recipe before its first step.
    """
    tasks = open_tasks(config.data, seed=config.training.seed)
    parts = open_parts(config, tasks)
    seed = config.training.seed
    alone = dataclasses.replace(config.data, num_workers=0)
    with training_data(alone, tasks, parts.tokenizer, seed=seed) as data:
        statistics = measure(data.loader, num_batches=min(num_batches, config.training.num_steps))
        described = tuple(_describe(task, config, data, parts.tokenizer, num_examples=num_examples) for task in tasks)
    cost = _cost(config, tasks, parts) if measures and has_torch() else None
    return RecipeDescription(
        num_parameters=parts.architecture.num_parameters,
        model=_model_words(config, parts),
        vocabulary=_vocabulary_words(config, parts.tokenizer),
        tasks=described,
        statistics=statistics,
        num_steps=config.training.num_steps,
        epochs=_epochs(config, tasks, statistics),
        cost=cost,
    )


def render(ids: Sequence[int], tokenizer: Tokenizer, *, has_sentinels: bool) -> str:
    """Return ids as text, with the sentinels of a denoising example spelt out where a vocabulary does not.

    Sentinels are used in order, so an id is one only when its turn has come (ByT5's are ids of bytes).
    """
    ids = [int(token_id) for token_id in ids]
    if not has_sentinels:
        return tokenizer.decode(ids)
    parts: list[str] = []
    pending: list[int] = []
    index = 0
    for token_id in ids:
        if index < tokenizer.num_sentinels and token_id == tokenizer.sentinel_id(index):
            parts += [tokenizer.decode(pending), f" <extra_id_{index}> "]
            pending, index = [], index + 1
        else:
            pending.append(token_id)
    return "".join([*parts, tokenizer.decode(pending)]).strip()


def _describe(
    task: OpenedTask, config: RunConfig, data: TrainingData, tokenizer: Tokenizer, *, num_examples: int
) -> TaskDescription:
    names = [member.name for member in data.mixture.members]
    share = data.mixture.shares()[names.index(task.name)] if task.name in names else 0.0
    splits = task.task.splits
    unreadable = [bad for report in task.reports.values() for bad in report.bad]
    unusable = data.loader.bad()[names.index(task.name)] if task.name in names else []
    shown: list[ShownExample] = []
    if task.is_trained and num_examples:
        with contextlib.closing(_alone(config, task, tokenizer)) as alone:
            examples = (example for batch in alone.loader for row in batch.examples() for example in row)
            for example in itertools.islice(examples, num_examples):
                shown.append(_shown(example, tokenizer, has_sentinels=task.objective is not None))
    return TaskDescription(
        name=task.name,
        num_records={split: len(table) for split, table in splits.items()},
        num_unreadable=sum(report.num_bad for report in task.reports.values()),
        bad=tuple(dict.fromkeys(bad.error for bad in (*unreadable, *unusable))),  # a second pass meets them again
        share=share,
        examples=tuple(shown),
    )


def _alone(config: RunConfig, task: OpenedTask, tokenizer: Tokenizer) -> TrainingData:
    """Return the batches of one task by itself."""
    data = dataclasses.replace(
        config.data,
        tasks={task.name: task.config},
        mixture=type(config.data.mixture)(),
        num_workers=0,
        window_batches=1,
    )
    return training_data(data, [task], tokenizer, seed=config.training.seed)


def _shown(example: Example, tokenizer: Tokenizer, *, has_sentinels: bool) -> ShownExample:
    return ShownExample(
        encoder=render(example.encoder_ids.tolist(), tokenizer, has_sentinels=has_sentinels),
        target=render(example.target_ids.tolist(), tokenizer, has_sentinels=has_sentinels),
        num_encoder_ids=len(example.encoder_ids),
        num_target_ids=len(example.target_ids),
    )


def _cost(config: RunConfig, tasks: Sequence[OpenedTask], parts: RunParts) -> "StepCost":
    from t5kit.training.measuring import measure_step

    alone = dataclasses.replace(config.data, num_workers=0)
    prefix_ids = parts.prefix_ids(config)
    with training_data(alone, tasks, parts.tokenizer, seed=config.training.seed, prefix_ids=prefix_ids) as data:
        batch = next(data.loader)
    return measure_step(
        parts.architecture,
        batch,
        loss=config.loss,
        compute=config.compute,
        optimizer=config.optimizer,
        adaptation=config.adaptation,
    )


def _epochs(config: RunConfig, tasks: Sequence[OpenedTask], statistics: DataStatistics) -> float | None:
    trained = [task for task in tasks if task.is_trained]
    if len(trained) != 1 or trained[0].objective is not None or trained[0].stream is not None:
        return None
    return (
        config.training.num_steps * statistics.num_examples / statistics.num_batches / len(trained[0].task.split(TRAIN))
    )


def _model_words(config: RunConfig, parts: RunParts) -> str:
    a = parts.architecture
    sizes = (
        f"{a.num_encoder_layers} encoder + {a.num_decoder_layers} decoder layers, d_model {a.d_model}, d_ff {a.d_ff}"
    )
    return f"{f'from {config.model.start}' if config.model.start else 'fresh'}: {sizes}"


def _vocabulary_words(config: RunConfig, tokenizer: Tokenizer) -> str:
    source = {"model": "the start's", "folder": config.vocabulary.path, "bytes": "bytes"}.get(
        config.vocabulary.source, f"{config.vocabulary.source}, made of the train records"
    )
    return f"{source}: {tokenizer.vocab_size:,} ids, {tokenizer.num_sentinels} of them sentinels"


def _task_lines(task: TaskDescription, width: int | None) -> list[str]:
    records = ", ".join(f"{split} {count:,}" for split, count in task.num_records.items()) or "streamed"
    share = f"{100 * task.share:.1f} % of the examples" if task.share else "only evaluated"
    lines = [f"task {task.name}: {records} records; {share}"]
    if task.num_unreadable:
        lines[0] += f"; {task.num_unreadable:,} lines cannot be read"
    lines += [f"  bad: {error}" for error in task.bad[:NUM_BAD_SHOWN]]
    for example in task.examples:
        lines.append(_cut(f"  {example.num_encoder_ids:4} ids  {_short(example.encoder)}", width))
        lines.append(_cut(f"  {example.num_target_ids:4} ids  -> {_short(example.target)}", width))
    return lines


def _cut(line: str, width: int | None) -> str:
    """Return a line of at most so many columns; letters of two columns count as two."""
    if width is None or cell_len(line) <= width:
        return line
    return set_cell_size(line, width - 1).rstrip() + "…"


def _short(text: str, limit: int = 400) -> str:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    """Return a duration in words: 4523 -> "1 h 15 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

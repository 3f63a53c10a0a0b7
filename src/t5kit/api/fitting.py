"""Training without a recipe: data given in Python, every setting that was not named chosen from the data.

What comes out is a run like any other: its folder holds the records and the resolved recipe that trains it again.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

import numpy as np

from t5kit.api.training import GivenRecords, train_config
from t5kit.data.config import DataConfig
from t5kit.data.vocabulary import training_pairs
from t5kit.errors import DataError, RequestError
from t5kit.evaluation.config import EvaluationConfig
from t5kit.evaluation.pair_form import PairColumns
from t5kit.metrics import metric_named
from t5kit.model.config import ModelConfig
from t5kit.recipe import RunConfig
from t5kit.sources import BadRecord, MemoryTable, ReadReport, RecordTable, read_table, table_of, text_field
from t5kit.sources.records import Format
from t5kit.sources.tables import NUM_SHOWN
from t5kit.tasks.config import ObjectiveConfig, ObjectiveName, TaskConfig
from t5kit.tasks.configured import DEV, TRAIN, OpenedTask, hold_out, make_form
from t5kit.tasks.objectives import SpanCorruption
from t5kit.tasks.task import Task
from t5kit.text import Tokenizer
from t5kit.training.config import ComputeConfig, LossConfig, OptimizerConfig, Precision, ScheduleConfig, TrainingConfig

if TYPE_CHECKING:
    from t5kit.training.hooks import Hook, TrainingResult

FitData = str | Path | Sequence[str | Path] | Iterable[Mapping[str, object]] | Iterable[tuple[str, str]]
"""Files, globs and folders, or rows: mappings of fields, or pairs of input and target."""
CorpusData = str | Path | Iterable[str] | Iterable[Path] | Iterable[Mapping[str, object]]
"""One file, glob or folder by its name, several as Path objects; or texts; or mappings of fields."""

TASK = "data"
"""What the one task of such a run is called."""
LEAST_ROW = 256
"""Short examples are packed into rows of at least so many encoder positions."""
LONGEST_ROW = 1024
"""Longer examples are cut, unless max_input_tokens says otherwise."""
MOST_HELD_OUT = 1000
HELD_OUT_SHARE = 0.05
FEWEST_TO_HOLD_OUT = 40
"""Of fewer records nothing is held out, for it would say little."""
SAMPLED = 20_000
"""Records whose lengths are measured; of more, so many at even distances."""
FILL = 0.95
"""Share of packed rows that holds tokens, for the number of steps; packing reaches 0.95 to 0.99."""


class FitArguments(TypedDict, total=False):
    """The keywords of `Model.fit` and `Model.train` that are FitSettings' fields."""

    num_epochs: float
    num_steps: int | None
    batch_tokens: int
    lr: float
    max_input_tokens: int | None
    max_target_tokens: int | None
    precision: Precision
    threads: int | None
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What a person may say about such a run; everything else follows from the data."""

    num_epochs: float = 3.0
    """Passes over the records."""
    num_steps: int | None = None
    """Updates, in place of passes."""
    batch_tokens: int = 4096
    """Encoder positions of a batch, padding counted."""
    lr: float = 1e-3
    """Adafactor's learning rate, constant (Raffel et al. 2020: 1e-3 for fine-tuning)."""
    max_input_tokens: int | None = None
    """Longer inputs are cut before EOS."""
    max_target_tokens: int | None = None
    """Longer targets are cut before EOS."""
    precision: Precision = "float32"
    """float32, or bfloat16 where the processor multiplies it fast."""
    threads: int | None = None
    """Processor threads; None: PyTorch's default."""
    seed: int = 0
    """Decides everything random."""

    @classmethod
    def of(cls, arguments: FitArguments) -> Self:
        """Return the settings of a call's keywords. Raises: RequestError naming the nearest for an unknown one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for word in arguments:
            if word not in known:
                near = difflib.get_close_matches(word, known, n=2)
                hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(known)}."
                raise RequestError(f"fit and train have no option {word!r}.{hint}")
        return cls(**arguments)

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_tokens", "lr"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                raise RequestError(f"{name} = {value!r} must be a number above 0.")
        for name in ("num_steps", "max_input_tokens", "max_target_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise RequestError(f"{name} = {value!r} must be an integer of at least 1, or None.")


def fit(
    start: Path,
    tokenizer: Tokenizer,
    data: FitData,
    dev: FitData | None,
    run_folder: Path,
    *,
    settings: FitSettings,
    input: str = "",
    target: str = "",
    format: Format | None = None,
    metrics: Sequence[str] = (),
    hooks: "Sequence[Hook]" = (),
) -> "TrainingResult":
    """Fine-tune the model folder `start` on pairs and return what came of it; see `Model.fit`."""
    for name in metrics:
        metric_named(name)
    columns = PairColumns(input, target)
    tables = {TRAIN: _pairs(data, columns, format)}
    if dev is not None:
        tables[DEV] = _pairs(dev, columns, format)
    return _train(
        start,
        tokenizer,
        tables,
        TaskConfig(metrics=tuple(metrics), train=("train.jsonl",)),
        run_folder,
        settings,
        hooks,
    )


def pretrain(
    start: Path,
    tokenizer: Tokenizer,
    corpus: CorpusData,
    run_folder: Path,
    *,
    settings: FitSettings,
    objective: ObjectiveName = "span_corruption",
    format: Format | None = None,
    field: str = "text",
    hooks: "Sequence[Hook]" = (),
) -> "TrainingResult":
    """Go on with pre-training the model folder `start` on running text; see `Model.train`."""
    table = _corpus(corpus, format)
    texts: list[str] = []
    bad: list[BadRecord] = []
    for n in range(len(table)):
        text = text_field(table[n], field)
        if isinstance(text, str):
            texts.append(text)
        else:
            bad.append(text)
    if not texts:
        raise DataError(f"no record of the corpus has a text in its field {field!r}; {bad[0].error}")
    config = TaskConfig(objective=ObjectiveConfig(name=objective), train=("train.jsonl",))
    kept = _with_report(table_of(texts), table.report, bad)
    return _train(start, tokenizer, {TRAIN: kept}, config, run_folder, settings, hooks)


def _train(
    start: Path,
    tokenizer: Tokenizer,
    given: Mapping[str, MemoryTable],
    task: TaskConfig,
    run_folder: Path,
    settings: FitSettings,
    hooks: "Sequence[Hook]",
) -> "TrainingResult":
    tables: dict[str, RecordTable] = dict(given)
    num_records = len(tables[TRAIN])
    if DEV in tables:
        task = dataclasses.replace(task, dev=("dev.jsonl",))
    elif num_records >= FEWEST_TO_HOLD_OUT:
        num_held_out = min(MOST_HELD_OUT, math.ceil(HELD_OUT_SHARE * num_records))
        tables[TRAIN], tables[DEV] = hold_out(tables[TRAIN], num_held_out, name=TASK, seed=settings.seed)
        task = dataclasses.replace(task, dev=("dev.jsonl",))
    reports = {split: table.report for split, table in given.items()}
    opened = OpenedTask(Task(TASK, make_form(task), tables), task.objective, task, reports=reports)
    lengths = _measure(opened, tokenizer)
    records = {f"{split}.jsonl": _json_lines(table) for split, table in tables.items()}
    config = _config(start, task, lengths, settings, data_folder=run_folder.absolute() / GivenRecords.FOLDER)
    return train_config(config, run_folder, given=GivenRecords((opened,), records), hooks=hooks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Lengths:
    """Of all train examples: the longest sides, and all ids of each (by a sample of the records)."""

    longest_encoder: int
    longest_target: int
    encoder_ids: float
    target_ids: float


def _measure(task: OpenedTask, tokenizer: Tokenizer) -> _Lengths:
    """Return how long the examples are; running text is cut to any length, so there its whole number of ids counts."""
    table = task.task.split(TRAIN)
    step = -(-len(table) // SAMPLED)
    sample = dataclasses.replace(
        task,
        task=dataclasses.replace(
            task.task, splits={TRAIN: table_of([table[n].fields for n in range(0, len(table), step)])}
        ),
    )
    if task.objective is not None:
        texts = [str(sample.task.split(TRAIN)[n].fields["text"]) for n in range(len(sample.task.split(TRAIN)))]
        ids = float(sum(len(ids) for ids in tokenizer.encode_batch(texts, add_eos=False)) * step)
        return _Lengths(longest_encoder=512, longest_target=114, encoder_ids=0.9 * ids, target_ids=0.2 * ids)
    pairs = list(training_pairs([sample]))
    if not pairs:
        raise DataError("no record of the data gives an input and a target.")
    prompts = [pair.prompt for pair in pairs]
    encoder = np.array([len(ids) for ids in tokenizer.encode_batch(prompts)])
    target = np.array([len(ids) for ids in tokenizer.encode_targets([pair.target for pair in pairs], prompts)])
    return _Lengths(
        longest_encoder=int(encoder.max()),
        longest_target=int(target.max()),
        encoder_ids=float(encoder.sum() * step),
        target_ids=float(target.sum() * step),
    )


def _config(start: Path, task: TaskConfig, lengths: _Lengths, settings: FitSettings, *, data_folder: Path) -> RunConfig:
    """Return the run: rows that both sides fill alike, and as many steps as passes are asked for."""
    most_input, most_target = settings.max_input_tokens or LONGEST_ROW, settings.max_target_tokens or LONGEST_ROW
    longest_target = min(lengths.longest_target, most_target)
    if task.objective is not None:
        encoder_length = settings.max_input_tokens or 512
        target_length = encoder_length  # of most objectives, all of the text may stand on both sides
        if task.objective.name == "span_corruption":
            spans = SpanCorruption(task.objective.noise_density, task.objective.mean_span_length)
            _, target_length = spans.lengths(spans.raw_length(encoder_length))
    else:
        # A row's lengths are an example's limits too: where something is to be cut, the rows are no longer than that.
        encoder_length, target_length = most_input, most_target
        if lengths.longest_encoder <= most_input:
            encoder_length = max(LEAST_ROW, _multiple_of_8(lengths.longest_encoder))
        if lengths.longest_target <= most_target:
            balanced = math.ceil(encoder_length * lengths.target_ids / max(lengths.encoder_ids, 1.0))
            target_length = _multiple_of_8(max(longest_target, min(balanced, LONGEST_ROW)))
    rows = max(lengths.encoder_ids / encoder_length, lengths.target_ids / target_length) / FILL
    batch_rows = max(1, round(settings.batch_tokens / encoder_length))
    num_steps = settings.num_steps or max(1, math.ceil(settings.num_epochs * rows / batch_rows))
    has_dev = bool(task.dev)
    return RunConfig(
        model=ModelConfig(start=str(start)),
        data=DataConfig(
            dir=str(data_folder),
            tasks={TASK: task},
            batch_rows=batch_rows,
            encoder_length=encoder_length,
            target_length=target_length,
        ),
        loss=LossConfig(),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(name="constant", peak_lr=settings.lr),
        compute=ComputeConfig(precision=settings.precision, num_threads=settings.threads or 0),
        training=TrainingConfig(
            num_steps=num_steps,
            seed=settings.seed,
            log_every=max(1, min(10, num_steps // 20)),
            evaluate_every=max(1, math.ceil(num_steps / 5)) if has_dev else 0,
            checkpoint_every=max(1, math.ceil(num_steps / 5)),
        ),
        evaluation=EvaluationConfig(max_new_tokens=longest_target),
    )


def _pairs(data: FitData, columns: PairColumns, format: Format | None) -> MemoryTable:
    """Return {"input", "target"} of every record that has both; the others count as bad.

    Raises: DataError if none has.
    """
    table = _table(data, format)
    rows: list[Mapping[str, object]] = []
    bad: list[BadRecord] = []
    for index in range(len(table)):
        try:
            fields = columns(table[index].fields)
        except DataError as error:
            place = table[index].place
            bad.append(BadRecord(place=place, error=f"{place}: {error}"))
            continue
        rows.append({"input": fields["prompt"], "target": fields["target"]})
    if not rows:
        raise DataError(f"no record has an input and a target; {bad[0].error}")
    return _with_report(table_of(rows), table.report, bad)


def _with_report(kept: MemoryTable, read: ReadReport, bad: Sequence[BadRecord]) -> MemoryTable:
    """Return what was kept of a table with the report of all that was not: unreadable lines, then unusable records."""
    shown = (*read.bad, *bad)[:NUM_SHOWN]
    report = ReadReport(len(kept), read.num_bad + len(bad), shown, read.num_by_file)
    return dataclasses.replace(kept, report=report)


def _corpus(data: CorpusData, format: Format | None) -> MemoryTable:
    """Return the records of files (one name, or a list of Path), or texts and mappings given in Python."""
    if isinstance(data, str | Path):
        return read_table(data, format=format)
    rows: list[Any] = list(data)
    if rows and all(isinstance(row, Path) for row in rows):
        return read_table(rows, format=format)
    return _rows(rows, "texts, Path objects or mappings of fields", (Mapping, str))


def _table(data: FitData, format: Format | None) -> MemoryTable:
    """Return the records of files, or of mappings and pairs given in Python."""
    if isinstance(data, str | Path):
        return read_table(data, format=format)
    rows: list[Any] = list(data)
    if rows and all(isinstance(row, str | Path) for row in rows):
        return read_table(rows, format=format)
    if rows and all(isinstance(row, tuple | list) and len(row) == 2 for row in rows):
        return table_of([{"input": source, "target": target} for source, target in rows], name="row")
    return _rows(rows, "mappings of fields, or (input, target) pairs", (Mapping,))


def _rows(rows: Sequence[Any], expected: str, kinds: tuple[type, ...]) -> MemoryTable:
    for number, row in enumerate(rows):
        if not isinstance(row, kinds):
            raise RequestError(f"row {number} of the data is {row!r:.60}; expected {expected}.")
    return table_of(rows, name="row")


def _json_lines(table: RecordTable) -> str:
    lines = (json.dumps(dict(table[index].fields), ensure_ascii=False) for index in range(len(table)))
    return "".join(f"{line}\n" for line in lines)


def _multiple_of_8(length: int) -> int:
    return -(-length // 8) * 8

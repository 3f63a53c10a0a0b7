"""Tasks as a recipe says them: files opened, templates made, records held out."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from t5kit.errors import ConfigError, DataError, RequestError
from t5kit.metrics import metric_named
from t5kit.sources import (
    BadRecord,
    MemoryTable,
    ReadReport,
    Record,
    RecordStream,
    RecordTable,
    read_table,
    stream_files,
    text_field,
)
from t5kit.sources.hugging_face import dataset_stream, dataset_table
from t5kit.sources.records import Format
from t5kit.tasks.augmentation import Augmenter
from t5kit.tasks.config import ObjectiveConfig, TaskConfig, TemplateConfig
from t5kit.tasks.example_sources import DenoisingExamples, PairExamples
from t5kit.tasks.objectives import (
    Deshuffling,
    FullLanguageModeling,
    IidDenoising,
    Masking,
    MixtureOfDenoisers,
    Objective,
    PrefixLanguageModeling,
    SpanCorruption,
)
from t5kit.tasks.objectives.mixture_of_denoisers import UL2_DENOISERS
from t5kit.tasks.paper_tasks import PAPER_TASKS, training_records
from t5kit.tasks.structured_tasks import STRUCTURED_TASKS
from t5kit.tasks.task import Task, TaskForm
from t5kit.tasks.templates import Fields, Template
from t5kit.text.tokenizer import Tokenizer

DEFAULT_COLUMNS = ("input", "target")
"""Names of a headerless file's columns, where a recipe gives none."""
TRAIN, DEV, TEST = "train", "dev", "test"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SelectedTable:
    """Some records of a table, under numbers of their own."""

    table: RecordTable
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.table[int(self.indices[index])]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class JoinedTable:
    """Several tables, one behind the other."""

    tables: tuple[RecordTable, ...]

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def __getitem__(self, index: int) -> Record:
        for table in self.tables:
            if index < len(table):
                return table[index]
            index -= len(table)
        raise IndexError(index)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NamedTable:
    """A table of files without a header whose columns have names; records that have names already stay."""

    table: RecordTable
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:
        return _named(self.table[index], self.names)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NamedStream:
    """The same of a stream."""

    stream: RecordStream
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[Record | BadRecord]:
        for record in self.stream:
            yield _named(record, self.names) if isinstance(record, Record) else record


@dataclasses.dataclass(frozen=True)
class NamedColumns:
    """A form's preparation for files without a header: columns get names before anything else reads them."""

    names: tuple[str, ...]
    form: TaskForm

    def __call__(self, fields: Fields) -> Fields:
        """Return the fields by name; those that have names already go through. Raises: DataError"""
        if "0" in fields:
            if len(fields) != len(self.names):
                raise DataError(f"has {len(fields)} column(s), expected {len(self.names)}: {', '.join(self.names)}.")
            fields = dict(zip(self.names, fields.values(), strict=True))
        return self.form.prepare(fields)


@dataclasses.dataclass(frozen=True)
class OpenedTask:
    """A task with its records; either a form (supervised) or an objective (running text)."""

    task: Task
    objective: ObjectiveConfig | None
    config: TaskConfig
    stream: RecordStream | None = None
    """The train records in the order they come, in place of a train split."""
    reports: Mapping[str, ReadReport] = dataclasses.field(default_factory=dict)
    """What reading each split's files found; records held out of train stand there, where they were read."""

    augmenter: Augmenter | None = None
    """Changes train inputs; None leaves them as they are."""

    @property
    def is_trained(self) -> bool:
        """Whether it has train records."""
        return self.stream is not None or TRAIN in self.task.splits

    @property
    def name(self) -> str:
        """The recipe's name for it."""
        return self.task.name

    @property
    def size(self) -> int:
        """Examples that proportional mixing takes it to have; 0 without train records, and if a stream's is unsaid."""
        table = self.task.splits.get(TRAIN, ())
        return self.config.num_examples or len(table) if self.is_trained else 0

    def examples(
        self, split: str, tokenizer: Tokenizer, *, encoder_length: int, target_length: int
    ) -> PairExamples | DenoisingExamples:
        """Return the examples of a split; the lengths say how much text fills an example of an objective."""
        examples = self.examples_of(
            self.task.split(split), tokenizer, encoder_length=encoder_length, target_length=target_length
        )
        if split == TRAIN and self.augmenter is not None and isinstance(examples, PairExamples):
            return dataclasses.replace(examples, augmenter=self.augmenter)
        return examples

    def examples_of(
        self, table: RecordTable, tokenizer: Tokenizer, *, encoder_length: int, target_length: int
    ) -> PairExamples | DenoisingExamples:
        """Return the examples of any records."""
        if self.objective is None:
            return PairExamples(self.task.form, table, tokenizer)
        objective = make_objective(self.objective, tokenizer)
        piece_length = self.objective.piece_length or default_piece_length(
            objective,
            encoder_length=encoder_length,
            target_length=target_length,
            num_sentinels=tokenizer.num_sentinels,
        )
        return DenoisingExamples(table, tokenizer, objective, piece_length, field=self.objective.field)

    def check_usable(self, split: str) -> None:
        """Raise DataError if no record of a split gives an example: now, not at the first batch."""
        table = self.task.split(split)
        first = ""
        for index in range(len(table)):
            problem = self._problem(table[index])
            if not problem:
                return
            first = first or problem
        raise DataError(f"data.tasks.{self.name}.{split}: no record gives an example; {first or 'there are none.'}")

    def _problem(self, record: Record) -> str:
        """Return why a record gives no example, or nothing if some phrasing of it does."""
        if self.objective is not None:
            text = text_field(record, self.objective.field)
            return text.error if isinstance(text, BadRecord) else ""
        pair = self.task.form.pair(record)
        return pair.error if isinstance(pair, BadRecord) and not self.task.form.pairs(record) else ""

    def train_records(self) -> Iterator[Record]:
        """Yield every good train record once, in the order of the files."""
        if self.stream is not None:
            yield from (record for record in self.stream if isinstance(record, Record))
        elif TRAIN in self.task.splits:
            table = self.task.split(TRAIN)
            yield from (table[index] for index in range(len(table)))


def open_task(
    name: str, config: TaskConfig, folder: Path, *, seed: int, splits: Sequence[str] = (TRAIN, DEV)
) -> OpenedTask:
    """Return a task with the records of these splits, as far as the recipe names files for them.

    Raises: ConfigError (with the setting's path) for unknown forms and metrics and a held-out part that leaves nothing;
    DataError for files that cannot be read.
    """
    try:
        form = TaskForm((Template("{text}"),)) if config.objective else make_form(config)  # an objective reads no form
    except (ConfigError, RequestError) as error:
        raise ConfigError(f"data.tasks.{name}: {error}") from error
    tables: dict[str, RecordTable] = {}
    stream: RecordStream | None = None
    for split in splits:
        names = getattr(config, split)
        if names and split == TRAIN and config.is_streamed:
            stream = _stream(names, config, folder)
        elif names:
            tables[split] = _table(names, config, folder)
    columns = config.columns if config.objective else ()  # a form names its columns itself
    if columns and config.objective and config.objective.field not in columns:
        raise ConfigError(
            f"data.tasks.{name}.objective.field = {config.objective.field!r} is none of data.tasks.{name}.columns: "
            f"{', '.join(columns)}."
        )
    reports = {split: table.report for split, table in tables.items() if isinstance(table, MemoryTable)}
    if columns:
        tables = {split: NamedTable(table, columns) for split, table in tables.items()}
        stream = None if stream is None else NamedStream(stream, columns)
    if config.held_out and TRAIN in tables:
        tables[TRAIN], held_out = hold_out(tables[TRAIN], config.held_out, name=name, seed=seed)
        if DEV in splits:
            tables[DEV] = held_out
    if config.form in PAPER_TASKS and TRAIN in tables:
        tables[TRAIN] = training_records(config.form, tables[TRAIN])
    augmenter = None
    if config.augmentation is not None:
        if stream is not None:
            raise ConfigError(
                f"data.tasks.{name}.augmentation has no effect on streamed records. Remove one of the two."
            )
        augmenter = Augmenter.of(config.augmentation, folder)
    return OpenedTask(Task(name, form, tables), config.objective, config, stream, reports, augmenter)


def _named(record: Record, names: Sequence[str]) -> Record:
    """Return a record with names for its columns; one of another number of columns keeps their numbers, to be bad."""
    if "0" not in record.fields or len(record.fields) != len(names):
        return record
    return dataclasses.replace(record, fields=dict(zip(names, record.fields.values(), strict=True)))


def make_form(config: TaskConfig) -> TaskForm:
    """Return the form of a supervised task. Raises: ConfigError, RequestError for unknown names and bad templates."""
    templates = tuple(Template(t.prompt, t.target, t.labels) for t in config.templates)
    if config.form:
        form = ready_form(config.form)
        form = dataclasses.replace(form, templates=templates) if templates else form
    else:
        default = (Template(TemplateConfig.prompt, TemplateConfig.target),)
        form = TaskForm(templates or default, references_field=config.references or None)
    if config.prefix:
        prefix = config.prefix.replace("{", "{{").replace("}", "}}")
        form = dataclasses.replace(
            form, templates=tuple(dataclasses.replace(t, prompt=prefix + t.prompt) for t in form.templates)
        )
    if config.metrics:
        form = dataclasses.replace(form, metrics=tuple(metric_named(name) for name in config.metrics))
    if config.references and config.form:
        form = dataclasses.replace(form, references_field=config.references)
    if config.has_header:
        return form
    return dataclasses.replace(form, prepare=NamedColumns(config.columns or DEFAULT_COLUMNS, form))


def ready_form(name: str) -> TaskForm:
    """Return the form of a task of the T5 paper, or of a structure as text; raises RequestError with the known ones."""
    form = PAPER_TASKS.get(name) or STRUCTURED_TASKS.get(name)
    if form is None:
        near = difflib.get_close_matches(name, known := [*PAPER_TASKS, *STRUCTURED_TASKS], n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise RequestError(f"There is no ready task {name!r}.{hint} Known are: {', '.join(known)}.")
    return form


def make_objective(config: ObjectiveConfig, tokenizer: Tokenizer) -> Objective:
    """Return the objective of a task of running text."""
    match config.name:
        case "span_corruption":
            return SpanCorruption(config.noise_density, config.mean_span_length)
        case "iid":
            return IidDenoising(config.noise_density)
        case "masking":
            return Masking(config.noise_density)
        case "prefix_lm":
            return PrefixLanguageModeling()
        case "full_lm":
            return FullLanguageModeling()
        case "deshuffling":
            return Deshuffling()
        case "ul2":
            modes = {denoiser.mode for denoiser in UL2_DENOISERS}
            return MixtureOfDenoisers({mode: tokenizer.encode(mode, add_eos=False) for mode in sorted(modes)})


def default_piece_length(objective: Objective, *, encoder_length: int, target_length: int, num_sentinels: int) -> int:
    """Return how many tokens of text fill an example: both sides fit, and the sentinels last, whatever is drawn.

    Of i.i.d. denoising, whose counts are drawn, one example in some ten thousand may be longer. T5's span corruption
    fills the encoder: 512 -> 568 tokens, with targets of 114.
    """
    length = _longest_piece(objective, encoder_length, target_length)
    while length > 2 and not _piece_fits(objective, length, target_length, num_sentinels):
        length -= 1
    return length


def _longest_piece(objective: Objective, encoder_length: int, target_length: int) -> int:
    if isinstance(objective, SpanCorruption):
        return objective.raw_length(encoder_length)
    if isinstance(objective, FullLanguageModeling):
        return target_length - 1
    if isinstance(objective, IidDenoising):
        return encoder_length - 1
    longest_mode = 0
    if isinstance(objective, MixtureOfDenoisers):
        longest_mode = max(len(ids) for ids in objective.mode_ids.values())
    return min(encoder_length - longest_mode, target_length) - 1


def _piece_fits(objective: Objective, num_tokens: int, target_length: int, num_sentinels: int) -> bool:
    """Say whether a piece's targets are short enough and the vocabulary has sentinels for its spans."""
    if isinstance(objective, MixtureOfDenoisers):
        return all(
            _piece_fits(denoiser.objective, num_tokens, target_length, num_sentinels)
            for denoiser in objective.denoisers
        )
    if isinstance(objective, SpanCorruption):
        num_spans = objective.counts(num_tokens).num_spans
        return objective.lengths(num_tokens)[1] <= target_length and num_spans <= num_sentinels
    if isinstance(objective, IidDenoising):
        most = objective.most(num_tokens)
        return most.target_length <= target_length and most.num_spans <= num_sentinels
    return True  # the others' targets are no longer than the text, and have no sentinels


def hold_out(table: RecordTable, num_held_out: int, *, name: str, seed: int) -> tuple[SelectedTable, SelectedTable]:
    """Return the table without and with only num_held_out records, drawn by the seed, both in their order.

    Raises: ConfigError if nothing would be left.
    """
    if num_held_out >= len(table):
        raise ConfigError(
            f"data.tasks.{name}.held_out = {num_held_out:,} leaves nothing of {len(table):,} train records."
        )
    is_held_out = np.zeros(len(table), np.bool_)
    is_held_out[np.random.Generator(np.random.Philox(seed)).choice(len(table), num_held_out, replace=False)] = True
    return SelectedTable(table, np.flatnonzero(~is_held_out)), SelectedTable(table, np.flatnonzero(is_held_out))


def _table(names: Sequence[str], config: TaskConfig, folder: Path) -> RecordTable:
    if config.dataset:
        tables = [
            dataset_table(
                _dataset(config, folder),
                split=split,
                configuration=config.dataset_configuration or None,
                revision=config.dataset_revision or None,
            )
            for split in names
        ]
        return tables[0] if len(tables) == 1 else JoinedTable(tuple(tables))
    return read_table([folder / name for name in names], format=_format(config), has_header=config.has_header)


def _stream(names: Sequence[str], config: TaskConfig, folder: Path) -> RecordStream:
    if not config.dataset:
        return stream_files([folder / name for name in names], format=_format(config), has_header=config.has_header)
    if len(names) != 1:
        raise ConfigError(f"a streamed dataset is read from one split, and train names {len(names)}: join them first.")
    return dataset_stream(
        _dataset(config, folder),
        split=names[0],
        configuration=config.dataset_configuration or None,
        revision=config.dataset_revision or None,
    )


def _dataset(config: TaskConfig, folder: Path) -> str:
    """Return a dataset's folder below data.dir, or the name as it stands."""
    path = folder / config.dataset
    return str(path) if path.is_dir() else config.dataset


def _format(config: TaskConfig) -> Format | None:
    return None if config.format == "by_name" else config.format

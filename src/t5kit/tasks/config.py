"""What a recipe says of its tasks: plain data, made into tasks by `configured.py`."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from t5kit.errors import ConfigError
from t5kit.tasks.structured_tasks import STRUCTURED_TASKS

FileFormat = Literal["by_name", "text", "tsv", "csv", "jsonl", "parquet"]
ObjectiveName = Literal["span_corruption", "iid", "masking", "prefix_lm", "full_lm", "deshuffling", "ul2"]
OBJECTIVES = ("span_corruption", "iid", "masking", "prefix_lm", "full_lm", "deshuffling", "ul2")
MixtureKind = Literal["proportional", "fixed"]

SPANNED_OBJECTIVES = ("span_corruption",)
UNSTREAMED_FORMS = ("super_glue/record", "super_glue/wsc")
NOISY_OBJECTIVES = ("span_corruption", "iid", "masking")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateConfig:
    """One phrasing: what the model reads and what it is to write, with a record's fields in braces."""

    prompt: str = "{input}"
    """Such as "review: {text}"."""
    target: str = "{target}"
    """Such as "{label}"."""
    labels: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """field -> its value -> the words for it: labels.label = {0 = "negative", 1 = "positive"}."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """A self-supervised objective over running text.

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    name: ObjectiveName = "span_corruption"
    """span_corruption (T5's), iid, masking (BERT's), prefix_lm, full_lm, deshuffling or ul2 (a mixture of seven)."""
    noise_density: float = 0.15
    """span_corruption, iid, masking: share of tokens hidden, above 0 and below 1."""
    mean_span_length: float = 3.0
    """span_corruption: tokens, >= 1 (mT5: 3, ByT5: 20)."""
    piece_length: int = 0
    """Tokens of text in one example; 0: as many as fill data.encoder_length."""
    field: str = "text"
    """The record's field that holds the text."""

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ConfigError(f"objective.name = {self.name!r} must be one of: {', '.join(OBJECTIVES)}.")
        if self.piece_length < 0:
            raise ConfigError(f"objective.piece_length = {self.piece_length} must be at least 0 (0: by the length).")
        for name, readers in (("noise_density", NOISY_OBJECTIVES), ("mean_span_length", SPANNED_OBJECTIVES)):
            default = {field.name: field.default for field in dataclasses.fields(self)}[name]
            if self.name not in readers and getattr(self, name) != default:
                raise ConfigError(
                    f"objective.{name} = {getattr(self, name)} has no effect with objective.name = {self.name!r}; only "
                    f"{', '.join(readers)} read it. Remove it, or change the objective."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How train inputs are changed a little, anew in every pass.

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    synonyms: str = ""
    """A word list below data.dir: words and phrases of a line, apart by commas, may each stand for the others."""
    synonym_rate: float = 0.2
    """synonyms: share of the words that have some which are replaced, in (0, 1]."""
    noise_rate: float = 0.0
    """Share of letters that are mistyped, at least one of an input that is changed, in [0, 1)."""
    probability: float = 0.5
    """Share of the inputs that are changed at all, in (0, 1]."""
    kept_prefix: str = ""
    """At the beginning of prompts, stays as it is: "review: "."""
    kept_suffix: str = ""
    """At the end of prompts, stays as it is: " Is it good or bad?"."""

    def __post_init__(self) -> None:
        if not self.synonyms and not self.noise_rate:
            raise ConfigError("task.augmentation changes nothing: set its synonyms or noise_rate, or remove it.")
        if not 0 <= self.noise_rate < 1:
            raise ConfigError(f"task.augmentation.noise_rate = {self.noise_rate} must be from 0 to below 1.")
        for name in ("synonym_rate", "probability"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"task.augmentation.{name} = {getattr(self, name)} must be above 0, at most 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task: its files, how a record becomes prompt and target, and its metrics.

    Raises: ConfigError on construction when a value is out of range or would have no effect.
    """

    train: tuple[str, ...] = ()
    """Files, patterns ("part-*.jsonl.gz") and folders, below data.dir."""
    dev: tuple[str, ...] = ()
    """The same, for choosing."""
    test: tuple[str, ...] = ()
    """The same, for the last word; training never opens them."""
    held_out: int = 0
    """Records taken out of train, drawn by the seed, to be dev where there is none; 0: none."""
    dataset: str = ""
    """A Hugging Face dataset: a Hub id, or a folder made by save_to_disk; train, dev and test then name its splits."""
    dataset_configuration: str = ""
    """The dataset's configuration, where it has several."""
    dataset_revision: str = ""
    """The dataset's branch, tag or commit on the Hub."""
    is_streamed: bool = False
    """Read the train records as they come instead of holding them: for what does not fit into memory."""
    shuffle_buffer: int = 10_000
    """is_streamed: records of which the next one is drawn; >= 1."""
    format: FileFormat = "by_name"
    """text, tsv, csv, jsonl or parquet; by_name: the files' names tell."""
    columns: tuple[str, ...] = ()
    """Names for the columns of files without a header. Without: ["input", "target"], with an objective "0", "1" …"""
    has_header: bool | None = None
    """Whether the first line names the columns; absent: CSV yes, TSV no."""
    form: str = ""
    """A ready task: templates, labels and metrics follow from it. One of the T5 paper's ("glue/mrpc"), or a structure
    as text: named_entities, relations, semantic_roles, question_answering, dialogue, table_to_text, table_question,
    correction, keywords_to_text."""
    templates: tuple[TemplateConfig, ...] = ()
    """Phrasings; training draws one a record, evaluation takes the first. Without any: "{input}" -> "{target}". Beside
    a form of a structure, they stand in place of its own."""
    prefix: str = ""
    """Put before every prompt: "summarize: "."""
    references: str = ""
    """A field with the list of all texts that count as right."""
    metrics: tuple[str, ...] = ()
    """Such as ["rouge"]; a ready task brings its own."""
    objective: ObjectiveConfig | None = None
    """Set for a task of running text; templates and metrics are then not used."""
    augmentation: AugmentationConfig | None = None
    """Set to change train inputs a little, anew in every pass."""
    num_examples: int = 0
    """Size that proportional mixing takes this task to have; 0: its records."""

    def __post_init__(self) -> None:
        for name in ("held_out", "num_examples"):
            if getattr(self, name) < 0:
                raise ConfigError(f"task.{name} = {getattr(self, name)} must be at least 0.")
        if self.shuffle_buffer < 1:
            raise ConfigError(f"task.shuffle_buffer = {self.shuffle_buffer} must be at least 1 (1: as they come).")
        if self.is_streamed and self.held_out:
            raise ConfigError(f"task.held_out = {self.held_out} draws from all records, which a stream does not have.")
        if self.is_streamed and self.form in UNSTREAMED_FORMS:
            raise ConfigError(f"task.form = {self.form!r} chooses among its train records; it cannot be streamed.")
        if not self.is_streamed and self.shuffle_buffer != 10_000:
            raise ConfigError("task.shuffle_buffer has no effect without task.is_streamed = true.")
        if not self.dataset and (self.dataset_configuration or self.dataset_revision):
            raise ConfigError(
                "task.dataset_configuration and task.dataset_revision have no effect without task.dataset."
            )
        if self.dataset and (self.format != "by_name" or self.has_header is not None):
            raise ConfigError("task.format and task.has_header are for files; task.dataset has fields of its own.")
        if self.held_out and self.dev:
            raise ConfigError(f"task.held_out = {self.held_out} has no effect beside task.dev. Remove one of the two.")
        if self.columns and self.has_header:
            raise ConfigError("task.columns names columns that task.has_header = true says the files name themselves.")
        if self.form and self.form not in STRUCTURED_TASKS and self.templates:
            raise ConfigError(f"task.form = {self.form!r} brings its templates; remove task.templates or the form.")
        if self.objective:
            names = ("form", "templates", "prefix", "references", "metrics", "augmentation")
            given = [name for name in names if getattr(self, name)]
            if given:
                raise ConfigError(
                    f"task.{given[0]} has no effect beside task.objective: its examples are made of text."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """How often each task gives the next example; with one task, nothing of it matters.

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    kind: MixtureKind = "proportional"
    """proportional: by size, min(n, maximum)^(1 / temperature). fixed: by data.mixture.rates."""
    maximum: float = float("inf")
    """proportional: no task counts as larger; > 0 (the paper's multi-task runs: 2^19)."""
    temperature: float = 1.0
    """proportional: > 0; high ones tend to equal rates (the paper: 2, with maximum 2^21)."""
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """fixed: task -> relative rate; 0: only evaluated."""

    def __post_init__(self) -> None:
        if not self.maximum > 0.0 or not self.temperature > 0.0:
            raise ConfigError(
                f"data.mixture.maximum = {self.maximum} and data.mixture.temperature = {self.temperature} must be "
                "above 0."
            )
        if (self.kind == "fixed") != bool(self.rates):
            raise ConfigError(
                f"data.mixture.kind = {self.kind!r} with {len(self.rates)} data.mixture.rates: rates belong to "
                '"fixed", and to that alone.'
            )
        if self.kind == "fixed" and (self.maximum != float("inf") or self.temperature != 1.0):
            raise ConfigError('data.mixture.maximum and .temperature have no effect with data.mixture.kind = "fixed".')

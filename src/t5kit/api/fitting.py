"""Training without a recipe: data given in Python, every setting that was not named chosen from the data.

What comes out is a run like any other: its folder holds the records and the resolved recipe that trains it again.
"""

import dataclasses
import difflib
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, get_args

import numpy as np

from t5kit.api.fitting_data import (
    FitData,
    FitTables,
    checked_rows,
    fit_tables,
    read_pairs,
    read_rows,
    with_paraphrases,
    with_report,
)
from t5kit.api.instructions import score_instructions, template_prefix
from t5kit.api.training import GivenRecords, require_torch, train_config
from t5kit.config.toml_files import load_toml
from t5kit.data.config import DataConfig
from t5kit.data.vocabulary import training_pairs
from t5kit.errors import ConfigError, DataError, RequestError
from t5kit.evaluation.config import EvaluationConfig
from t5kit.evaluation.pair_form import PairColumns
from t5kit.metrics import metric_named
from t5kit.metrics.named import LOWER_IS_BETTER, numbers_of
from t5kit.model.config import AdaptationConfig, ModelConfig
from t5kit.recipe import RunConfig
from t5kit.sources import BadRecord, MemoryTable, ReadReport, RecordTable, read_table, table_of, text_field
from t5kit.sources.records import Format
from t5kit.tasks.augmentation import Augmenter, Paraphrase, read_synonyms
from t5kit.tasks.config import AugmentationConfig, ObjectiveConfig, ObjectiveName, TaskConfig
from t5kit.tasks.configured import DEV, TEST, TRAIN, OpenedTask, hold_out, make_form
from t5kit.tasks.objectives import SpanCorruption
from t5kit.tasks.target_profile import TargetProfile
from t5kit.tasks.task import Task
from t5kit.text import Tokenizer
from t5kit.training.config import (
    PRECISIONS,
    ComputeConfig,
    LossConfig,
    OptimizerConfig,
    Precision,
    ScheduleConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    from t5kit.training.hooks import Hook, TrainingResult

Method = Literal["full", "lora", "prompt", "head"]

CorpusData = str | Path | Iterable[str] | Iterable[Path] | Iterable[Mapping[str, object]]
"""One file, glob or folder by its name, several as Path objects; or texts; or mappings of fields."""

SYNONYMS = "synonyms.txt"
"""The word list, in the run's data."""
TASK = "data"
"""What the one task of such a run is called."""
LEAST_ROW = 256
"""Short examples are packed into rows of at least so many encoder positions."""
LONGEST_ROW = 1024
"""Longer examples are cut, unless max_input_tokens says otherwise."""
MOST_HELD_OUT = 1000
HELD_OUT_SHARE = 0.05
FEWEST_TO_HOLD_OUT = 40
"""Of fewer texts nothing is held out, for it would say little."""
SAMPLED = 20_000
"""Records whose lengths are measured; of more, so many at even distances."""
FILL = 0.95
"""Share of packed rows that holds tokens, for the number of steps; packing reaches 0.95 to 0.99."""

MOST_EPOCHS, EPOCHS_AT, EPOCHS_EXPONENT, FEWEST_EPOCHS = 20.0, 500, 0.4, 2.0
"""Passes: 20 over up to 500 records, then as records^-0.4 (10,000: 6; 100,000: 2.4), never below 2."""
LEAST_BATCH, MOST_BATCH = 512, 4096
"""Encoder tokens of a batch; between the two, a fiftieth of the records."""
BATCHES_A_PASS = 50
OPTIMIZERS: Mapping[Method, tuple[OptimizerConfig, float]] = {
    "full": (OptimizerConfig(name="adafactor"), 3e-3),
    "lora": (OptimizerConfig(name="adamw", max_gradient_norm=1.0), 1e-3),
    "prompt": (OptimizerConfig(name="adamw_rms"), 3e-2),
    "head": (OptimizerConfig(name="adafactor"), 1e-2),
}
"""Method -> optimizer and highest learning rate. full, head and prompt step by a share of each weight's size, so that
one number serves models whose weights differ a hundredfold; LoRA's B begins at 0, which has no size."""
PRETRAINING_LR = 1e-3
PROMPT_EPOCHS = 2.0
"""A prompt learns slowly (Lester et al. 2021): so many times the passes."""
WARMUP_SHARE = 0.06
EVALUATIONS = (5, 12)
"""Fewest and most evaluations of a run; between the two, one a pass."""
PATIENCE_SHARE = 0.35
"""Share of the evaluations that may bring nothing better before the run stops."""
MOST_ANSWERED = {"labels": 1000, "numbers": 1000, "answers": 500, "texts": 200}
"""Dev records that are answered at an evaluation, by the kind of targets: long answers take long."""
ANSWER_ROOM = 1.25
"""Answers may be so much longer than the longest target seen, where targets are texts."""


class FitArguments(TypedDict, total=False):
    """The keywords of `Model.fit` and `Model.train` that are FitSettings' fields."""

    num_epochs: float | None
    num_steps: int | None
    batch_tokens: int | None
    lr: float | None
    max_input_tokens: int | None
    max_target_tokens: int | None
    patience: int | None
    precision: Precision | None
    threads: int | None
    seed: int
    method: Method
    rank: int
    alpha: float
    dropout: float
    targets: Sequence[str]
    num_prompt_tokens: int
    synonyms: str | Path | None
    noise_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What a person may say about such a run; everything else follows from the data."""

    num_epochs: float | None = None
    """Passes over the records; None: 20 for up to 500 records, fewer for more."""
    num_steps: int | None = None
    """Updates, in place of passes."""
    batch_tokens: int | None = None
    """Encoder positions of a batch, padding counted; None: 512 to 4,096, the more the more records there are."""
    lr: float | None = None
    """Highest learning rate; None: by the method (OPTIMIZERS)."""
    max_input_tokens: int | None = None
    """Longer inputs are cut before EOS; None: 1,024."""
    max_target_tokens: int | None = None
    """Longer targets are cut before EOS; None: 1,024."""
    patience: int | None = None
    """Evaluations in a row without a new best after which the run stops; 0: never; None: a third of them."""
    precision: Precision | None = None
    """float32, or bfloat16 where the processor multiplies it fast; None: by the processor."""
    threads: int | None = None
    """Processor threads; None: PyTorch's default."""
    seed: int = 0
    """Decides everything random."""
    method: Method = "full"
    """full: all weights. lora: low-rank additions. prompt: vectors before every input. head: the output head alone."""
    rank: int = AdaptationConfig.rank
    """lora: rank of the additions."""
    alpha: float = AdaptationConfig.alpha
    """lora: additions are multiplied by alpha / rank."""
    dropout: float = AdaptationConfig.dropout
    """lora: share of the additions' inputs dropped while training."""
    targets: Sequence[str] = AdaptationConfig.targets
    """lora: linear maps by the last part of their names, such as ("q", "v"); default all."""
    num_prompt_tokens: int = AdaptationConfig.num_prompt_tokens
    """prompt: vectors."""
    synonyms: str | Path | None = None
    """A word list: words of a line, apart by commas, may stand for each other in half of the train inputs."""
    noise_rate: float = 0.0
    """Share of letters that are mistyped in half of the train inputs."""

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
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise RequestError(f"{name} = {value!r} must be a number above 0, or None.")
        for name, least in (
            ("num_steps", 1), ("max_input_tokens", 2), ("max_target_tokens", 2), ("threads", 1), ("patience", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise RequestError(f"{name} = {value!r} must be an integer of at least {least}, or None.")
        if self.method not in get_args(Method):
            raise RequestError(f"method = {self.method!r} must be one of: {', '.join(get_args(Method))}.")
        readers = {"rank": "lora", "alpha": "lora", "dropout": "lora", "targets": "lora", "num_prompt_tokens": "prompt"}
        for name, method in readers.items():
            if self.method != method and getattr(self, name) != getattr(AdaptationConfig, name):
                raise RequestError(f"{name} = {getattr(self, name)!r} has no effect without method = {method!r}.")
        if not isinstance(self.noise_rate, int | float) or not 0 <= self.noise_rate < 1:
            raise RequestError(f"noise_rate = {self.noise_rate!r} must be a number from 0 to below 1.")
        _ = self.adaptation  # checks the others

    @property
    def adaptation(self) -> AdaptationConfig | None:
        """What of the model is trained; None for all of it. Raises: ConfigError for values out of range."""
        match self.method:
            case "full":
                return None
            case "lora":
                return AdaptationConfig(
                    method="lora", rank=self.rank, alpha=self.alpha, dropout=self.dropout, targets=tuple(self.targets)
                )
            case "prompt":
                return AdaptationConfig(method="prompt", num_prompt_tokens=self.num_prompt_tokens)
            case "head":
                return AdaptationConfig(method="head")


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One thing that was decided for the person, with the reason."""

    what: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value}" + (f" ({self.reason})" if self.reason else "")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FitPlan:
    """A run that is decided and not begun: what it is, why, and what was found in the data."""

    config: RunConfig
    given: GivenRecords
    choices: tuple[Choice, ...]
    findings: tuple[str, ...]
    num_epochs: float
    """Passes that the steps make."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that dev is scored by."""
    dev: RecordTable | None = None
    """All of dev, of which the run may look at a part."""
    test: RecordTable | None = None
    """Inputs and targets that training never sees."""

    def train(self, run_folder: Path, hooks: "Sequence[Hook]" = ()) -> "TrainingResult":
        """Train it, from the beginning or from where the run in the folder stood; see `train_config`."""
        return train_config(self.config, run_folder, given=self.given, hooks=hooks)


def plan_fit(
    start: Path,
    tokenizer: Tokenizer,
    data: FitData,
    dev: FitData | None,
    run_folder: Path,
    *,
    settings: FitSettings,
    test: FitData | None = None,
    input: str = "",
    target: str = "",
    format: Format | None = None,
    encoding: str | None = None,
    metrics: Sequence[str] = (),
    instructions: Sequence[str] = (),
    paraphrase: Paraphrase | None = None,
) -> FitPlan:
    """Return how the model folder `start` is to be fine-tuned on pairs; see `Model.fit`.

    test: looked at for what is in train too, and for labels that are not; training never sees it. instructions: input
    templates, of which the model understands one best as it is; that is taken. paraphrase: makes more train inputs.
    """
    for name in metrics:
        metric_named(name)
    splits = {TRAIN: data, DEV: dev, TEST: test}
    rows = {split: read_rows(part, format, encoding) for split, part in splits.items() if part is not None}

    def found_under(template: str) -> FitTables:
        columns = PairColumns(template, target)
        pairs = {split: read_pairs(table, columns) for split, table in rows.items()}
        return fit_tables(pairs, tokenizer, seed=settings.seed)

    first: list[Choice] = []
    if instructions:
        if input:
            raise RequestError("input and instructions say the same thing; give one of the two.")
        tried = {template: found_under(template) for template in dict.fromkeys(instructions)}
        by_dev = {template: found.tables.get(DEV, found.tables[TRAIN]) for template, found in tried.items()}
        profile = next(iter(tried.values())).profile
        scores = score_instructions(start, by_dev, profile, threads=settings.threads, seed=settings.seed)
        input = scores[0].instruction
        others = "; ".join(map(str, scores[1:4]))
        first.append(Choice("instruction", input, f"best of {len(scores)} untrained: {scores[0]}; then {others}"))
    found = found_under(input)
    tables = {split: table for split, table in found.tables.items() if split != TEST}
    prefix = template_prefix(input)
    if paraphrase is not None:
        num_before = len(tables[TRAIN])
        tables[TRAIN] = with_paraphrases(tables[TRAIN], paraphrase, kept_prefix=prefix)
        first.append(Choice("paraphrases", f"{len(tables[TRAIN]) - num_before:,} train inputs in other words", ""))
    profile = found.profile
    chosen = tuple(metrics) or profile.metrics
    task = TaskConfig(metrics=chosen, train=("train.jsonl",), dev=("dev.jsonl",) if DEV in tables else ())
    plan = _plan(
        start, tokenizer, tables, found.reports, task, run_folder, settings, profile,
        findings=found.findings, kept_prefix=prefix,
    )  # fmt: skip
    if DEV in tables:
        num_dev, num_train = len(tables[DEV]), len(tables[TRAIN])
        told = "held out of the data, equal inputs kept together" if found.num_held_out else "given"
        first.append(Choice("records", f"{num_train:,} to learn from, {num_dev:,} dev", f"dev: {told}"))
    else:
        first.append(Choice("records", f"{len(tables[TRAIN]):,} to learn from", "too few to hold some out"))
    first.append(Choice("targets", str(profile), ""))
    first.append(Choice("metrics", ", ".join(chosen), "as asked" if metrics else "they fit the targets"))
    plan = dataclasses.replace(
        plan, choices=(*first, *plan.choices), metrics=chosen, dev=found.whole_dev, test=found.tables.get(TEST)
    )
    return dataclasses.replace(plan, given=dataclasses.replace(plan.given, notes=_notes(plan)))


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
    encoding: str | None = None,
    metrics: Sequence[str] = (),
    instructions: Sequence[str] = (),
    paraphrase: Paraphrase | None = None,
    hooks: "Sequence[Hook]" = (),
) -> "TrainingResult":
    """Fine-tune the model folder `start` on pairs and return what came of it; see `Model.fit`."""
    plan = plan_fit(
        start, tokenizer, data, dev, run_folder, settings=settings, input=input, target=target, format=format,
        encoding=encoding, metrics=metrics, instructions=instructions, paraphrase=paraphrase,
    )  # fmt: skip
    for finding in plan.findings:
        warnings.warn(finding, UserWarning, stacklevel=3)
    return plan.train(run_folder, hooks)


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
    task = TaskConfig(objective=ObjectiveConfig(name=objective), train=("train.jsonl",))
    kept = with_report(table_of(texts), table.report, bad)
    tables: dict[str, RecordTable] = {TRAIN: kept}
    if len(kept) >= FEWEST_TO_HOLD_OUT:
        num_held_out = min(MOST_HELD_OUT, math.ceil(HELD_OUT_SHARE * len(kept)))
        tables[TRAIN], tables[DEV] = hold_out(kept, num_held_out, name=TASK, seed=settings.seed)
        task = dataclasses.replace(task, dev=("dev.jsonl",))
    plan = _plan(start, tokenizer, tables, {TRAIN: kept.report}, task, run_folder, settings, None)
    return plan.train(run_folder, hooks)


def _plan(
    start: Path,
    tokenizer: Tokenizer,
    tables: Mapping[str, RecordTable],
    reports: Mapping[str, ReadReport],
    task: TaskConfig,
    run_folder: Path,
    settings: FitSettings,
    profile: TargetProfile | None,
    *,
    findings: tuple[str, ...] = (),
    kept_prefix: str = "",
) -> FitPlan:
    """Return the plan of any run: its lengths measured, its config made, its records as they will lie in its folder."""
    kept = {split: report for split, report in reports.items() if split in tables}
    task, augmenter, words = _augmented(task, settings, kept_prefix)
    opened = OpenedTask(Task(TASK, make_form(task), tables), task.objective, task, reports=kept, augmenter=augmenter)
    lengths = _measure(opened, tokenizer)
    records = {f"{split}.jsonl": _json_lines(table) for split, table in tables.items()} | words
    if settings.precision is None:
        settings = dataclasses.replace(settings, precision=_precision_of(run_folder))
    data_folder = run_folder.absolute() / GivenRecords.FOLDER
    config, choices, num_epochs = _config(start, task, lengths, settings, profile, data_folder=data_folder)
    given = GivenRecords((opened,), records)
    return FitPlan(
        config=config,
        given=given,
        choices=choices,
        findings=(*findings, *_cuts(lengths, config)),
        num_epochs=num_epochs,
    )


def _augmented(
    task: TaskConfig, settings: FitSettings, kept_prefix: str
) -> tuple[TaskConfig, Augmenter | None, dict[str, str]]:
    """Return the task with the augmentation that is asked for, what does it, and the word list for the run's data."""
    if settings.synonyms is None and not settings.noise_rate:
        return task, None, {}
    words: dict[str, str] = {}
    synonyms: Mapping[str, tuple[str, ...]] = {}
    if settings.synonyms is not None:
        path = Path(settings.synonyms).expanduser()
        synonyms = read_synonyms(path)
        words = {SYNONYMS: path.read_text(encoding="utf-8-sig")}
    config = AugmentationConfig(
        synonyms=SYNONYMS if words else "", noise_rate=settings.noise_rate, kept_prefix=kept_prefix
    )
    return dataclasses.replace(task, augmentation=config), Augmenter(config, synonyms), words


def _precision_of(run_folder: Path) -> Precision:
    """Return what the run in the folder computes with, or where there is none what is fast here."""
    require_torch()
    from t5kit.training.environment import fast_precision

    resolved = run_folder / "resolved.toml"
    if resolved.is_file():
        try:
            words = load_toml(resolved).values["compute"]["precision"]
        except (ConfigError, KeyError, TypeError):
            words = None  # resuming says what is wrong with the file
        if words in PRECISIONS:
            return words
    return fast_precision()


def _notes(plan: FitPlan) -> dict[str, object]:
    """Return what data.json keeps of a plan, for the report."""
    return {
        "findings": list(plan.findings),
        "choices": [dataclasses.asdict(choice) for choice in plan.choices],
    }


def _cuts(lengths: "_Lengths", config: RunConfig) -> list[str]:
    """Return what is to be said of examples that are longer than they may be."""
    if lengths.longest_encoder <= config.data.encoder_length and lengths.longest_target <= config.data.target_length:
        return []
    return [
        f"the longest input has {lengths.longest_encoder:,} tokens and the longest target {lengths.longest_target:,}; "
        f"what is over {config.data.encoder_length:,} and {config.data.target_length:,} is cut (max_input_tokens, "
        "max_target_tokens)."
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Lengths:
    """Of all train examples: the longest sides, and all ids of each (by a sample of the records)."""

    longest_encoder: int
    longest_target: int
    encoder_ids: float
    target_ids: float
    num_records: int


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
        return _Lengths(
            longest_encoder=0, longest_target=114, encoder_ids=0.9 * ids, target_ids=0.2 * ids, num_records=len(table)
        )
    pairs = list(training_pairs([sample]))
    if not pairs:
        raise DataError("no record of the data gives an input and a target.")
    encoder = np.array([len(ids) for ids in tokenizer.encode_batch([pair.prompt for pair in pairs])])
    target = np.array([len(ids) for ids in tokenizer.encode_batch([pair.target for pair in pairs])])
    return _Lengths(
        longest_encoder=int(encoder.max()),
        longest_target=int(target.max()),
        encoder_ids=float(encoder.sum() * step),
        target_ids=float(target.sum() * step),
        num_records=len(table),
    )


def _config(
    start: Path,
    task: TaskConfig,
    lengths: _Lengths,
    settings: FitSettings,
    profile: TargetProfile | None,
    *,
    data_folder: Path,
) -> tuple[RunConfig, tuple[Choice, ...], float]:
    """Return the run (rows that both sides fill alike, as many steps as passes are asked for), what was chosen, and the
    passes that its steps make."""
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
    batch_tokens = settings.batch_tokens or _batch_tokens(lengths, profile)
    batch_rows = max(1, round(batch_tokens / encoder_length))
    num_epochs = settings.num_epochs or _num_epochs(lengths, profile, settings.method)
    num_steps = settings.num_steps or max(1, math.ceil(num_epochs * rows / batch_rows))
    num_epochs = num_steps * batch_rows / rows
    has_dev = bool(task.dev)
    is_watched = profile is not None and has_dev
    num_evaluations = min(EVALUATIONS[1], max(EVALUATIONS[0], round(num_epochs))) if is_watched else 5
    evaluate_every = max(1, math.ceil(num_steps / num_evaluations))
    best_metric = _best_metric(task, profile) if is_watched else "loss"
    patience = 0
    if is_watched:
        patience = max(2, round(PATIENCE_SHARE * num_evaluations)) if settings.patience is None else settings.patience
    optimizer, usual_lr = OPTIMIZERS[settings.method]
    lr = settings.lr or (usual_lr if profile is not None else PRETRAINING_LR)
    # Running text is met once: the learning rate stays, for there will be more of it.
    schedule = ScheduleConfig(name="constant", peak_lr=lr)
    if profile is not None:
        schedule = ScheduleConfig(name="linear", peak_lr=lr, warmup_steps=int(WARMUP_SHARE * num_steps))
    longest_answer = longest_target
    if profile is not None and profile.kind in ("answers", "texts"):
        longest_answer = min(most_target, math.ceil(ANSWER_ROOM * longest_target))
    if settings.method == "prompt":
        encoder_length += settings.num_prompt_tokens
    config = RunConfig(
        model=ModelConfig(start=str(start)),
        adaptation=settings.adaptation,
        data=DataConfig(
            dir=str(data_folder),
            tasks={TASK: task},
            batch_rows=batch_rows,
            encoder_length=encoder_length,
            target_length=target_length,
        ),
        loss=LossConfig(),
        optimizer=optimizer,
        schedule=schedule,
        compute=ComputeConfig(precision=settings.precision or "float32", num_threads=settings.threads or 0),
        training=TrainingConfig(
            num_steps=num_steps,
            seed=settings.seed,
            log_every=max(1, min(10, num_steps // 20)),
            evaluate_every=evaluate_every if has_dev else 0,
            checkpoint_every=evaluate_every,
            keep_checkpoints=1,
            patience=patience,
            best_metric=best_metric,
            best_is="lowest" if best_metric == "loss" or best_metric in LOWER_IS_BETTER else "highest",
        ),
        evaluation=EvaluationConfig(
            max_new_tokens=longest_answer,
            max_input_tokens=encoder_length,  # a text of a million tokens would take all memory to answer
            max_examples=MOST_ANSWERED[profile.kind] if is_watched and profile is not None else 0,
            seed=settings.seed,
        ),
    )
    num_tokens = batch_rows * encoder_length
    num_together = num_tokens * FILL / max(1.0, lengths.encoder_ids / max(1, lengths.num_records))
    longest = f"{lengths.longest_encoder:,} and {lengths.longest_target:,}" if lengths.longest_encoder else ""
    is_said = settings.num_steps is not None or settings.num_epochs is not None
    is_fast = config.compute.precision == "bfloat16" and settings.precision is None
    choices = [
        Choice(
            "lengths",
            f"inputs up to {encoder_length:,} tokens, targets up to {target_length:,}",
            f"the longest have {longest}" if longest else "",
        ),
        Choice("batch", f"{num_tokens:,} tokens, some {num_together:,.0f} records", ""),
        Choice(
            "learning rate",
            f"{lr:g}, " + ("rising at first, then falling to 0" if profile else "constant"),
            f"{optimizer.name}, {_TRAINED[settings.method]}",
        ),
        Choice(
            "steps",
            f"{num_steps:,}: {num_epochs:.3g} passes",
            "" if is_said else f"for {lengths.num_records:,} records",
        ),
        Choice("precision", config.compute.precision, "fast on this machine" if is_fast else ""),
    ]
    if task.augmentation is not None:
        words = task.augmentation
        kinds = (["other words"] if words.synonyms else []) + (["mistyped letters"] if words.noise_rate else [])
        choices.append(Choice("augmentation", " and ".join(kinds), f"in {words.probability:.0%} of the train inputs"))
    if is_watched:
        stop = f"stops after {patience} without a better one" if patience else "never stops early"
        choices.append(Choice("dev", f"scored every {evaluate_every:,} steps; the best {best_metric} is kept", stop))
    return config, tuple(choices), num_epochs


def _num_epochs(lengths: _Lengths, profile: TargetProfile | None, method: Method) -> float:
    if profile is None:
        return 1.0
    scale = max(1.0, lengths.num_records / EPOCHS_AT)
    num_epochs = max(FEWEST_EPOCHS, MOST_EPOCHS * scale**-EPOCHS_EXPONENT)
    return PROMPT_EPOCHS * num_epochs if method == "prompt" else num_epochs


def _batch_tokens(lengths: _Lengths, profile: TargetProfile | None) -> float:
    if profile is None:
        return MOST_BATCH
    return min(MOST_BATCH, max(LEAST_BATCH, lengths.encoder_ids / BATCHES_A_PASS))


_TRAINED: Mapping[Method, str] = {
    "full": "on all weights",
    "lora": "on low-rank additions",
    "prompt": "on vectors before every input",
    "head": "on the output head alone",
}


def _best_metric(task: TaskConfig, profile: TargetProfile | None) -> str:
    """Return the number that weights are chosen by: the profile's where it is among those asked for, else the first."""
    numbers = [number for name in task.metrics for number in numbers_of(name)]
    return profile.best_metric if profile is not None and profile.best_metric in numbers else numbers[0]


def _corpus(data: CorpusData, format: Format | None) -> MemoryTable:
    """Return the records of files (one name, or a list of Path), or texts and mappings given in Python."""
    if isinstance(data, str | Path):
        return read_table(data, format=format)
    rows: list[Any] = list(data)
    if rows and all(isinstance(row, Path) for row in rows):
        return read_table(rows, format=format)
    return checked_rows(rows, "texts, Path objects or mappings of fields", (Mapping, str))


def _json_lines(table: RecordTable) -> str:
    lines = (json.dumps(dict(table[index].fields), ensure_ascii=False) for index in range(len(table)))
    return "".join(f"{line}\n" for line in lines)


def _multiple_of_8(length: int) -> int:
    return -(-length // 8) * 8

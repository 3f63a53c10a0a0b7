"""The run that fits the data: lengths, rows, batch, passes, learning rate and stopping, each with its reason."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from t5kit.api.fitting_settings import FitSettings, Method
from t5kit.data.config import DataConfig
from t5kit.data.vocabulary import training_pairs
from t5kit.errors import DataError
from t5kit.evaluation.config import EvaluationConfig
from t5kit.metrics.items import joined_names
from t5kit.metrics.named import is_lower_better, numbers_of
from t5kit.model.config import ModelConfig
from t5kit.recipe import RunConfig
from t5kit.sources import table_of
from t5kit.tasks.config import TaskConfig
from t5kit.tasks.configured import TRAIN, OpenedTask
from t5kit.tasks.objectives import SpanCorruption
from t5kit.tasks.target_profile import TargetProfile
from t5kit.text import Tokenizer
from t5kit.training.config import ComputeConfig, LossConfig, OptimizerConfig, ScheduleConfig, TrainingConfig

TASK = "data"
"""What the one task of such a run is called."""
LEAST_ROW = 256
"""Short examples are packed into rows of at least so many encoder positions."""
LONGEST_ROW = 1024
"""Longer examples are cut, unless max_input_tokens says otherwise."""
SAMPLED = 20_000
"""Records whose lengths are measured; of more, so many at even distances."""
FILL = 0.95
"""Share of packed rows that holds tokens, for the number of steps; packing reaches 0.95 to 0.99."""

MOST_EPOCHS, EPOCHS_AT, EPOCHS_EXPONENT, FEWEST_EPOCHS = 20.0, 500, 0.4, 2.0
"""Passes: 20 over up to 500 records, then as records^-0.4 (10,000: 6; 100,000: 2.4), never below 2."""
MOST_TOKENS, LONG_EPOCHS = 400_000, 3.0
"""Of long texts fewer: no more than so many tokens in all, five minutes of FLAN-T5-small on two cores at the 1,351 a
second of docs/explanation/training-speed.md; but 3 passes, or what records alone would give."""
LEAST_BATCH, MOST_BATCH = 512, 4096
"""Encoder tokens of a batch; between the two, a fiftieth of the records."""
BATCHES_A_PASS = 50
OPTIMIZERS: Mapping[Method, tuple[OptimizerConfig, float]] = {
    "full": (OptimizerConfig(name="adafactor"), 3e-3),
    "lora": (OptimizerConfig(name="adamw", max_gradient_norm=1.0), 1e-3),
    "prompt": (OptimizerConfig(name="adamw_rms"), 1e-1),
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
PATIENCE_SHARE = 0.6
"""Share of the evaluations that may bring nothing better before the run stops. The best weights come when the learning
rate has fallen, so a run that waits is not to be stopped before: this is for those that have learned by heart."""
MOST_ANSWERED = {"labels": 1000, "numbers": 1000, "answers": 500, "texts": 200}
"""Dev records that are answered at an evaluation, by the kind of targets: long answers take long."""
ANSWER_ROOM = 1.25
"""Answers may be so much longer than the longest target seen, where targets are texts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One thing that was decided for the person, with the reason."""

    what: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value}" + (f" ({self.reason})" if self.reason else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataLengths:
    """Of all train examples: the longest sides, and all ids of each (by a sample of the records)."""

    longest_encoder: int
    longest_target: int
    encoder_ids: float
    target_ids: float
    num_records: int


def measure(task: OpenedTask, tokenizer: Tokenizer, settings: FitSettings) -> DataLengths:
    """Return how long the examples are; of those that will be cut, only what stays counts among all ids.

    Running text is cut to any length, so there its whole number of ids counts.
    """
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
        return DataLengths(
            longest_encoder=0, longest_target=114, encoder_ids=0.9 * ids, target_ids=0.2 * ids, num_records=len(table)
        )
    pairs = list(training_pairs([sample]))
    if not pairs:
        raise DataError("no record of the data gives an input and a target.")
    prompts = [pair.prompt for pair in pairs]
    encoder = np.array([len(ids) for ids in tokenizer.encode_batch(prompts)])
    target = np.array([len(ids) for ids in tokenizer.encode_targets([pair.target for pair in pairs], prompts)])
    return DataLengths(
        longest_encoder=int(encoder.max()),
        longest_target=int(target.max()),
        encoder_ids=float(np.minimum(encoder, settings.max_input_tokens or LONGEST_ROW).sum() * step),
        target_ids=float(np.minimum(target, settings.max_target_tokens or LONGEST_ROW).sum() * step),
        num_records=len(table),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Packed rows, how many a step takes, and how many steps."""

    encoder_length: int
    target_length: int
    batch_rows: int
    num_steps: int
    num_epochs: float
    """Passes that these steps make."""

    @property
    def batch_tokens(self) -> int:
        return self.batch_rows * self.encoder_length


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Watch:
    """How a run is scored on the way, and when it stops."""

    is_answered: bool
    """Dev records are answered, not only their loss taken."""
    evaluate_every: int
    best_metric: str
    patience: int
    """0: it never stops early."""


def run_config(
    start: Path,
    task: TaskConfig,
    lengths: DataLengths,
    settings: FitSettings,
    profile: TargetProfile | None,
    *,
    data_folder: Path,
) -> tuple[RunConfig, tuple[Choice, ...], float]:
    """Return the run (rows that both sides fill alike, as many steps as passes are asked for), what was chosen, and the
    passes that its steps make."""
    lengths = _with_prompt(lengths, settings.num_vectors)
    rows = _rows(task, lengths, settings, profile)
    watch = _watch(task, settings, profile, rows)
    config = RunConfig(
        model=ModelConfig(start=str(start)),
        adaptation=settings.adaptation,
        data=DataConfig(
            dir=str(data_folder),
            tasks={TASK: task},
            batch_rows=rows.batch_rows,
            encoder_length=rows.encoder_length,
            target_length=rows.target_length,
        ),
        loss=LossConfig(),
        optimizer=OPTIMIZERS[settings.method][0],
        schedule=_schedule(settings, profile, rows.num_steps),
        compute=ComputeConfig(precision=settings.precision or "float32", num_threads=settings.threads or 0),
        training=TrainingConfig(
            num_steps=rows.num_steps,
            seed=settings.seed,
            log_every=max(1, min(10, rows.num_steps // 20)),
            evaluate_every=watch.evaluate_every if task.dev else 0,
            checkpoint_every=watch.evaluate_every,
            keep_checkpoints=1,
            patience=watch.patience,
            best_metric=watch.best_metric,
            best_is="lowest" if is_lower_better(watch.best_metric) else "highest",
        ),
        evaluation=EvaluationConfig(
            max_new_tokens=_longest_answer(lengths, settings, profile),
            # A text of a million tokens would take all memory to answer; one that is longer than any of train may be.
            max_input_tokens=rows.encoder_length
            if settings.max_input_tokens
            else max(rows.encoder_length, LONGEST_ROW),
            max_examples=MOST_ANSWERED[profile.kind] if watch.is_answered and profile is not None else 0,
            seed=settings.seed,
        ),
    )
    return config, _choices(config, lengths, settings, profile, rows, watch), rows.num_epochs


def _with_prompt(lengths: DataLengths, num_prompt_tokens: int) -> DataLengths:
    """Return the lengths with a prompt's ids before every input."""
    return dataclasses.replace(
        lengths,
        longest_encoder=lengths.longest_encoder + num_prompt_tokens,
        encoder_ids=lengths.encoder_ids + num_prompt_tokens * lengths.num_records,
    )


def _rows(task: TaskConfig, lengths: DataLengths, settings: FitSettings, profile: TargetProfile | None) -> _Rows:
    encoder_length, target_length = _row_lengths(task, lengths, settings)
    rows = max(lengths.encoder_ids / encoder_length, lengths.target_ids / target_length) / FILL
    batch_tokens = settings.batch_tokens or _batch_tokens(lengths, profile)
    batch_rows = max(1, round(batch_tokens / encoder_length))
    num_epochs = settings.num_epochs or _num_epochs(lengths, profile, settings.method)
    num_steps = settings.num_steps or max(1, math.ceil(num_epochs * rows / batch_rows))
    return _Rows(
        encoder_length=encoder_length,
        target_length=target_length,
        batch_rows=batch_rows,
        num_steps=num_steps,
        num_epochs=num_steps * batch_rows / rows,
    )


def _row_lengths(task: TaskConfig, lengths: DataLengths, settings: FitSettings) -> tuple[int, int]:
    """Return the positions of a row's two sides, which are an example's limits too.

    Where something is to be cut, the rows are no longer than that.
    """
    if task.objective is not None:
        encoder_length = settings.max_input_tokens or 512
        if task.objective.name != "span_corruption":
            return encoder_length, encoder_length  # of most objectives, all of the text may stand on both sides
        spans = SpanCorruption(task.objective.noise_density, task.objective.mean_span_length)
        return encoder_length, spans.lengths(spans.raw_length(encoder_length))[1]
    encoder_length, target_length = settings.max_input_tokens or LONGEST_ROW, _most_target(settings)
    encoder_length += settings.num_vectors
    if lengths.longest_encoder <= encoder_length:
        encoder_length = max(LEAST_ROW, _multiple_of_8(lengths.longest_encoder))
    if lengths.longest_target <= target_length:
        balanced = math.ceil(encoder_length * lengths.target_ids / max(lengths.encoder_ids, 1.0))
        target_length = _multiple_of_8(max(lengths.longest_target, min(balanced, LONGEST_ROW)))
    return encoder_length, target_length


def _most_target(settings: FitSettings) -> int:
    return settings.max_target_tokens or LONGEST_ROW


def _watch(task: TaskConfig, settings: FitSettings, profile: TargetProfile | None, rows: _Rows) -> _Watch:
    if profile is None or not task.dev:
        evaluate_every = max(1, math.ceil(rows.num_steps / EVALUATIONS[0]))
        return _Watch(is_answered=False, evaluate_every=evaluate_every, best_metric="loss", patience=0)
    num_evaluations = min(EVALUATIONS[1], max(EVALUATIONS[0], round(rows.num_epochs)))
    usual_patience = max(3, round(PATIENCE_SHARE * num_evaluations))
    return _Watch(
        is_answered=True,
        evaluate_every=max(1, math.ceil(rows.num_steps / num_evaluations)),
        best_metric=_best_metric(task, profile),
        patience=usual_patience if settings.patience is None else settings.patience,
    )


def _schedule(settings: FitSettings, profile: TargetProfile | None, num_steps: int) -> ScheduleConfig:
    if profile is None:  # running text is met once: the learning rate stays, for there will be more of it
        return ScheduleConfig(name="constant", peak_lr=settings.lr or PRETRAINING_LR)
    warmup_steps = int(WARMUP_SHARE * num_steps)
    # A first step of no length is a step lost, and short runs have few.
    first = 1 / (warmup_steps + 1) if warmup_steps else 0.0
    lr = settings.lr or OPTIMIZERS[settings.method][1]
    return ScheduleConfig(name="linear", peak_lr=lr, warmup_steps=warmup_steps, warmup_start=first)


def _longest_answer(lengths: DataLengths, settings: FitSettings, profile: TargetProfile | None) -> int:
    longest_target = min(lengths.longest_target, _most_target(settings))
    if profile is not None and profile.kind in ("answers", "texts"):
        return min(_most_target(settings), math.ceil(ANSWER_ROOM * longest_target))
    return longest_target


def _choices(
    config: RunConfig,
    lengths: DataLengths,
    settings: FitSettings,
    profile: TargetProfile | None,
    rows: _Rows,
    watch: _Watch,
) -> tuple[Choice, ...]:
    """Return what is told of a run before it begins."""
    task = config.data.tasks[TASK]
    num_together = rows.batch_tokens * FILL / max(1.0, lengths.encoder_ids / max(1, lengths.num_records))
    mean_ids = (lengths.encoder_ids + lengths.target_ids) / max(1, lengths.num_records)
    longest = "running text"
    if lengths.longest_encoder:
        longest = (
            f"the longest input has {lengths.longest_encoder:,} tokens, the longest target {lengths.longest_target:,}"
        )
    is_said = settings.num_steps is not None or settings.num_epochs is not None
    choices = [
        Choice("lengths", longest, f"packed into rows of {rows.encoder_length:,} and {rows.target_length:,}"),
        Choice("batch", f"{rows.batch_tokens:,} tokens, some {num_together:,.0f} records", ""),
        Choice(
            "learning rate",
            f"{config.schedule.peak_lr:g}, " + ("rising at first, then falling to 0" if profile else "constant"),
            f"{config.optimizer.name}, {_TRAINED[settings.method]}",
        ),
        Choice(
            "steps",
            f"{rows.num_steps:,}: {rows.num_epochs:.3g} passes",
            "" if is_said else f"for {lengths.num_records:,} records of {mean_ids:,.0f} tokens",
        ),
        Choice("precision", config.compute.precision, ""),
    ]
    if task.augmentation is not None:
        words = task.augmentation
        kinds = (["other words"] if words.synonyms else []) + (["mistyped letters"] if words.noise_rate else [])
        choices.append(Choice("augmentation", " and ".join(kinds), f"in {words.probability:.0%} of the train inputs"))
    if watch.is_answered:
        every = "step" if watch.evaluate_every == 1 else f"{watch.evaluate_every:,} steps"
        when = f"scored every {every}; the best {watch.best_metric} is kept"
        stop = f"stops after {watch.patience} without a better one" if watch.patience else "never stops early"
        choices.append(Choice("dev", when, stop))
    return tuple(choices)


def _num_epochs(lengths: DataLengths, profile: TargetProfile | None, method: Method) -> float:
    if profile is None:
        return 1.0
    scale = max(1.0, lengths.num_records / EPOCHS_AT)
    by_records = max(FEWEST_EPOCHS, MOST_EPOCHS * scale**-EPOCHS_EXPONENT)
    by_tokens = max(LONG_EPOCHS, MOST_TOKENS / max(1.0, lengths.encoder_ids + lengths.target_ids))
    num_epochs = min(by_records, by_tokens)
    return PROMPT_EPOCHS * num_epochs if method == "prompt" else num_epochs


def _batch_tokens(lengths: DataLengths, profile: TargetProfile | None) -> float:
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
    """Return the score that weights are chosen by: the profile's number where it is among those asked for, else the
    first. Where several metrics have that number, the profile's own metric comes before the others.
    """
    scores = joined_names({name: numbers_of(name) for name in task.metrics})
    fitting = [] if profile is None else [(name, number) for name, number in scores if number == profile.best_metric]
    own = [(name, number) for name, number in fitting if profile is not None and name in profile.metrics]
    return scores[(own or fitting or list(scores))[0]]


def cuts(lengths: DataLengths, config: RunConfig) -> list[str]:
    """Return what is to be said of examples that are longer than they may be."""
    room = config.data.encoder_length - (0 if config.adaptation is None else config.adaptation.num_vectors)
    if lengths.longest_encoder <= room and lengths.longest_target <= config.data.target_length:
        return []
    return [
        f"the longest input has {lengths.longest_encoder:,} tokens and the longest target {lengths.longest_target:,}; "
        f"what is over {room:,} and {config.data.target_length:,} is cut (max_input_tokens, "
        "max_target_tokens)."
    ]


def _multiple_of_8(length: int) -> int:
    return -(-length // 8) * 8

"""RunConfig: everything a run is told, the stages' configs nested. A recipe is a TOML file of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5kit.config.binding import bind, unbind
from t5kit.config.overrides import Settings, read_settings
from t5kit.config.toml_files import to_toml
from t5kit.data.config import DataConfig
from t5kit.errors import ConfigError
from t5kit.evaluation.config import EvaluationConfig
from t5kit.model.config import AdaptationConfig, ModelConfig
from t5kit.text.config import VocabularyConfig
from t5kit.training.config import (
    ComputeConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, from files to a trained model folder.

    Raises: ConfigError on construction where two sections contradict each other.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Where the weights come from."""
    adaptation: AdaptationConfig | None = None
    """Set to train a part of the weights, or an adapter, in place of all weights."""
    vocabulary: VocabularyConfig = dataclasses.field(default_factory=VocabularyConfig)
    """Text <-> ids."""
    data: DataConfig
    """Tasks, mixture, lengths, batches."""
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    """What is minimised."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """How a gradient becomes an update."""
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    """The learning rate by step."""
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)
    """Speed, memory and rounding."""
    training: TrainingConfig
    """Length, intervals, what is kept."""
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    """How the dev records are answered and scored on the way."""

    def __post_init__(self) -> None:
        if self.vocabulary.source == "model" and not self.model.start:
            raise ConfigError(
                'vocabulary.source = "model" takes the vocabulary of model.start, and there is none: a fresh model '
                'needs its own. Set vocabulary.source = "unigram" with a size, or "symbols", "bytes", or "folder".'
            )
        if self.vocabulary.source != "model" and self.model.start:
            raise ConfigError(
                f"vocabulary.source = {self.vocabulary.source!r} does not fit the weights of model.start = "
                f"{self.model.start!r}, which know their own vocabulary. Remove one of the two."
            )
        if self.adaptation and not self.model.start:
            raise ConfigError(
                f"adaptation.method = {self.adaptation.method!r} leaves the start's weights as they are, and there is "
                "no model.start. Name one, or remove [adaptation]."
            )
        if unknown := sorted(set(self.evaluation.tasks) - set(self.data.tasks)):
            raise ConfigError(
                f"evaluation.tasks.{unknown[0]} is none of the tasks: {', '.join(self.data.tasks)}. Give both one name."
            )
        if self.schedule.warmup_steps >= self.training.num_steps:
            raise ConfigError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps} must be below training.num_steps = "
                f"{self.training.num_steps}. Lower it, or raise training.num_steps."
            )
        if not self.has_dev:
            self._check_without_dev()

    def _check_without_dev(self) -> None:
        """Raise ConfigError for settings that look at dev records, where there are none."""
        for name in ("patience", "evaluate_every", "best_metric", "best_is"):
            value = getattr(self.training, name)
            if value != getattr(TrainingConfig, name):
                raise ConfigError(
                    f"training.{name} = {value!r} watches dev records, and no task has any. Give a task dev files or "
                    "held_out records, or remove it."
                )
        if self.evaluation.tasks:
            raise ConfigError(
                f"evaluation.tasks.{next(iter(self.evaluation.tasks))} says how dev records are scored, and no task "
                "has any. Give a task dev files or held_out records, or remove it."
            )

    @property
    def has_dev(self) -> bool:
        """Whether any task has records to evaluate on."""
        return any(task.dev or task.held_out for task in self.data.tasks.values())

    def to_toml(self) -> str:
        """Return the recipe with every default written out; reading it gives this config back."""
        return to_toml(unbind(self))


def bind_recipe(settings: Settings) -> RunConfig:
    """Return the run that a recipe file and its overrides ask for. Raises: ConfigError with file and line."""
    return bind(RunConfig, settings.values, place=settings.place)


def completed_recipe(resolved: Mapping[str, object]) -> dict[str, Any]:
    """Return a resolved recipe with every setting that it lacks at its default: one written before there was the
    setting.

    Raises: ConfigError for a setting that is unknown.
    """
    return unbind(bind(RunConfig, resolved))


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and bind a recipe. Raises: ConfigError with file and line."""
    return bind_recipe(read_settings(path, overrides))

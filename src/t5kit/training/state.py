"""Where a run stands: what a checkpoint keeps beside weights, optimizer memory and the loader's place."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol, Self

from t5kit.errors import CheckpointError, ConfigError
from t5kit.training.config import TrainingConfig

Plain = dict[str, Any]
"""Plain data: numbers, texts, lists and dicts, as JSON can hold them."""


class StepFacts(Protocol):
    """What the state reads off a step (`StepReport`): means per target, counts, and whether the update was made."""

    @property
    def loss(self) -> float: ...
    @property
    def z_loss(self) -> float: ...
    @property
    def negative_log_likelihood(self) -> float: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def num_targets(self) -> float: ...
    @property
    def num_encoder_tokens(self) -> int: ...
    @property
    def num_target_tokens(self) -> int: ...
    @property
    def global_norm(self) -> float: ...
    @property
    def clip_factor(self) -> float: ...
    @property
    def is_skipped(self) -> bool: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best evaluation so far."""

    step: int
    """Updates made before it."""
    metric: str
    """What it is judged by: `training.best_metric`."""
    value: float
    """That metric; finite."""
    metrics: Mapping[str, float]
    """All of its metrics."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Sums over the steps since the last line of metrics. Skipped steps count as steps, tokens and seconds alone."""

    num_steps: int = 0
    num_skipped: int = 0
    num_targets: float = 0.0
    loss: float = 0.0
    z_loss: float = 0.0
    negative_log_likelihood: float = 0.0
    accuracy: float = 0.0
    global_norm: float = 0.0
    clip_factor: float = 0.0
    encoder_tokens: int = 0
    target_tokens: int = 0
    seconds: float = 0.0
    lr: float = 0.0

    def after(self, report: StepFacts, *, lr: float, seconds: float) -> Self:
        """Return the window with one step more."""
        counted = dataclasses.replace(
            self,
            num_steps=self.num_steps + 1,
            num_skipped=self.num_skipped + report.is_skipped,
            encoder_tokens=self.encoder_tokens + report.num_encoder_tokens,
            target_tokens=self.target_tokens + report.num_target_tokens,
            seconds=self.seconds + seconds,
            lr=lr,
        )
        if report.is_skipped:
            return counted
        return dataclasses.replace(
            counted,
            num_targets=self.num_targets + report.num_targets,
            loss=self.loss + report.loss * report.num_targets,
            z_loss=self.z_loss + report.z_loss * report.num_targets,
            negative_log_likelihood=(
                self.negative_log_likelihood + report.negative_log_likelihood * report.num_targets
            ),
            accuracy=self.accuracy + report.accuracy * report.num_targets,
            global_norm=self.global_norm + report.global_norm,
            clip_factor=self.clip_factor + report.clip_factor,
        )

    def metrics(self) -> dict[str, float]:
        """Return a line of training metrics: means per target over all updates made, NaN if there was none."""
        num_updates = self.num_steps - self.num_skipped
        line: dict[str, float] = {
            name: getattr(self, name) / self.num_targets if self.num_targets else math.nan
            for name in ("loss", "z_loss", "negative_log_likelihood", "accuracy")
        }
        line |= {"lr": self.lr}
        line |= {
            name: getattr(self, name) / num_updates if num_updates else math.nan
            for name in ("global_norm", "clip_factor")
        }
        return line | {
            "num_skipped": self.num_skipped,
            "encoder_tokens": self.encoder_tokens,
            "target_tokens": self.target_tokens,
            "seconds": self.seconds,
            "tokens_per_second": (self.encoder_tokens + self.target_tokens) / self.seconds if self.seconds else 0.0,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Where a run stands between two steps. Each event gives a new state; the loop holds the current one."""

    step: int = 0
    """Updates made or skipped: the number of the next one."""
    num_skipped: int = 0
    """Updates skipped in the whole run."""
    num_skipped_in_a_row: int = 0
    """Updates skipped since the last one that was made."""
    best: Best | None = None
    """The best evaluation so far."""
    num_without_best: int = 0
    """Evaluations since the best one: what patience counts."""
    evaluated_step: int = 0
    """Step of the last evaluation; 0 before the first."""
    has_data: bool = True
    """False once the loader gave no batch."""
    num_lines: int = 0
    """Lines of metrics.jsonl written so far."""
    window: Window = Window()
    """Sums for the next of them."""

    def after_step(self, report: StepFacts, *, lr: float, seconds: float) -> Self:
        """Return the state after one step."""
        return dataclasses.replace(
            self,
            step=self.step + 1,
            num_skipped=self.num_skipped + report.is_skipped,
            num_skipped_in_a_row=self.num_skipped_in_a_row + 1 if report.is_skipped else 0,
            window=self.window.after(report, lr=lr, seconds=seconds),
        )

    def after_data(self) -> Self:
        """Return the state after the loader gave no batch."""
        return dataclasses.replace(self, has_data=False)

    def after_line(self) -> Self:
        """Return the state after a line of training metrics."""
        return dataclasses.replace(self, num_lines=self.num_lines + 1, window=Window())

    def after_evaluation(self, metrics: Mapping[str, float], config: TrainingConfig) -> Self:
        """Return the state after an evaluation and its line; a value that is not finite is never the best.

        Of equal values the one with the lower "loss" is better: on few records, scores move in steps and stand still
        while the model still learns.
        Raises: ConfigError if config.best_metric is none of the metrics.
        """
        if config.best_metric not in metrics:
            raise ConfigError(
                f"training.best_metric = {config.best_metric!r} is none of the evaluation's metrics: "
                f"{', '.join(metrics)}."
            )
        value, sign = metrics[config.best_metric], 1 if config.best_is == "highest" else -1
        is_best = math.isfinite(value) and (
            self.best is None
            or sign * value > sign * self.best.value
            or (value == self.best.value and metrics.get("loss", math.inf) < self.best.metrics.get("loss", math.inf))
        )
        new = Best(step=self.step, metric=config.best_metric, value=value, metrics=dict(metrics))
        return dataclasses.replace(
            self,
            best=new if is_best else self.best,
            num_without_best=0 if is_best else self.num_without_best + 1,
            evaluated_step=self.step,
            num_lines=self.num_lines + 1,
        )

    def to_plain(self) -> Plain:
        """Return the state for JSON; numbers that JSON has not become null."""
        plain = dataclasses.asdict(self)
        if self.best is not None:
            plain["best"]["metrics"] = plain_metrics(self.best.metrics)
        return plain

    @classmethod
    def from_plain(cls, plain: Plain) -> Self:
        """Return the state that gave `plain`. Raises: CheckpointError if it is no such thing."""
        try:
            best = plain["best"]
            if best is not None:
                best = Best(**{**best, "metrics": read_metrics(best["metrics"])})
            return cls(**{**plain, "best": best, "window": Window(**plain["window"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"the saved training state does not read ({error}). Was it written by another version of t5kit?"
            ) from error


def plain_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics for JSON, which has no word for what is infinite or not a number: null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def read_metrics(plain: Mapping[str, float | None]) -> dict[str, float]:
    """Return the metrics that gave `plain`: NaN for null."""
    return {name: math.nan if value is None else value for name, value in plain.items()}

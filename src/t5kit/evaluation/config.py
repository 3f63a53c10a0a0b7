"""What a run says of its evaluations: plain data."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, get_args

from t5kit.errors import ConfigError
from t5kit.metrics import METRICS

RepeatedPrompts = Literal["each", "group"]

PERPLEXITY = "perplexity"
"""The one metric that asks the model for likelihoods; all others look at texts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskEvaluationConfig:
    """How one task's answers are made and scored.

    Raises: ConfigError on construction, naming the field, when a value is unknown or would have no effect.
    """

    metrics: tuple[str, ...] = ()
    """Names of text metrics, and "perplexity"; none: the task's own."""
    repeated_prompts: RepeatedPrompts = "each"
    """each: every record counts. group: records with the same prompt count once, their targets being accepted
    alternatives."""
    reference_separator: str = ""
    """Splits a target into accepted alternatives, such as "/" in "was/were"; "": none."""
    choices: tuple[str, ...] = ()
    """If given, the answer is the most likely of these texts; nothing is generated."""
    is_length_normalized: bool = False
    """Compare choices by their log-probability a token instead of their whole one."""

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS and name != PERPLEXITY:
                known = ", ".join((*METRICS, PERPLEXITY))
                raise ConfigError(f"task.metrics holds {name!r}; known are: {known}.")
        if self.repeated_prompts not in get_args(RepeatedPrompts):
            raise ConfigError(
                f"task.repeated_prompts = {self.repeated_prompts!r} must be one of: "
                f"{', '.join(get_args(RepeatedPrompts))}."
            )
        if len(self.choices) == 1 or len(set(self.choices)) < len(self.choices):
            raise ConfigError(f"task.choices = {list(self.choices)} must be at least two different texts.")
        if self.is_length_normalized and not self.choices:
            raise ConfigError("task.is_length_normalized has no effect without task.choices. Set those, or remove it.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a run looks at what its model writes.

    Raises: ConfigError on construction, naming the field, when a value is out of range.
    """

    tasks: Mapping[str, TaskEvaluationConfig] = dataclasses.field(default_factory=dict)
    """Name of a task -> how it is evaluated; a task that is not named is evaluated by its own metrics."""
    num_beams: int = 1
    """Beams; 1 is greedy."""
    length_penalty: float = 1.0
    """Exponent by which beams of unequal length are compared."""
    max_new_tokens: int = 128
    """Most tokens of an answer, EOS included; >= 1."""
    max_input_tokens: int = 0
    """Prompts are cut to so many tokens, EOS kept; 0: they are not cut."""
    max_examples: int = 0
    """Examples of each task that are answered, drawn once by the seed; 0: all."""
    max_loss_examples: int = 0
    """Examples of each task that the loss is computed on, drawn once, to whole batches; 0: all."""
    batch_rows: int = 256
    """Most sequences decoded at one time (a beam is one); only memory and speed depend on it."""
    seed: int = 0
    """Draws the examples."""

    def __post_init__(self) -> None:
        least = {
            "num_beams": 1, "max_new_tokens": 1, "max_input_tokens": 0, "max_examples": 0, "max_loss_examples": 0,
            "batch_rows": 1, "seed": 0,
        }  # fmt: skip
        for name, fewest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not fewest <= value < 2**53:
                raise ConfigError(f"evaluation.{name} = {value!r} must be an integer of at least {fewest}.")
        penalty = self.length_penalty
        if not isinstance(penalty, (int, float)) or isinstance(penalty, bool) or not math.isfinite(penalty):
            raise ConfigError(f"evaluation.length_penalty = {penalty!r} must be a finite number.")
        if self.num_beams > self.batch_rows:
            raise ConfigError(
                f"evaluation.num_beams = {self.num_beams} must be at most evaluation.batch_rows = {self.batch_rows}."
            )
        if self.max_input_tokens == 1:
            raise ConfigError("evaluation.max_input_tokens = 1 leaves room for EOS alone; expected 0 or at least 2.")

"""Learning rates as pure functions of the step, which counts the updates already made: the first update is step 0."""

import functools
import math
from collections.abc import Callable

from t5kit.errors import ConfigError
from t5kit.training.config import ScheduleConfig

Schedule = Callable[[int], float]
"""step -> learning rate. It has no state: a resumed run asks for the step it is at."""


def warmup(step: int, *, warmup_steps: int, start: float = 0.0) -> float:
    """Return the share of the learning rate that a linear warm-up allows: `start` at step 0, 1 from warmup_steps on.

    Source: t5x `linear_warmup` and Hugging Face's schedules, with start 0; nanoT5's cosine starts at 0.5.
    Example: warmup_steps 4 gives 0, 0.25, 0.5, 0.75, 1, 1, …
    """
    if step >= warmup_steps:
        return 1.0
    return start + (1.0 - start) * step / warmup_steps


def inverse_sqrt(step: int, *, peak_lr: float, plateau_steps: int) -> float:
    """Return peak_lr until plateau_steps, then fall with 1 / sqrt(step).

    With peak_lr 0.01 and plateau_steps 10000 this is t5x's 1 / sqrt(max(step, 10000)).
    Example: 0.01 at steps 0 and 10000, 0.005 at 40000, 0.001 at 1000000.
    """
    return peak_lr * math.sqrt(plateau_steps / max(step, plateau_steps))


def inverse_sqrt_cooldown(
    step: int, *, peak_lr: float, plateau_steps: int, total_steps: int, cooldown_share: float
) -> float:
    """Return `inverse_sqrt`, but a straight line to 0 over the last cooldown_share of the run.

    Source: nanoT5 `get_lr_scheduler`, "legacy": min(0.01, 1 / sqrt(step)), the line over the last tenth.
    Example (0.01, 10000, 100 steps, 0.1): 0.01 until step 90, 0.005 at 95, 0 at 100.
    """
    first = math.ceil(total_steps * (1.0 - cooldown_share))
    lr = inverse_sqrt(min(step, first), peak_lr=peak_lr, plateau_steps=plateau_steps)
    if step <= first:
        return lr
    return lr * max(0, total_steps - step) / max(1, total_steps - first)  # a short run may have no last tenth


def cosine(step: int, *, peak_lr: float, final_lr: float, warmup_steps: int, total_steps: int) -> float:
    """Return half a cosine wave from peak_lr at warmup_steps to final_lr at total_steps and after.

    Example (1, 0.2, 0, 100): 1 at step 0, 0.6 at 50, 0.2 at 100.
    """
    share_left = 0.5 * (1.0 + math.cos(math.pi * _progress(step, warmup_steps, total_steps)))
    return final_lr + (peak_lr - final_lr) * share_left


def linear(step: int, *, peak_lr: float, final_lr: float, warmup_steps: int, total_steps: int) -> float:
    """Return a straight line from peak_lr at warmup_steps to final_lr at total_steps and after.

    Example (1, 0.2, 0, 100): 1 at step 0, 0.6 at 50, 0.2 at 100.
    """
    return final_lr + (peak_lr - final_lr) * (1.0 - _progress(step, warmup_steps, total_steps))


def learning_rate(step: int, config: ScheduleConfig, *, total_steps: int) -> float:
    """Return the learning rate of the update that follows `step` updates, out of total_steps."""
    match config.name:
        case "constant":
            lr = config.peak_lr
        case "inverse_sqrt":
            lr = inverse_sqrt(step, peak_lr=config.peak_lr, plateau_steps=config.plateau_steps)
        case "inverse_sqrt_cooldown":
            lr = inverse_sqrt_cooldown(
                step,
                peak_lr=config.peak_lr,
                plateau_steps=config.plateau_steps,
                total_steps=total_steps,
                cooldown_share=config.cooldown_share,
            )
        case "cosine" | "linear" as name:
            lr = {"cosine": cosine, "linear": linear}[name](
                step,
                peak_lr=config.peak_lr,
                final_lr=config.final_lr,
                warmup_steps=config.warmup_steps,
                total_steps=total_steps,
            )
    return lr * warmup(step, warmup_steps=config.warmup_steps, start=config.warmup_start)


def make_schedule(config: ScheduleConfig, *, total_steps: int) -> Schedule:
    """Return `learning_rate` of one run, checked against its length.

    Raises: ConfigError if the warm-up fills the whole run, or total_steps is below 1.
    """
    if total_steps < 1:
        raise ConfigError(f"training.num_steps = {total_steps} must be at least 1.")
    if config.warmup_steps >= total_steps:
        raise ConfigError(
            f"schedule.warmup_steps = {config.warmup_steps} must be below training.num_steps = {total_steps}. "
            "Lower it, or raise training.num_steps."
        )
    return functools.partial(learning_rate, config=config, total_steps=total_steps)


def _progress(step: int, first: int, last: int) -> float:
    """Return the share of the way from `first` to `last`, in [0, 1]."""
    return min(max(step - first, 0) / (last - first), 1.0)

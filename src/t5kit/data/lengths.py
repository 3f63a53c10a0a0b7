"""What happens to examples that are too long: cut before EOS, or left out and counted."""

import dataclasses
from typing import Literal

import numpy as np

from t5kit.errors import ConfigError
from t5kit.tasks.example import Example


@dataclasses.dataclass(frozen=True, slots=True)
class LengthLimits:
    """The most ids of each side, EOS included, and what to do with longer ones.

    "truncate" cuts both sides to their limit and keeps EOS, as t5 does; "drop" leaves the example out. Both count.
    """

    encoder_length: int
    target_length: int
    too_long: Literal["truncate", "drop"] = "truncate"

    def __post_init__(self) -> None:
        if min(self.encoder_length, self.target_length) < 1:
            raise ConfigError(
                f"data.encoder_length = {self.encoder_length} and data.target_length = {self.target_length} "
                "must be at least 1."
            )
        if self.too_long not in ("truncate", "drop"):
            raise ConfigError(f"data.too_long = {self.too_long!r} must be one of truncate, drop.")

    def fits(self, example: Example) -> bool:
        """Say whether both sides are within their limits."""
        return len(example.encoder_ids) <= self.encoder_length and len(example.target_ids) <= self.target_length

    def truncated(self, example: Example) -> Example:
        """Return the example cut to the limits; the last id of each side, EOS, moves to the new end."""
        if self.fits(example):
            return example
        return Example(
            encoder_ids=_cut(example.encoder_ids, self.encoder_length),
            target_ids=_cut(example.target_ids, self.target_length),
            loss_weights=_cut(example.loss_weights, self.target_length),
        )


def _cut(values: np.ndarray, length: int) -> np.ndarray:
    return values if len(values) <= length else np.concatenate([values[: length - 1], values[-1:]])

"""Whether a model is as often right as it says: reliability by confidence, and the errors that sum it up."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from t5kit.errors import DataError

_Z_95 = 1.959963984540054
"""Quantile of the normal distribution behind a 95 % interval."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Answers of like confidence. All but the count are shares of 1."""

    low: float
    high: float
    num_items: int
    confidence: float
    """Mean of the items'."""
    accuracy: float
    accuracy_low: float
    """Of Wilson's 95 % interval, which holds for few items too."""
    accuracy_high: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How confidence and accuracy go together."""

    bins: tuple[ReliabilityBin, ...]
    """Those of equal width that hold any item, ascending."""
    expected_error: float
    """ECE: mean distance of accuracy from confidence over the bins, weighted by their items; 0 is best, 1 worst."""
    brier_score: float
    """Mean squared distance of confidence from being right (1) or wrong (0)."""
    num_items: int
    mean_confidence: float
    accuracy: float


def calibration(confidences: Sequence[float], is_right: Sequence[bool], *, num_bins: int = 10) -> Calibration:
    """Return how well confidences, each in 0 … 1, tell which answers are right.

    Source: Guo et al. 2017, "On calibration of modern neural networks" (ECE over bins of equal width); Wilson 1927.
    Raises: DataError if the two are not as many, none, or a confidence is no probability.

    Example: confidences 0.9 0.9 0.2 0.2, right yes no no no -> bins 0.2 (0 right) and 0.9 (0.5 right), error 0.3
    """
    confidence_N, right_N = np.asarray(confidences, np.float64), np.asarray(is_right, bool)
    if confidence_N.shape != right_N.shape or confidence_N.ndim != 1 or not confidence_N.size:
        raise DataError(
            f"calibration got {confidence_N.size} confidences and {right_N.size} answers; expected as many, above 0."
        )
    if not ((confidence_N >= 0.0) & (confidence_N <= 1.0)).all():
        raise DataError("calibration got a confidence that is not between 0 and 1; give probabilities.")
    place_N = np.minimum((confidence_N * num_bins).astype(np.int64), num_bins - 1)
    bins = []
    for number in np.unique(place_N).tolist():
        chosen = place_N == number
        count, num_right = int(chosen.sum()), int(right_N[chosen].sum())
        low, high = _wilson_interval(num_right, count)
        bins.append(
            ReliabilityBin(
                low=number / num_bins,
                high=(number + 1) / num_bins,
                num_items=count,
                confidence=float(confidence_N[chosen].mean()),
                accuracy=num_right / count,
                accuracy_low=low,
                accuracy_high=high,
            )
        )
    weighted = sum(each.num_items * abs(each.accuracy - each.confidence) for each in bins)
    return Calibration(
        bins=tuple(bins),
        expected_error=weighted / confidence_N.size,
        brier_score=float(np.square(confidence_N - right_N).mean()),
        num_items=confidence_N.size,
        mean_confidence=float(confidence_N.mean()),
        accuracy=float(right_N.mean()),
    )


def _wilson_interval(num_right: int, num_items: int) -> tuple[float, float]:
    share, z = num_right / num_items, _Z_95
    middle = (share + z * z / (2 * num_items)) / (1 + z * z / num_items)
    half = z * math.sqrt(share * (1 - share) / num_items + (z / (2 * num_items)) ** 2) / (1 + z * z / num_items)
    return max(0.0, middle - half), min(1.0, middle + half)

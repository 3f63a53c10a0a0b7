"""Pearson's and Spearman's correlation of numbers written as text (STS-B)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from t5kit.errors import DataError
from t5kit.metrics.items import Indices, ItemScores
from t5kit.metrics.pairs import References, only_references, percent

UNREADABLE = -1.0
"""What a prediction that is no number counts as (t5: string_to_float(default=-1.0)); below every STS-B label."""

Numbers = npt.NDArray[np.float64]


def correlations(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation in percent; 0 where either side does not vary."""
    return correlations_items(references, predictions).total()


def correlations_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `correlations` prepared for any choice of items."""
    expected_N = np.array([_number(text) for text in only_references(references, predictions, "correlations")])
    if np.isnan(expected_N).any():
        raise DataError("correlations: a reference is no number; expected texts like 3.8.")
    predicted_N = np.array([_number(text) for text in predictions])
    predicted_N = np.where(np.isnan(predicted_N), UNREADABLE, predicted_N)

    def of(indices: Indices) -> dict[str, float]:
        expected, predicted = expected_N[indices], predicted_N[indices]
        return {
            "pearson": percent(pearson(expected, predicted)),
            "spearman": percent(pearson(average_ranks(expected), average_ranks(predicted))),
        }

    return ItemScores(len(expected_N), of)


def pearson(left_N: Numbers, right_N: Numbers) -> float:
    """Return the correlation of two rows of numbers, -1 to 1."""
    left, right = _centred(left_N), _centred(right_N)
    scale = np.sqrt(left @ left) * np.sqrt(right @ right)
    return float(left @ right / scale) if scale > 0.0 else 0.0


def _centred(values_N: Numbers) -> Numbers:
    """Return the numbers without their mean, at most 2 in size; a correlation does not hang on their unit."""
    largest = np.abs(values_N).max(initial=0.0)
    if largest == 0.0:
        return values_N
    scaled = values_N / largest  # Numerics: squares of 1e200 or 1e-200 are none
    return scaled - scaled.mean()


def average_ranks(values_N: Numbers) -> Numbers:
    """Return each value's rank from 1, equal values sharing the mean of their ranks."""
    _, place_N, count_U = np.unique(values_N, return_inverse=True, return_counts=True)
    last_U = np.cumsum(count_U)
    return ((2 * last_U - count_U + 1) / 2.0)[place_N]


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return float("nan")
    return number if np.isfinite(number) else float("nan")

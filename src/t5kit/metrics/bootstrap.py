"""Bootstrap confidence intervals and the paired comparison of two systems.

Works for any statistic of a choice of items: `mean_of` for metrics that are means over items, `score_of` for those of
a whole corpus, such as BLEU.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from t5kit.errors import DataError, RequestError
from t5kit.metrics.pairs import References

Indices = npt.NDArray[np.int64]
Statistic = Callable[[Indices], float]
"""The value over the items at some indices [N], of which some may repeat."""


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A value over all items and the percentile interval around it."""

    value: float
    low: float
    high: float
    confidence: float


@dataclasses.dataclass(frozen=True, slots=True)
class PairedComparison:
    """How system A stands to system B on the same items; differences are A - B."""

    difference: Interval
    p_value: float
    """Chance, two-sided, of a difference this far from zero if the systems were equal, by the bootstrap."""


def mean_of(values: Sequence[float] | npt.NDArray[Any]) -> Statistic:
    """Return the statistic that averages one value an item."""
    values_N = np.asarray(values, np.float64)
    return lambda indices: float(values_N[indices].mean())


def score_of(
    metric: Callable[[References, Sequence[str]], dict[str, float]],
    name: str,
    references: References,
    predictions: Sequence[str],
) -> Statistic:
    """Return the statistic that computes a metric's number called name anew for every choice of items."""
    return lambda indices: metric([references[i] for i in indices], [predictions[i] for i in indices])[name]


def bootstrap(
    statistic: Statistic,
    num_items: int,
    *,
    rng: np.random.Generator,
    num_samples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Return the statistic over all items with its percentile interval over num_samples resamplings."""
    drawn = _draw(num_items, num_samples, confidence, rng)
    return _interval(statistic(np.arange(num_items)), np.array([statistic(row) for row in drawn]), confidence)


def paired_bootstrap(
    system_a: Statistic,
    system_b: Statistic,
    num_items: int,
    *,
    rng: np.random.Generator,
    num_samples: int = 1000,
    confidence: float = 0.95,
) -> PairedComparison:
    """Return the difference of two systems; both are measured on the same resampled items every time.

    Source: Koehn 2004, "Statistical significance tests for machine translation evaluation".
    """
    drawn = _draw(num_items, num_samples, confidence, rng)
    differences = np.array([system_a(row) - system_b(row) for row in drawn])
    everything = np.arange(num_items)
    observed = system_a(everything) - system_b(everything)
    # Under equality the resampled differences scatter around zero as they now scatter around the observed one.
    extreme = int((np.abs(differences - observed) >= abs(observed)).sum())
    return PairedComparison(_interval(observed, differences, confidence), (extreme + 1) / (num_samples + 1))


def _draw(num_items: int, num_samples: int, confidence: float, rng: np.random.Generator) -> Indices:
    if num_items < 1:
        raise DataError("the bootstrap got nothing to resample; expected at least one item.")
    if num_samples < 1 or not 0.0 < confidence < 1.0:
        raise RequestError(
            f"num_samples = {num_samples} must be at least 1 and confidence = {confidence} between 0 and 1."
        )
    return rng.integers(num_items, size=(num_samples, num_items))


def _interval(value: float, samples: npt.NDArray[np.float64], confidence: float) -> Interval:
    low, high = np.quantile(samples, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return Interval(value, float(low), float(high), confidence)

"""Bootstrap confidence intervals and the paired comparison of two systems.

Works for any statistic of a choice of items: `mean_of` for metrics that are means over items, `score_of` for those of
a whole corpus, such as BLEU; and for all numbers of a metric at once, on the same resamplings, by its `ItemScores`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from t5kit.errors import DataError, RequestError
from t5kit.metrics.items import Indices, ItemScores, ScoresOf
from t5kit.metrics.pairs import References

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
    scores = ItemScores(num_items, lambda indices: {"": statistic(indices)})
    return bootstrap_scores(scores, rng=rng, num_samples=num_samples, confidence=confidence)[""]


def bootstrap_scores(
    scores: ItemScores, *, rng: np.random.Generator, num_samples: int = 1000, confidence: float = 0.95
) -> dict[str, Interval]:
    """Return every number over all items with its percentile interval over num_samples resamplings."""
    _check(scores.num_items, num_samples, confidence)
    samples = _samples(scores.of, scores.num_items, num_samples, rng)
    return {name: _interval(value, samples[name], confidence) for name, value in scores.total().items()}


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
    left = ItemScores(num_items, lambda indices: {"": system_a(indices)})
    right = ItemScores(num_items, lambda indices: {"": system_b(indices)})
    return paired_bootstrap_scores(left, right, rng=rng, num_samples=num_samples, confidence=confidence)[""]


def paired_bootstrap_scores(
    scores_a: ItemScores,
    scores_b: ItemScores,
    *,
    rng: np.random.Generator,
    num_samples: int = 1000,
    confidence: float = 0.95,
) -> dict[str, PairedComparison]:
    """Return `paired_bootstrap` for every number that both have; the items must be the same, in the same order.

    Raises: DataError if there are not as many items on both sides.
    """
    if scores_a.num_items != scores_b.num_items:
        raise DataError(
            f"the paired bootstrap got {scores_a.num_items} and {scores_b.num_items} items; expected the same items."
        )
    _check(scores_a.num_items, num_samples, confidence)

    def differences_of(indices: Indices) -> dict[str, float]:
        values_a, values_b = scores_a.of(indices), scores_b.of(indices)
        return {name: _difference(value, values_b[name]) for name, value in values_a.items() if name in values_b}

    samples = _samples(differences_of, scores_a.num_items, num_samples, rng)
    everything = np.arange(scores_a.num_items)
    values_a, values_b = scores_a.of(everything), scores_b.of(everything)
    comparisons = {}
    for name in (name for name in values_a if name in values_b):
        difference = _difference(values_a[name], values_b[name])
        # Under equality the resampled differences scatter around zero as they now scatter around the observed one.
        # Numerics: equal infinities are 0 apart, not NaN.
        drawn = samples[name]
        scatter = np.subtract(drawn, difference, out=np.zeros_like(drawn), where=drawn != difference)
        # Numerics: of two differences that are equal one may come out a rounding below the other.
        size = max(abs(values_a[name]), abs(values_b[name]))
        rounding = 1e-9 * size if np.isfinite(size) else 0.0
        extreme = int((np.abs(scatter) >= abs(difference) - rounding).sum())
        interval = _interval(difference, samples[name], confidence)
        # Few items cannot say more: equal systems are all apart in one direction once in 2 ** (items - 1).
        least = 2.0 ** (1 - min(scores_a.num_items, 64))
        comparisons[name] = PairedComparison(interval, max(least, (extreme + 1) / (num_samples + 1)))
    return comparisons


def _samples(
    of: ScoresOf, num_items: int, num_samples: int, rng: np.random.Generator
) -> Mapping[str, npt.NDArray[np.float64]]:
    """Return every number over num_samples resamplings, each [num_samples]."""
    drawn = [of(indices) for indices in _drawn(num_items, num_samples, rng)]
    return {name: np.array([values[name] for values in drawn]) for name in drawn[0]}


def _drawn(num_items: int, num_samples: int, rng: np.random.Generator) -> Iterator[Indices]:
    for _ in range(num_samples):
        yield rng.integers(num_items, size=num_items)


def _check(num_items: int, num_samples: int, confidence: float) -> None:
    if num_items < 1:
        raise DataError("the bootstrap got nothing to resample; expected at least one item.")
    if num_samples < 1 or not 0.0 < confidence < 1.0:
        raise RequestError(
            f"num_samples = {num_samples} must be at least 1 and confidence = {confidence} between 0 and 1."
        )


def _difference(left: float, right: float) -> float:
    """Return left - right, 0 of equal infinities: both systems' perplexity is infinite where nothing was answered."""
    return 0.0 if left == right else left - right


def _interval(value: float, samples: npt.NDArray[np.float64], confidence: float) -> Interval:
    ends = (1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0
    if np.isinf(samples).any():  # Numerics: nothing lies between two infinities; the samples around each end count
        low, high = np.quantile(samples, ends[0], method="lower"), np.quantile(samples, ends[1], method="higher")
    else:
        low, high = np.quantile(samples, ends)
    return Interval(value, float(low), float(high), confidence)

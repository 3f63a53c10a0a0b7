"""A metric prepared for any choice of its items, which the bootstrap asks for a thousand times."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from t5kit.errors import DataError
from t5kit.metrics.pairs import References, percent

Indices = npt.NDArray[np.int64]
ScoresOf = Callable[[Indices], dict[str, float]]
"""The numbers of a metric over the items at some indices [N], N >= 1, of which some may repeat."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ItemScores:
    """What a metric found in every item, so that its numbers over any choice of them cost next to nothing.

    `of(indices)` equals the metric on the items at these indices.
    """

    num_items: int
    of: ScoresOf
    each: Mapping[str, npt.NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    """Numbers that one item has for itself, each [num_items], in percent; none where only a corpus has them (BLEU)."""

    def total(self) -> dict[str, float]:
        """Return the numbers over all items."""
        return self.of(np.arange(self.num_items))


def mean_scores(columns: Mapping[str, npt.ArrayLike]) -> ItemScores:
    """Return the scores of metrics that are means over items. Shapes: columns name -> [N], as shares of 1."""
    values = {name: np.asarray(column, np.float64) for name, column in columns.items()}

    def of(indices: Indices) -> dict[str, float]:
        return {name: percent(column_N[indices].mean()) for name, column_N in values.items()}

    num_items = len(next(iter(values.values())))
    return ItemScores(num_items, of, {name: 100.0 * column_N for name, column_N in values.items()})


def sum_scores(rows: npt.ArrayLike, finish: Callable[[list[float]], dict[str, float]]) -> ItemScores:
    """Return the scores of a metric that is a function of sums over items. Shapes: rows [N, K]; finish takes [K]."""
    rows_NK = np.asarray(rows, np.float64)

    def of(indices: Indices) -> dict[str, float]:
        return finish(rows_NK[indices].sum(axis=0).tolist())

    return ItemScores(len(rows_NK), of)


def scores_by_recomputing(
    metric: Callable[[References, Sequence[str]], dict[str, float]], references: References, predictions: Sequence[str]
) -> ItemScores:
    """Return the scores of a metric of which nothing is known: it is computed anew for every choice."""

    def of(indices: Indices) -> dict[str, float]:
        return metric([references[i] for i in indices], [predictions[i] for i in indices])

    return ItemScores(len(predictions), of)


def joined_names(numbers: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    """Return (metric, number) -> the number's name among those of all metrics: as it stands where only one metric has
    it, and METRIC.NUMBER otherwise. numbers: metric -> the names of its numbers.
    """
    counts = collections.Counter(itertools.chain.from_iterable(numbers.values()))
    return {
        (metric, number): f"{metric}.{number}" if counts[number] > 1 else number
        for metric, names in numbers.items()
        for number in names
    }


def joined_scores(parts: Mapping[str, ItemScores]) -> ItemScores:
    """Return the numbers of several metrics over the same items, called by `joined_names`.

    Example: squad and exact_match -> "squad.exact_match", "f1", "exact_match.exact_match"
    Raises: DataError if there are no parts or they are about different numbers of items.
    """
    sizes = {scores.num_items for scores in parts.values()}
    if len(sizes) != 1:
        raise DataError(f"scores of {sorted(sizes)} items cannot be joined; expected the same items for every metric.")
    (num_items,) = sizes
    final = joined_names({metric: list(scores.total()) for metric, scores in parts.items()})

    def of(indices: Indices) -> dict[str, float]:
        return {
            final[metric, name]: value for metric, scores in parts.items() for name, value in scores.of(indices).items()
        }

    each = {final[metric, name]: column for metric, scores in parts.items() for name, column in scores.each.items()}
    return ItemScores(num_items, of, each)

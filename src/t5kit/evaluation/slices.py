"""Scores of parts of the examples: by a column of the data, by the length of the input, by the right label."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from t5kit.metrics.bootstrap import Interval, bootstrap_scores
from t5kit.metrics.items import ItemScores

if TYPE_CHECKING:
    from t5kit.evaluation.report import EvaluationReport

MAX_SLICES = 20
"""Values of a column that are shown by themselves, the most frequent; the others are one slice together."""
MAX_LABELS = 50
"""References of more different texts are not taken for labels, unless labels were asked for."""
NUM_QUANTILES = 4
NUM_SAMPLES = 300
"""Resamplings behind a slice's interval; its ends are drawn, not tested."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some of the examples, and what they scored."""

    name: str
    num_examples: int
    scores: Mapping[str, float]
    """The report's scores, over these examples alone."""
    intervals: Mapping[str, Interval]
    """Empty if the report has none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slicing:
    """All examples, cut in one way."""

    title: str
    places: Mapping[str, tuple[int, ...]]
    """A slice's name -> which examples."""

    def of(self, report: "EvaluationReport") -> list[Slice]:
        """Return every slice's scores in a report about these examples."""
        return [_slice(report, name, places) for name, places in self.places.items()]


def are_labels(report: "EvaluationReport") -> bool:
    """Return whether the right answers are labels: one a prompt, few different ones, or asked about as such."""
    if any(len(result.references) != 1 for result in report.results):
        return False
    num_different = len({result.references[0] for result in report.results})
    return report.classification is not None or 1 < num_different <= min(MAX_LABELS, len(report.results) // 4)


def slicings_of(report: "EvaluationReport") -> list[Slicing]:
    """Return every way to cut a report's examples: its columns, the label, the input's length; each at least in two."""
    results = report.results
    found = [
        Slicing(title=f"By {column}", places=_places(_column_names([each.slices.get(column, "") for each in results])))
        for column in dict.fromkeys(itertools.chain.from_iterable(result.slices for result in results))
    ]
    if are_labels(report):
        found.append(Slicing(title="By right label", places=_places(_frequent([r.references[0] for r in results]))))
    lengths = [float(num_words(result.prompt)) for result in results]
    found.append(Slicing(title="By words of the input", places=_places(_quantile_names(lengths))))
    return [slicing for slicing in found if len(slicing.places) > 1]


def num_words(text: str) -> int:
    """Return how many pieces between spaces a text has."""
    return len(text.split())


def _slice(report: "EvaluationReport", name: str, places: Sequence[int]) -> Slice:
    indices = np.array(places)
    whole = report.item_scores
    part = ItemScores(len(indices), lambda chosen: whole.of(indices[chosen]))
    intervals: Mapping[str, Interval] = {}
    if report.intervals:
        confidence = next(iter(report.intervals.values())).confidence
        rng = np.random.Generator(np.random.Philox(len(indices)))
        intervals = bootstrap_scores(part, rng=rng, num_samples=NUM_SAMPLES, confidence=confidence)
    return Slice(name=name, num_examples=len(indices), scores=part.total(), intervals=intervals)


def _places(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return name -> places, in the order that `names` has them by `_order`."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return {name: tuple(places[name]) for name in sorted(places, key=_order)}


def _order(name: str) -> tuple[int, float, str]:
    """Sort ranges by their lower end, other names by themselves, what stands for the rest last."""
    if name.startswith("other ("):
        return (2, 0.0, name)
    try:
        return (0, float(name.split(" ")[0].replace(",", "")), name)
    except ValueError:
        return (1, 0.0, name)


def _column_names(values: Sequence[str]) -> list[str]:
    """Return each value's slice: numbers of many values by their quantiles, else the value itself."""
    numbers = [_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if len(known) == len(values) and len(set(known)) > MAX_SLICES:
        return _quantile_names(known)
    return _frequent([value or "(empty)" for value in values])


def _frequent(values: Sequence[str]) -> list[str]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    if len(counts) <= MAX_SLICES:
        return list(values)
    kept = set(sorted(counts, key=lambda value: (-counts[value], value))[: MAX_SLICES - 1])
    others = f"other ({len(counts) - len(kept)} values)"
    return [value if value in kept else others for value in values]


def _quantile_names(values: Sequence[float]) -> list[str]:
    """Return the range of each value, of about equally many values each."""
    ordered = sorted(values)
    cuts = sorted({ordered[len(ordered) * part // NUM_QUANTILES] for part in range(NUM_QUANTILES)})
    members: list[list[float]] = [[] for _ in cuts]
    for value in ordered:
        members[bisect.bisect_right(cuts, value) - 1].append(value)
    names: list[str] = []
    for digits in range(4, 18):  # as few as tell the ranges apart; 17 tell any two numbers apart
        is_whole = all(value.is_integer() for value in values)
        shown: Callable[[float], str] = _whole if is_whole else f"{{:.{digits}g}}".format
        ends = [(shown(part[0]), shown(part[-1])) for part in members]
        names = [low if low == high else f"{low} to {high}" for low, high in ends]
        if len(set(names)) == len(names):
            break
    return [names[bisect.bisect_right(cuts, value) - 1] for value in values]


def _whole(value: float) -> str:
    return f"{int(value):,}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

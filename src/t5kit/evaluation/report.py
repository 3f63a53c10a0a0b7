"""What an evaluation found: scores with their intervals, counts of everything, and every example's answer."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t5kit.evaluation.html_report import evaluation_page
from t5kit.metrics.bootstrap import Interval
from t5kit.metrics.classification import ClassificationReport
from t5kit.metrics.items import ItemScores
from t5kit.sources import BadRecord

if TYPE_CHECKING:
    from t5kit.evaluation.comparison import Comparison


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExampleResult:
    """One example's answer beside what would have been right."""

    prompt: str
    references: tuple[str, ...]
    prediction: str | None
    """None: no prediction was asked for. "" where there is an error."""
    place: str
    """Of the example's first record: file:line."""
    scores: Mapping[str, float]
    """Numbers that one example has for itself; corpus numbers such as BLEU are not among them."""
    error: str | None = None
    """Why the example could not be answered."""
    log_probability: float | None = None
    """Of the prediction, natural, where the model told it."""
    confidence: float | None = None
    """Chance, 0 to 1, that the model gives this prediction; see `Answer`."""
    slices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Column -> value, for the columns that scores are asked by."""

    @property
    def is_right(self) -> bool:
        """Whether the prediction is one of the references, outer spaces aside."""
        return self.prediction is not None and self.prediction.strip() in {text.strip() for text in self.references}

    def to_json(self) -> dict[str, Any]:
        """Return the result as a line of a predictions file."""
        line: dict[str, Any] = {"prompt": self.prompt, "references": list(self.references)}
        if self.prediction is not None:
            line["prediction"] = self.prediction
        if self.confidence is not None:
            line["confidence"] = self.confidence
        if self.log_probability is not None:
            line["log_probability"] = self.log_probability
        line |= {"scores": dict(self.scores), "place": self.place}
        if self.slices:
            line["slices"] = dict(self.slices)
        return line if self.error is None else {**line, "error": self.error}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """The scores of one model, or one file of predictions, on one set of examples."""

    scores: Mapping[str, float]
    """By name; shares and correlations in percent."""
    intervals: Mapping[str, Interval]
    """Bootstrap intervals of the scores; empty if none were asked for."""
    num_records: int
    num_bad: int
    """Records that gave no example."""
    num_repeated: int
    """Records whose prompt an earlier record has too."""
    num_left_out: int
    """Examples beyond max_examples."""
    num_unanswered: int
    """Examples without a prediction or likelihood. They count, with an empty prediction."""
    num_cut: int
    """Answers that ended at max_new_tokens."""
    bad: tuple[BadRecord, ...]
    """The first of the bad records."""
    results: tuple[ExampleResult, ...]
    """Every example, in the order of the data."""
    classification: ClassificationReport | None
    """Scores by label, if a classification metric was asked for."""
    item_scores: ItemScores = dataclasses.field(repr=False, compare=False)
    """What the scores were computed of; two reports over the same examples can be compared by it."""
    findings: tuple[str, ...] = ()
    """What is strange about the examples, a sentence each, such as empty targets."""

    def to_json(self) -> dict[str, Any]:
        """Return everything but the single examples, as plain data."""
        report: dict[str, Any] = {
            "scores": {name: score_json(value, self.intervals.get(name)) for name, value in self.scores.items()},
            "num_examples": len(self.results),
            "num_records": self.num_records,
            "num_bad": self.num_bad,
            "num_repeated": self.num_repeated,
            "num_left_out": self.num_left_out,
            "num_unanswered": self.num_unanswered,
            "num_cut": self.num_cut,
            "bad": [record.error for record in self.bad],
        }
        if self.findings:
            report["findings"] = list(self.findings)
        if self.classification is not None:
            report["classification"] = dataclasses.asdict(self.classification)
        return report

    def to_html(
        self,
        *,
        name: str = "",
        other: "EvaluationReport | None" = None,
        other_name: str = "",
        comparison: "Comparison | None" = None,
    ) -> str:
        """Return the report as one HTML page that fetches nothing and needs no script.

        name: of the model. other, comparison: a second model's report on the same examples, and what `compare` says of
        the two.
        """
        return evaluation_page(self, name=name, other=other, other_name=other_name, comparison=comparison)

    def __str__(self) -> str:
        lines = [_table(self.scores, self.intervals)]
        if self.classification is not None:
            lines += ["", str(self.classification)]
        return "\n".join([*lines, "", self.counts()])

    def counts(self) -> str:
        """Return one sentence of what was counted."""
        parts = [f"{len(self.results):,} examples of {self.num_records:,} records"]
        parts += [
            f"{number:,} {what}"
            for number, what in (
                (self.num_bad, "bad records"),
                (self.num_repeated, "repeated prompts"),
                (self.num_left_out, "examples left out"),
                (self.num_unanswered, "without an answer"),
                (self.num_cut, "answers cut at max_new_tokens"),
            )
            if number
        ]
        return ", ".join(parts)


def score_json(value: float, interval: Interval | None) -> dict[str, float | None]:
    """Return a score as plain data: {"value"} or {"value", "low", "high", "confidence"}; None where it is not finite.

    JSON has no infinities, and a resample without any likelihood has an infinite perplexity.
    """
    numbers = {"value": value}
    if interval is not None:
        numbers |= {"low": interval.low, "high": interval.high, "confidence": interval.confidence}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as aligned text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _table(scores: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    if not intervals:
        return columns([("score", "value"), *((name, f"{value:.2f}") for name, value in scores.items())])
    confidence = next(iter(intervals.values())).confidence
    rows = [("score", "value", f"{100 * confidence:g} % interval")]
    for name, value in scores.items():
        found = intervals[name]
        rows.append((name, f"{value:.2f}", f"{found.low:.2f} … {found.high:.2f}"))
    return columns(rows)

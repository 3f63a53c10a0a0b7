"""Two systems on the same examples: how far apart they are, and how sure that is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from t5kit.errors import RequestError
from t5kit.evaluation.evaluator import Bootstrap
from t5kit.evaluation.report import EvaluationReport, columns, score_json
from t5kit.metrics.bootstrap import PairedComparison, paired_bootstrap_scores
from t5kit.metrics.named import is_lower_better


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """System A beside system B; differences are A - B."""

    scores_a: Mapping[str, float]
    scores_b: Mapping[str, float]
    differences: Mapping[str, PairedComparison]
    """By score, for those that both have."""
    num_examples: int

    def better(self, score: str) -> str:
        """Return "A", "B", or "" where the interval of the difference holds zero or is none, or equal systems are as
        far apart too often.
        """
        found, p_value = self.differences[score].difference, self.differences[score].p_value
        if p_value >= 1.0 - found.confidence:
            return ""
        if not (found.low > 0.0 or found.high < 0.0):  # NaN is neither
            return ""
        return "A" if (found.value > 0.0) != is_lower_better(score) else "B"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {
            "num_examples": self.num_examples,
            "scores": {
                name: {
                    "a": self.scores_a[name],
                    "b": self.scores_b[name],
                    "difference": score_json(found.difference.value, found.difference),
                    "p_value": found.p_value,
                    "better": self.better(name) or None,
                }
                for name, found in self.differences.items()
            },
        }

    def __str__(self) -> str:
        confidence = next((found.difference.confidence for found in self.differences.values()), 0.95)
        rows = [("score", "A", "B", "A - B", f"{100 * confidence:g} % interval", "p", "better")]
        for name, found in self.differences.items():
            interval = found.difference
            rows.append(
                (
                    name,
                    f"{self.scores_a[name]:.2f}",
                    f"{self.scores_b[name]:.2f}",
                    f"{interval.value:+.2f}",
                    f"{interval.low:+.2f} … {interval.high:+.2f}",
                    f"{found.p_value:.3f}",
                    self.better(name) or "-",
                )
            )
        return columns(rows)


def compare(report_a: EvaluationReport, report_b: EvaluationReport, *, bootstrap: Bootstrap) -> Comparison:
    """Return how A stands to B, both measured on the same resampled examples (Koehn 2004).

    Raises: RequestError if the reports are not about the same examples, or have no score in common.
    """
    examples_a, examples_b = (
        [(result.prompt, result.references) for result in report.results] for report in (report_a, report_b)
    )
    if examples_a != examples_b:
        raise RequestError(
            f"The two reports are about different examples ({len(examples_a)} and {len(examples_b)}); evaluate both "
            "systems on the same data with the same options."
        )
    differences = paired_bootstrap_scores(
        report_a.item_scores,
        report_b.item_scores,
        rng=bootstrap.generator(),
        num_samples=bootstrap.num_samples,
        confidence=bootstrap.confidence,
    )
    if not differences:
        raise RequestError(
            f"The two reports have no score in common: {', '.join(report_a.scores)} and {', '.join(report_b.scores)}."
        )
    return Comparison(
        scores_a=report_a.scores, scores_b=report_b.scores, differences=differences, num_examples=len(examples_a)
    )

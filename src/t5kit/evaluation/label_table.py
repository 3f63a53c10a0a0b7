"""The labels' part of an evaluation's page: which was taken for which, and each one's scores."""

from typing import TYPE_CHECKING

from t5kit.drawing.axes import number_text
from t5kit.drawing.heat_map import heat_table
from t5kit.drawing.page import note, table
from t5kit.metrics.confusion import Confusion, confusion

if TYPE_CHECKING:
    from t5kit.evaluation.report import EvaluationReport

MAX_SHOWN = 20
"""Labels of the matrix, the most frequent; what is beyond is counted in a column of its own."""
MAX_CONFUSIONS = 15


def confusion_part(report: "EvaluationReport") -> str:
    """Return the confusion matrix, the most frequent confusions, and the scores by label; the answers are labels."""
    if any(result.prediction is None for result in report.results):
        return ""
    # Labels are compared without outer spaces, as `is_right` does.
    found = confusion(
        [[result.references[0].strip()] for result in report.results],
        [(result.prediction or "").strip() for result in report.results],
    )
    rows = [
        (right, predicted, f"{count:,}", f"{100 * count / sum(found.counts[found.labels.index(right)]):.1f}")
        for right, predicted, count in found.most_confused()[:MAX_CONFUSIONS]
    ]
    parts = [
        note(
            "A row is a right label, a column what was predicted; colours are shares of the row. A prediction that is "
            f"none of the labels counts as no label: {found.num_unknown:,} of {len(report.results):,}."
        ),
        _matrix(found),
    ]
    if rows:
        caption = "The most frequent confusions"
        parts.append(table(caption, ("right", "predicted", "times", "% of the label"), rows, is_numeric=True))
    if report.classification is not None:
        scores = [
            (each.label, *(number_text(value) for value in (each.precision, each.recall, each.f1)), f"{each.support:,}")
            for each in report.classification.labels
        ]
        names = ("label", "precision", "recall", "F1", "examples")
        parts.append(table("Scores by label", names, scores, is_numeric=True))
    return "".join(parts)


def _matrix(found: Confusion) -> str:
    shown = found.labels[:MAX_SHOWN]
    num_rest = len(found.labels) - len(shown)
    columns = [
        *shown,
        *([f"{num_rest} other labels"] if num_rest else []),
        *(["no label"] if found.num_unknown else []),
    ]
    values, texts = [], []
    for row in found.counts[: len(shown)]:
        rest = [sum(row[len(shown) : -1])] if num_rest else []
        unknown = [row[-1]] if found.num_unknown else []
        counts = [*row[: len(shown)], *rest, *unknown]
        values.append([count / sum(row) for count in counts])
        texts.append([f"{count:,}" if count else "·" for count in counts])
    caption = "Confusion matrix" + (f" of the {len(shown)} most frequent labels" if num_rest else "")
    return heat_table(caption, "right \\ predicted", shown, columns, values, texts, largest=1.0)

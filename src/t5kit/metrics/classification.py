"""Accuracy, F1 and Matthews' correlation of label texts; a text that is no label is a wrong answer, never left out."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from t5kit.errors import DataError, DependencyError
from t5kit.metrics.items import Indices, ItemScores, mean_scores
from t5kit.metrics.pairs import References, check_pairs, only_references, percent


@dataclasses.dataclass(frozen=True, slots=True)
class LabelScores:
    """One label's precision, recall and F1 in percent; support is how often it is the right answer."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclasses.dataclass(frozen=True, slots=True)
class ClassificationReport:
    """All scores of one classification, in percent."""

    labels: tuple[LabelScores, ...]
    accuracy: float
    macro_f1: float
    micro_f1: float
    num_unknown: int
    """Predictions that are none of the labels. Each is a miss of its right label and lowers accuracy and micro F1."""

    def __str__(self) -> str:
        rows = [f"{'label':<24} {'precision':>9} {'recall':>9} {'F1':>9} {'support':>9}"]
        rows += [f"{s.label:<24.24} {s.precision:9.2f} {s.recall:9.2f} {s.f1:9.2f} {s.support:9d}" for s in self.labels]
        rows += [f"{'macro F1':<24} {self.macro_f1:29.2f}", f"{'micro F1':<24} {self.micro_f1:29.2f}"]
        rows += [f"{'accuracy':<24} {self.accuracy:29.2f}", f"{'unknown predictions':<24} {self.num_unknown:26d}"]
        return "\n".join(rows)


def accuracy(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the percentage of predictions among their references, compared as they stand."""
    return accuracy_items(references, predictions).total()


def accuracy_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `accuracy` item by item."""
    check_pairs(references, predictions, "accuracy")
    right = [prediction in accepted for accepted, prediction in zip(references, predictions, strict=True)]
    return mean_scores({"accuracy": right})


def classification_report(
    references: References, predictions: Sequence[str], *, labels: Sequence[str] | None = None
) -> ClassificationReport:
    """Return the scores of every label; labels are those of the references unless given.

    A prediction outside the labels takes part as a class of its own that is never right. Micro F1 is over all
    predictions, so that it equals accuracy for single-label data, unknown predictions or not.
    Raises: DataError if a reference is none of the given labels.
    """
    expected = only_references(references, predictions, "classification_report")
    known = sorted(set(expected)) if labels is None else list(dict.fromkeys(labels))
    if outside := sorted(set(expected) - set(known)):
        raise DataError(
            f"classification_report: the references hold {outside[0]!r}, which is none of the labels {known}."
        )
    number_of = {label: number for number, label in enumerate(known)}
    expected_N = np.array([number_of[label] for label in expected])
    predicted_N = np.array([number_of.get(label, len(known)) for label in predictions])
    metrics = _sklearn_metrics("classification_report")
    numbers = list(range(len(known)))
    columns = metrics.precision_recall_fscore_support(expected_N, predicted_N, labels=numbers, zero_division=0)
    accurate = percent((expected_N == predicted_N).mean())
    rows = zip(known, *(column.tolist() for column in columns), strict=True)
    return ClassificationReport(
        labels=tuple(LabelScores(label, 100 * p, 100 * r, 100 * f, int(s)) for label, p, r, f, s in rows),
        accuracy=accurate,
        macro_f1=percent(columns[2].mean()),
        micro_f1=percent(metrics.f1_score(expected_N, predicted_N, average="micro", zero_division=0)),
        num_unknown=int((predicted_N == len(known)).sum()),
    )


def classification_f1(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return accuracy, macro and micro F1 over the labels of the references."""
    report = classification_report(references, predictions)
    return {"accuracy": report.accuracy, "macro_f1": report.macro_f1, "micro_f1": report.micro_f1}


def classification_f1_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `classification_f1` prepared for any choice of items; the labels are those of the chosen references."""
    expected_N, predicted_N, num_classes = _numbered(references, predictions, "classification_f1")

    def of(indices: Indices) -> dict[str, float]:
        expected, predicted = expected_N[indices], predicted_N[indices]
        is_right = expected == predicted
        support_C = np.bincount(expected, minlength=num_classes)
        both_C = np.bincount(expected[is_right], minlength=num_classes)
        is_label_C = support_C > 0
        either_C = support_C + np.bincount(predicted, minlength=num_classes)
        right = percent(is_right.mean())
        # What is no label of these items is only ever a miss; over all classes micro F1 is accuracy.
        macro = percent(float((2.0 * both_C[is_label_C] / either_C[is_label_C]).mean()))
        return {"accuracy": right, "macro_f1": macro, "micro_f1": right}

    return ItemScores(len(expected_N), of)


def macro_f1(references: References, predictions: Sequence[str], *, labels: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 over all the given labels, whether they occur or not (CB: t5's mean_multiclass_f1)."""
    return {"macro_f1": classification_report(references, predictions, labels=labels).macro_f1}


def f1_with_invalid(
    references: References, predictions: Sequence[str], *, positive: str, negative: str
) -> dict[str, float]:
    """Return the F1 of the positive label; a prediction that is neither label counts as the wrong one of the two.

    Source: t5/evaluation/metrics.py `f1_score_with_invalid`, used for MRPC and QQP.
    """
    expected = only_references(references, predictions, "f1_with_invalid")
    if outside := sorted(set(expected) - {positive, negative}):
        raise DataError(f"f1_with_invalid: the references hold {outside[0]!r}, neither {positive!r} nor {negative!r}.")
    is_positive_N = np.array([label == positive for label in expected])
    is_valid_N = np.array([label in (positive, negative) for label in predictions])
    predicted_N = np.array([label == positive for label in predictions])
    predicted_N = np.where(is_valid_N, predicted_N, ~is_positive_N)
    both = int((is_positive_N & predicted_N).sum())
    either = int(is_positive_N.sum() + predicted_N.sum())
    return {"f1": percent(2.0 * both / either) if either else 0.0}


def matthews(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return Matthews' correlation over all label texts that occur; an unknown text is a class of its own."""
    expected = only_references(references, predictions, "matthews")
    metrics = _sklearn_metrics("matthews")
    return {"matthews_correlation": percent(metrics.matthews_corrcoef(expected, list(predictions)))}


def matthews_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `matthews` prepared for any choice of items.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    expected_N, predicted_N, num_classes = _numbered(references, predictions, "matthews")

    def of(indices: Indices) -> dict[str, float]:
        expected_C = np.bincount(expected_N[indices], minlength=num_classes).astype(np.float64)
        predicted_C = np.bincount(predicted_N[indices], minlength=num_classes).astype(np.float64)
        num_right = float((expected_N[indices] == predicted_N[indices]).sum())
        size = float(len(indices))
        covariance = num_right * size - float(expected_C @ predicted_C)
        spread = (size**2 - float(expected_C @ expected_C)) * (size**2 - float(predicted_C @ predicted_C))
        return {"matthews_correlation": percent(covariance / math.sqrt(spread)) if spread > 0.0 else 0.0}

    return ItemScores(len(expected_N), of)


def all_right_in_group(
    references: References, predictions: Sequence[str], *, groups: Sequence[str]
) -> dict[str, float]:
    """Return the percentage of groups (MultiRC: the answers of one question) whose predictions are all right."""
    check_pairs(references, predictions, "all_right_in_group")
    is_right: dict[str, bool] = {}
    for group, accepted, prediction in zip(groups, references, predictions, strict=True):
        is_right[group] = is_right.get(group, True) and prediction in accepted
    return {"group_exact_match": percent(sum(is_right.values()) / len(is_right))}


def rank_accuracy(scores: Sequence[npt.NDArray[Any]], right: Sequence[int]) -> dict[str, float]:
    """Return the percentage of items whose right choice has the highest score.

    Shapes: scores[i] [number of choices of item i], right[i] the place of the right one. A tie goes to the first.
    """
    if len(scores) != len(right) or not len(right):
        raise DataError(
            f"rank_accuracy got {len(scores)} rows of scores and {len(right)} answers; expected as many, above 0."
        )
    hits = sum(int(np.argmax(row)) == answer for row, answer in zip(scores, right, strict=True))
    return {"accuracy": percent(hits / len(right))}


def _numbered(
    references: References, predictions: Sequence[str], metric: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Return the classes of references [N] and predictions [N], and how many there are; every text is a class."""
    expected = only_references(references, predictions, metric)
    number_of: dict[str, int] = {}
    numbers = np.array([number_of.setdefault(text, len(number_of)) for text in (*expected, *predictions)])
    return numbers[: len(expected)], numbers[len(expected) :], len(number_of)


def _sklearn_metrics(metric: str) -> Any:
    try:
        import sklearn.metrics
    except ImportError:
        raise DependencyError.for_extra("scikit-learn", "train", f"The metric {metric}") from None
    return sklearn.metrics

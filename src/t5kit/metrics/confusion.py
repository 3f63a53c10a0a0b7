"""Which label was taken for which."""

import collections
import dataclasses
from collections.abc import Sequence

from t5kit.metrics.pairs import References, only_references


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of right labels against predicted ones."""

    labels: tuple[str, ...]
    """Those of the references, the most frequent first, those equally frequent by name."""
    counts: tuple[tuple[int, ...], ...]
    """[num_labels, num_labels + 1]: a row is a right label, a column a prediction, the last one any text that is no
    label."""

    @property
    def num_unknown(self) -> int:
        """Predictions that are no label."""
        return sum(row[-1] for row in self.counts)

    def most_confused(self) -> list[tuple[str, str, int]]:
        """Return (right label, predicted label, how often) of every confusion, the most frequent first."""
        found = [
            (right, predicted, row[column])
            for right, row in zip(self.labels, self.counts, strict=True)
            for column, predicted in enumerate(self.labels)
            if predicted != right and row[column]
        ]
        return sorted(found, key=lambda each: -each[2])


def confusion(references: References, predictions: Sequence[str]) -> Confusion:
    """Return the confusions; texts are compared as they stand. Raises: DataError for several references of an item."""
    expected = only_references(references, predictions, "confusion")
    support = collections.Counter(expected)
    labels = sorted(support, key=lambda label: (-support[label], label))
    column_of = {label: column for column, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for right, predicted in zip(expected, predictions, strict=True):
        counts[column_of[right]][column_of.get(predicted, len(labels))] += 1
    return Confusion(labels=tuple(labels), counts=tuple(map(tuple, counts)))

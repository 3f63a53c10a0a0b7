"""The border of every text metric: references and predictions that belong together."""

from collections.abc import Sequence

from t5kit.errors import DataError

References = Sequence[Sequence[str]]
"""For every item, the texts that count as right; most items have one."""


def check_pairs(references: References, predictions: Sequence[str], metric: str) -> None:
    """Raise DataError unless there is one prediction for each item and at least one reference in each."""
    if len(references) != len(predictions):
        raise DataError(
            f"{metric} got {len(references)} references and {len(predictions)} predictions; expected as many."
        )
    if not predictions:
        raise DataError(f"{metric} got nothing to score; expected at least one prediction.")
    for index, accepted in enumerate(references):
        if isinstance(accepted, str) or not accepted:
            raise DataError(f"{metric}: references[{index}] is {accepted!r:.60}; expected a list of at least one text.")


def only_references(references: References, predictions: Sequence[str], metric: str) -> list[str]:
    """Return the one reference of each item; raises DataError where there are several."""
    check_pairs(references, predictions, metric)
    for index, accepted in enumerate(references):
        if len(accepted) != 1:
            raise DataError(f"{metric}: references[{index}] holds {len(accepted)} texts, but this metric takes one.")
    return [accepted[0] for accepted in references]


def percent(share: float) -> float:
    """Return a share of 1 in percent."""
    return 100.0 * float(share)

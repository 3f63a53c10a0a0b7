"""Entity F1 of tag sequences by seqeval."""

from collections.abc import Sequence

from t5kit.errors import DependencyError
from t5kit.metrics.items import ItemScores, sum_scores
from t5kit.metrics.pairs import References, only_references, percent

NO_ITEMS = "none"
"""A text that says there are no items; an empty target would be EOS alone."""


def entity_f1(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the precision, recall and F1 of whole entities in IOB2 tags written as "O B-PER I-PER O".

    A prediction with too few tags is filled with O and one with too many is cut: neither raises nor drops the item.
    """
    expected, predicted = _tags(references, predictions)
    try:
        from seqeval import metrics
    except ImportError:
        raise DependencyError.for_extra("seqeval", "train", "The metric entity_f1") from None
    return {
        "precision": percent(metrics.precision_score(expected, predicted, zero_division=0)),
        "recall": percent(metrics.recall_score(expected, predicted, zero_division=0)),
        "f1": percent(metrics.f1_score(expected, predicted, zero_division=0)),
    }


def entity_f1_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `entity_f1` prepared for any choice of items: seqeval's entities of each, counted."""
    expected, predicted = _tags(references, predictions)
    try:
        from seqeval.metrics.sequence_labeling import get_entities
    except ImportError:
        raise DependencyError.for_extra("seqeval", "train", "The metric entity_f1") from None
    rows = []
    for tags, got in zip(expected, predicted, strict=True):
        left, right = set(get_entities(tags)), set(get_entities(got))
        rows.append((len(left & right), len(left), len(right)))
    return sum_scores(rows, lambda sums: _f1(*sums, empty=0.0))


def set_f1(references: References, predictions: Sequence[str], *, separator: str = ";") -> dict[str, float]:
    """Return the micro precision, recall and F1 of items written in one text, "Ada: person; Paris: place".

    Order and outer spaces do not matter, case does; a repeated item counts once. "none" alone is no item: to say it
    rightly adds nothing to the counts.
    """
    return set_f1_items(references, predictions, separator=separator).total()


def set_f1_items(references: References, predictions: Sequence[str], *, separator: str = ";") -> ItemScores:
    """Return `set_f1` prepared for any choice of items."""
    expected = [_items(text, separator) for text in only_references(references, predictions, "set_f1")]
    predicted = [_items(text, separator) for text in predictions]
    rows = [(len(left & right), len(left), len(right)) for left, right in zip(expected, predicted, strict=True)]
    return sum_scores(rows, lambda sums: _f1(*sums, empty=100.0))


def _tags(references: References, predictions: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the tags of references and predictions, as many in each pair; what is no IOB2 tag is no entity."""
    expected = [text.split() for text in only_references(references, predictions, "entity_f1")]
    predicted = [
        (text.split() + ["O"] * len(tags))[: len(tags)] for tags, text in zip(expected, predictions, strict=True)
    ]
    # seqeval takes any text for a tag.
    return expected, [[tag if tag[:2] in ("B-", "I-") else "O" for tag in tags] for tags in predicted]


def _f1(num_both: float, num_expected: float, num_predicted: float, *, empty: float) -> dict[str, float]:
    """Return precision, recall and F1 of counts; F1 is `empty` where there is nothing on either side."""
    total = num_expected + num_predicted
    return {
        "precision": percent(num_both / num_predicted) if num_predicted else 0.0,
        "recall": percent(num_both / num_expected) if num_expected else 0.0,
        "f1": percent(2.0 * num_both / total) if total else empty,
    }


def _items(text: str, separator: str) -> set[str]:
    items = {item.strip() for item in text.split(separator)} - {""}
    return items if items != {NO_ITEMS} else set()

"""Entity F1 of tag sequences by seqeval."""

from collections.abc import Sequence

from t5kit.errors import DependencyError
from t5kit.metrics.pairs import References, only_references, percent


def entity_f1(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the precision, recall and F1 of whole entities in IOB2 tags written as "O B-PER I-PER O".

    A prediction with too few tags is filled with O and one with too many is cut: neither raises nor drops the item.
    """
    expected = [text.split() for text in only_references(references, predictions, "entity_f1")]
    try:
        from seqeval import metrics
    except ImportError:
        raise DependencyError.for_extra("seqeval", "train", "The metric entity_f1") from None
    predicted = [
        (text.split() + ["O"] * len(tags))[: len(tags)] for tags, text in zip(expected, predictions, strict=True)
    ]
    # seqeval takes any text for a tag; what is no IOB2 tag is no entity.
    predicted = [[tag if tag[:2] in ("B-", "I-") else "O" for tag in tags] for tags in predicted]
    return {
        "precision": percent(metrics.precision_score(expected, predicted, zero_division=0)),
        "recall": percent(metrics.recall_score(expected, predicted, zero_division=0)),
        "f1": percent(metrics.f1_score(expected, predicted, zero_division=0)),
    }


def set_f1(references: References, predictions: Sequence[str], *, separator: str = ";") -> dict[str, float]:
    """Return the micro precision, recall and F1 of items written in one text, "Ada: person; Paris: place".

    Order and outer spaces do not matter, case does; a repeated item counts once.
    """
    expected = [_items(text, separator) for text in only_references(references, predictions, "set_f1")]
    predicted = [_items(text, separator) for text in predictions]
    both = sum(len(left & right) for left, right in zip(expected, predicted, strict=True))
    num_expected, num_predicted = sum(map(len, expected)), sum(map(len, predicted))
    total = num_expected + num_predicted
    return {
        "precision": percent(both / num_predicted) if num_predicted else 0.0,
        "recall": percent(both / num_expected) if num_expected else 0.0,
        "f1": percent(2.0 * both / total) if total else 100.0,
    }


def _items(text: str, separator: str) -> set[str]:
    return {item.strip() for item in text.split(separator)} - {""}

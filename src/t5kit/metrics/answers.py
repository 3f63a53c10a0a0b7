"""Exact match, and SQuAD's exact match and F1."""

import collections
import re
import string
from collections.abc import Callable, Sequence

from t5kit.metrics.items import ItemScores, mean_scores
from t5kit.metrics.pairs import References, check_pairs

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the percentage of predictions equal to one of their references, outer spaces aside."""
    return exact_match_items(references, predictions).total()


def exact_match_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `exact_match` item by item."""
    check_pairs(references, predictions, "exact_match")
    return mean_scores({"exact_match": _best(references, predictions, lambda a, b: float(a.strip() == b.strip()))})


def squad(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return SQuAD's exact match and token F1, each the best over an item's answers.

    Source: the SQuAD 1.1 evaluation; t5/evaluation/qa_utils.py.
    """
    return squad_items(references, predictions).total()


def squad_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `squad` item by item."""
    check_pairs(references, predictions, "squad")
    return mean_scores(
        {
            "exact_match": _best(
                references, predictions, lambda a, b: float(normalize_answer(a) == normalize_answer(b))
            ),
            "f1": _best(references, predictions, token_f1),
        }
    )


def normalize_answer(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, articles and repeated spaces, in that order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def token_f1(reference: str, prediction: str) -> float:
    """Return the F1, 0 to 1, of two bags of normalised tokens; nothing in common is 0, even where both are empty."""
    expected, got = normalize_answer(reference).split(), normalize_answer(prediction).split()
    common = sum((collections.Counter(expected) & collections.Counter(got)).values())
    return 2.0 * common / (len(expected) + len(got)) if common else 0.0


def _best(references: References, predictions: Sequence[str], score: Callable[[str, str], float]) -> list[float]:
    """Return each item's best score over its references."""
    return [
        max(score(one, prediction) for one in accepted)
        for accepted, prediction in zip(references, predictions, strict=True)
    ]

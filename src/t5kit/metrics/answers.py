"""Exact match, and SQuAD's exact match and F1."""

import collections
import re
import string
from collections.abc import Callable, Sequence

from t5kit.metrics.pairs import References, check_pairs, percent

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the percentage of predictions equal to one of their references, outer spaces aside."""
    check_pairs(references, predictions, "exact_match")
    return {"exact_match": _mean_of_best(references, predictions, lambda a, b: float(a.strip() == b.strip()))}


def squad(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return SQuAD's exact match and token F1, each the best over an item's answers.

    Source: the SQuAD 1.1 evaluation; t5/evaluation/qa_utils.py.
    """
    check_pairs(references, predictions, "squad")
    return {
        "exact_match": _mean_of_best(
            references, predictions, lambda a, b: float(normalize_answer(a) == normalize_answer(b))
        ),
        "f1": _mean_of_best(references, predictions, token_f1),
    }


def normalize_answer(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, articles and repeated spaces, in that order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def token_f1(reference: str, prediction: str) -> float:
    """Return the F1, 0 to 1, of two bags of normalised tokens; nothing in common is 0, even where both are empty."""
    expected, got = normalize_answer(reference).split(), normalize_answer(prediction).split()
    common = sum((collections.Counter(expected) & collections.Counter(got)).values())
    return 2.0 * common / (len(expected) + len(got)) if common else 0.0


def _mean_of_best(references: References, predictions: Sequence[str], score: Callable[[str, str], float]) -> float:
    best = [
        max(score(one, prediction) for one in accepted)
        for accepted, prediction in zip(references, predictions, strict=True)
    ]
    return percent(sum(best) / len(best))

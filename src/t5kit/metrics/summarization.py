"""ROUGE by rouge-score."""

from collections.abc import Sequence

from t5kit.errors import DependencyError
from t5kit.metrics.pairs import References, check_pairs, percent

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the mean F-measures of ROUGE-1, -2, -L and -Lsum, each the best over an item's references.

    T5: " . " becomes " ." and a newline, since ROUGE-Lsum takes lines for sentences; no stemming.
    """
    return _rouge(references, predictions, uses_stemmer=False)


def rouge_stemmed(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return `rouge` with Porter stemming, as most papers after T5's report it."""
    return _rouge(references, predictions, uses_stemmer=True)


def _rouge(references: References, predictions: Sequence[str], *, uses_stemmer: bool) -> dict[str, float]:
    check_pairs(references, predictions, "rouge")
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise DependencyError.for_extra("rouge-score", "train", "The metric rouge") from None
    scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=uses_stemmer)
    sums = dict.fromkeys(ROUGE_TYPES, 0.0)
    for accepted, prediction in zip(references, predictions, strict=True):
        scores = [scorer.score(_one_sentence_a_line(text), _one_sentence_a_line(prediction)) for text in accepted]
        for name in ROUGE_TYPES:
            sums[name] += max(score[name].fmeasure for score in scores)
    return {name: percent(total / len(predictions)) for name, total in sums.items()}


def _one_sentence_a_line(text: str) -> str:
    return text.replace(" . ", " .\n")

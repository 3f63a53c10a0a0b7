"""ROUGE by rouge-score."""

from collections.abc import Sequence

from t5kit.errors import DependencyError
from t5kit.metrics.items import ItemScores, mean_scores
from t5kit.metrics.pairs import References, check_pairs

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the mean F-measures of ROUGE-1, -2, -L and -Lsum, each the best over an item's references.

    T5: " . " becomes " ." and a newline, since ROUGE-Lsum takes lines for sentences; no stemming.
    """
    return rouge_items(references, predictions).total()


def rouge_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `rouge` item by item."""
    return _rouge(references, predictions, uses_stemmer=False)


def rouge_stemmed(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return `rouge` with Porter stemming, as most papers after T5's report it."""
    return rouge_stemmed_items(references, predictions).total()


def rouge_stemmed_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `rouge_stemmed` item by item."""
    return _rouge(references, predictions, uses_stemmer=True)


def _rouge(references: References, predictions: Sequence[str], *, uses_stemmer: bool) -> ItemScores:
    check_pairs(references, predictions, "rouge")
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise DependencyError.for_extra("rouge-score", "train", "The metric rouge") from None
    scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=uses_stemmer)
    best: dict[str, list[float]] = {name: [] for name in ROUGE_TYPES}
    for accepted, prediction in zip(references, predictions, strict=True):
        written = _one_sentence_a_line(prediction)
        scores = [scorer.score(_one_sentence_a_line(text), written) for text in accepted]
        for name in ROUGE_TYPES:
            best[name].append(max(score[name].fmeasure for score in scores))
    return mean_scores(best)


def _one_sentence_a_line(text: str) -> str:
    return text.replace(" . ", " .\n")

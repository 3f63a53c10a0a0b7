"""BLEU and chrF by sacrebleu."""

from collections.abc import Sequence
from typing import Any

from t5kit.errors import DependencyError
from t5kit.metrics.pairs import References, check_pairs


def bleu(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return corpus BLEU as t5 computes it: international tokenisation, exponential smoothing, case kept."""
    check_pairs(references, predictions, "bleu")
    try:
        import sacrebleu
    except ImportError:
        raise DependencyError.for_extra("sacrebleu", "train", "The metric bleu") from None
    score = sacrebleu.corpus_bleu(
        list(predictions), _streams(references), smooth_method="exp", force=True, lowercase=False, tokenize="intl"
    )
    return {"bleu": float(score.score)}


def chrf(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return corpus chrF2: character n-grams up to 6, recall weighted twice, no word n-grams."""
    check_pairs(references, predictions, "chrf")
    try:
        import sacrebleu
    except ImportError:
        raise DependencyError.for_extra("sacrebleu", "train", "The metric chrf") from None
    return {"chrf": float(sacrebleu.corpus_chrf(list(predictions), _streams(references)).score)}


def _streams(references: References) -> Any:
    """Return the references as sacrebleu takes them: stream j holds the j-th reference of every item, or None
    (which it understands, though its types do not say so)."""
    most = max(len(accepted) for accepted in references)
    return [[accepted[j] if j < len(accepted) else None for accepted in references] for j in range(most)]

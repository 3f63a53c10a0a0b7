"""BLEU and chrF by sacrebleu."""

from collections.abc import Sequence
from typing import Any

from t5kit.errors import DependencyError
from t5kit.metrics.items import ItemScores, sum_scores
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


def bleu_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `bleu` prepared for any choice of items: the counts of each, summed before the formula."""
    check_pairs(references, predictions, "bleu")
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise DependencyError.for_extra("sacrebleu", "train", "The metric bleu") from None
    # effective_order changes no count, and spares a warning meant for those who print one sentence's score.
    counter = BLEU(smooth_method="exp", force=True, tokenize="intl", effective_order=True)
    rows = []
    for accepted, prediction in zip(references, predictions, strict=True):
        found = counter.sentence_score(prediction, list(accepted))
        rows.append((found.sys_len, found.ref_len, *found.counts, *found.totals))

    def finish(sums: list[float]) -> dict[str, float]:
        counts = [int(value) for value in sums]
        found = BLEU.compute_bleu(
            correct=counts[2:6], total=counts[6:], sys_len=counts[0], ref_len=counts[1], smooth_method="exp"
        )
        return {"bleu": float(found.score)}

    return sum_scores(rows, finish)


def chrf_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `chrf` prepared for any choice of items: the counts of each, summed before the formula."""
    check_pairs(references, predictions, "chrf")
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise DependencyError.for_extra("sacrebleu", "train", "The metric chrf") from None
    counter = CHRF()
    # sacrebleu offers the counts of chrF only by these names; a test holds them against its corpus score.
    rows = counter._extract_corpus_statistics(list(predictions), _streams(references))
    return sum_scores(rows, lambda sums: {"chrf": float(counter._compute_f_score([int(value) for value in sums]))})


def _streams(references: References) -> Any:
    """Return the references as sacrebleu takes them: stream j holds the j-th reference of every item, or None
    (which it understands, though its types do not say so)."""
    most = max(len(accepted) for accepted in references)
    return [[accepted[j] if j < len(accepted) else None for accepted in references] for j in range(most)]

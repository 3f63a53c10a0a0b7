"""Word, character and phoneme error rates."""

from collections.abc import Sequence

from t5kit.errors import DependencyError
from t5kit.metrics.items import ItemScores, sum_scores
from t5kit.metrics.pairs import References, check_pairs, percent


def word_error_rate(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the word and character error rates of a corpus of running text, by jiwer: all edits over all words.

    Each prediction is held against its closest reference; of references equally close, the shortest counts.
    """
    return word_error_rate_items(references, predictions).total()


def word_error_rate_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `word_error_rate` prepared for any choice of items."""
    check_pairs(references, predictions, "word_error_rate")
    try:
        import jiwer
    except ImportError:
        raise DependencyError.for_extra("jiwer", "train", "The metric word_error_rate") from None

    def edits_and_length(found: "jiwer.WordOutput | jiwer.CharacterOutput") -> tuple[int, int]:
        changed = found.substitutions + found.deletions
        return changed + found.insertions, changed + found.hits

    rows = []
    for accepted, prediction in zip(references, predictions, strict=True):
        words = min(edits_and_length(jiwer.process_words([text], [prediction])) for text in accepted)
        characters = min(edits_and_length(jiwer.process_characters([text], [prediction])) for text in accepted)
        rows.append((*words, *characters))
    return sum_scores(rows, lambda sums: {"wer": _rate(sums[0], sums[1]), "cer": _rate(sums[2], sums[3])})


def pronunciation(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return WER and PER of pronunciations, phonemes apart by spaces, each word against its closest reference.

    WER is the share of words with any error, PER all edits over the lengths of the closest references; of references
    equally close, the shortest counts.
    Example: [["K AE T"], ["R UW T", "R AW T"]], ["K AE T", "R AW D"] -> wer 50.0, per 16.67
    """
    return pronunciation_items(references, predictions).total()


def pronunciation_items(references: References, predictions: Sequence[str]) -> ItemScores:
    """Return `pronunciation` prepared for any choice of items."""
    check_pairs(references, predictions, "pronunciation")
    rows = []
    for accepted, prediction in zip(references, predictions, strict=True):
        got = prediction.split()
        candidates = [text.split() for text in accepted]
        distance, size = min((edit_distance(got, expected), len(expected)) for expected in candidates)
        rows.append((distance > 0, distance, size, 1))
    return sum_scores(rows, lambda sums: {"wer": _rate(sums[0], sums[3]), "per": _rate(sums[1], sums[2])})


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the fewest insertions, deletions and replacements that turn one sequence into the other."""
    above = list(range(len(right) + 1))
    for row, item in enumerate(left, 1):
        current = [row]
        for column, other in enumerate(right, 1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (item != other)))
        above = current
    return above[-1]


def _rate(num_edits: float, length: float) -> float:
    """Return edits in percent of the references' length; where that is 0, every edit counts as one whole (jiwer)."""
    return percent(num_edits / length if length else num_edits)

"""Word, character and phoneme error rates."""

from collections.abc import Sequence

from t5kit.errors import DependencyError
from t5kit.metrics.pairs import References, check_pairs, only_references, percent


def word_error_rate(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the word and character error rates of a corpus of running text, by jiwer: all edits over all words."""
    expected = only_references(references, predictions, "word_error_rate")
    try:
        import jiwer
    except ImportError:
        raise DependencyError.for_extra("jiwer", "train", "The metric word_error_rate") from None
    got = list(predictions)
    return {"wer": percent(jiwer.wer(expected, got)), "cer": percent(jiwer.cer(expected, got))}


def pronunciation(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return WER and PER of pronunciations, phonemes apart by spaces, each word against its closest reference.

    WER is the share of words with any error, PER all edits over the lengths of the closest references; of references
    equally close, the shortest counts.
    Example: [["K AE T"], ["R UW T", "R AW T"]], ["K AE T", "R AW D"] -> wer 50.0, per 16.67
    """
    check_pairs(references, predictions, "pronunciation")
    wrong = edits = length = 0
    for accepted, prediction in zip(references, predictions, strict=True):
        got = prediction.split()
        candidates = [text.split() for text in accepted]
        distance, size = min((edit_distance(got, expected), len(expected)) for expected in candidates)
        wrong, edits, length = wrong + (distance > 0), edits + distance, length + size
    return {"wer": percent(wrong / len(predictions)), "per": percent(edits / length) if length else 0.0}


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the fewest insertions, deletions and replacements that turn one sequence into the other."""
    above = list(range(len(right) + 1))
    for row, item in enumerate(left, 1):
        current = [row]
        for column, other in enumerate(right, 1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (item != other)))
        above = current
    return above[-1]

"""Calibration and confusion, held against sums by hand, scikit-learn's own, and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.errors import DataError
from t5kit.metrics.calibration import calibration
from t5kit.metrics.confusion import confusion

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def test_the_worked_example_of_the_docstring_holds() -> None:
    found = calibration([0.9, 0.9, 0.2, 0.2], [True, False, False, False])
    assert [(each.low, each.high, each.num_items) for each in found.bins] == [(0.2, 0.3, 2), (0.9, 1.0, 2)]
    assert [each.accuracy for each in found.bins] == [0.0, 0.5]
    assert found.expected_error == pytest.approx(0.5 * 0.2 + 0.5 * 0.4)
    assert found.brier_score == pytest.approx((0.01 + 0.81 + 0.04 + 0.04) / 4)


@given(ANSWERS)
def test_the_brier_score_is_scikit_learns(answers: list[tuple[float, bool]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    confidences, is_right = zip(*answers, strict=True)
    expected = metrics.brier_score_loss(is_right, confidences, labels=[False, True])
    assert calibration(confidences, is_right).brier_score == pytest.approx(expected, abs=1e-12)


@given(ANSWERS)
def test_bins_hold_every_answer_once_and_average_to_the_whole(answers: list[tuple[float, bool]]) -> None:
    confidences, is_right = zip(*answers, strict=True)
    found = calibration(confidences, is_right)
    counts = np.array([each.num_items for each in found.bins])
    assert counts.sum() == len(answers)
    assert counts @ [each.accuracy for each in found.bins] / len(answers) == pytest.approx(np.mean(is_right))
    assert counts @ [each.confidence for each in found.bins] / len(answers) == pytest.approx(np.mean(confidences))
    assert abs(found.mean_confidence - found.accuracy) <= found.expected_error + 1e-12 <= 1 + 1e-12
    for each in found.bins:
        assert each.low - 1e-12 <= each.confidence <= each.high + 1e-12
        assert 0 <= each.accuracy_low <= each.accuracy + 1e-12 and each.accuracy <= each.accuracy_high + 1e-12


def test_wilsons_interval_is_that_of_the_paper_for_half_of_ten() -> None:
    (each,) = calibration([0.5] * 10, [True] * 5 + [False] * 5).bins
    assert (each.accuracy_low, each.accuracy_high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))


@pytest.mark.parametrize(
    ("confidences", "is_right"), [([], []), ([0.5], []), ([1.5], [True]), ([float("nan")], [True])]
)
def test_what_is_no_probability_is_refused(confidences: list[float], is_right: list[bool]) -> None:
    with pytest.raises(DataError, match="calibration got"):
        calibration(confidences, is_right)


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcx")), min_size=1, max_size=40))
def test_confusions_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    references, predictions = [[right] for right, _ in pairs], [predicted for _, predicted in pairs]
    found = confusion(references, predictions)
    every = [*found.labels, *sorted(set(predictions) - set(found.labels))]
    expected = metrics.confusion_matrix([right for right, _ in pairs], predictions, labels=every)
    size = len(found.labels)
    assert [row[:-1] for row in found.counts] == [tuple(row) for row in expected[:size, :size].tolist()]
    assert [row[-1] for row in found.counts] == expected[:size, size:].sum(axis=1).tolist()
    wrong = sum(right != predicted for right, predicted in pairs)
    assert sum(count for *_, count in found.most_confused()) + found.num_unknown == wrong


def test_the_most_frequent_labels_and_confusions_come_first() -> None:
    found = confusion([["b"], ["b"], ["a"], ["c"], ["c"], ["c"]], ["a", "a", "b", "c", "?", "b"])
    assert found.labels == ("c", "b", "a")
    assert found.most_confused()[0] == ("b", "a", 2)
    assert found.num_unknown == 1

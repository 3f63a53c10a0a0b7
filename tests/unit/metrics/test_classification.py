import math

import numpy as np
import pytest

from t5kit.errors import DataError
from t5kit.metrics.classification import (
    accuracy,
    all_right_in_group,
    classification_f1,
    classification_report,
    f1_with_invalid,
    matthews,
    rank_accuracy,
)
from t5kit.metrics.correlation import correlations

REFERENCES = [["yes"], ["yes"], ["no"], ["no"]]


def test_an_unknown_label_is_a_wrong_answer() -> None:
    pytest.importorskip("sklearn")
    report = classification_report(REFERENCES, ["yes", "maybe", "no", "yes"])
    assert accuracy(REFERENCES, ["yes", "maybe", "no", "yes"]) == {"accuracy": 50.0}
    assert (report.accuracy, report.num_unknown, report.micro_f1) == (50.0, 1, 50.0)
    yes = next(row for row in report.labels if row.label == "yes")
    assert (yes.precision, yes.recall, yes.f1, yes.support) == (50.0, 50.0, 50.0, 2)
    no = next(row for row in report.labels if row.label == "no")
    assert (no.precision, no.recall) == (100.0, 50.0)
    assert report.macro_f1 == pytest.approx((50 + 200 / 3) / 2)
    assert "unknown predictions" in str(report)


def test_given_labels_count_even_where_they_never_occur() -> None:
    pytest.importorskip("sklearn")
    report = classification_report(REFERENCES, ["yes", "yes", "no", "no"], labels=["yes", "no", "perhaps"])
    assert report.macro_f1 == pytest.approx(200 / 3)
    assert classification_f1(REFERENCES, ["yes", "yes", "no", "no"])["macro_f1"] == 100.0
    with pytest.raises(DataError, match="'no'"):
        classification_report(REFERENCES, ["yes"] * 4, labels=["yes"])


def test_f1_with_invalid_counts_the_wrong_label() -> None:
    # "x" for a yes counts as no, "x" for a no counts as yes: 1 hit, 1 miss, 1 false alarm.
    assert f1_with_invalid(REFERENCES, ["yes", "x", "no", "x"], positive="yes", negative="no") == {"f1": 50.0}


def test_matthews_of_a_known_table() -> None:
    pytest.importorskip("sklearn")
    # TP 2, TN 1, FP 1, FN 0.
    value = matthews([["1"], ["1"], ["0"], ["0"]], ["1", "1", "0", "1"])["matthews_correlation"]
    assert value == pytest.approx(100 * (2 * 1 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1))


def test_correlations_of_known_numbers() -> None:
    scores = correlations([["1.0"], ["2.0"], ["3.0"]], ["1.0", "2.0", "9.0"])
    assert scores["spearman"] == pytest.approx(100.0)
    assert scores["pearson"] == pytest.approx(100 * 8 / math.sqrt(2 * 38))


def test_a_prediction_that_is_no_number_is_the_lowest_and_a_constant_correlates_with_nothing() -> None:
    assert correlations([["0.0"], ["2.0"], ["3.0"]], ["nan", "1", "2"])["spearman"] == pytest.approx(100.0)
    assert correlations([["1"], ["2"]], ["3", "3"]) == {"pearson": 0.0, "spearman": 0.0}
    with pytest.raises(DataError):
        correlations([["one"]], ["1"])


@pytest.mark.parametrize("unit", [1e-90, 1e-200, 1.0, 1e150, 1e300])
def test_correlations_do_not_hang_on_the_unit(unit: float) -> None:
    numbers = [repr(unit * place) for place in (1.0, 2.0, 5.0)]
    assert correlations([[text] for text in numbers], numbers)["pearson"] == pytest.approx(100.0)


@pytest.mark.filterwarnings("error")
def test_one_endless_number_is_an_outlier_and_no_overflow() -> None:
    references = [[str(n)] for n in range(40)]
    predictions = [str(n) for n in range(40)]
    predictions[3] = "7" * 200
    # All but the outlier are as good as equal: the correlation is that of the references with it alone.
    expected = (3 - 19.5) * np.sqrt(40 / 39) / np.sqrt(sum((n - 19.5) ** 2 for n in range(40)))
    assert correlations(references, predictions)["pearson"] == pytest.approx(100 * expected)


def test_ties_share_ranks_as_in_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 5, 50), rng.integers(0, 5, 50)
    scores = correlations([[str(v)] for v in left], [str(v) for v in right])
    assert scores["spearman"] == pytest.approx(100 * stats.spearmanr(left, right).statistic)
    assert scores["pearson"] == pytest.approx(100 * stats.pearsonr(left, right).statistic)


def test_a_group_is_right_only_as_a_whole() -> None:
    scores = all_right_in_group(REFERENCES, ["yes", "no", "no", "no"], groups=["q1", "q1", "q2", "q2"])
    assert scores == {"group_exact_match": 50.0}


def test_rank_accuracy_takes_the_highest_score() -> None:
    assert rank_accuracy([np.array([-1.0, -2.0]), np.array([-3.0, -2.0, -1.0])], [0, 1]) == {"accuracy": 50.0}

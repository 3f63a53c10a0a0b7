"""Two systems on the same examples."""

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from t5kit.errors import RequestError, T5kitError
from t5kit.evaluation.answering import Answer, Likelihood, Progress
from t5kit.evaluation.comparison import Comparison, compare
from t5kit.evaluation.evaluator import Bootstrap, Scoring, evaluate, evaluate_predictions, scoring_of
from t5kit.evaluation.examples import EvaluationSet, evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.evaluation.report import EvaluationReport
from t5kit.metrics.bootstrap import Interval, PairedComparison
from t5kit.sources.tables import table_of

BOOTSTRAP = Bootstrap(num_samples=300)
SIZE = 60


def examples(size: int = SIZE) -> EvaluationSet:
    return evaluation_set(pair_form(), table_of([{"input": str(n), "target": f"a b {n}"} for n in range(size)]))


def report(num_right: int, *metrics: str) -> EvaluationReport:
    predictions = [f"a b {n}" if n < num_right else "a c" for n in range(SIZE)]
    return evaluate_predictions(examples(), predictions, scoring_of(metrics))


def test_no_system_is_called_better_by_what_equal_ones_do_too_often() -> None:
    examples = evaluation_set(pair_form(), table_of([{"input": str(n), "target": "a"} for n in range(100)]))
    for num_examples, num_apart, better in ((100, 4, ""), (100, 12, "A")):
        rights = ["a" if n % 2 else "b" for n in range(num_examples)]
        a = ["a" if n % 2 == 0 and n < 2 * num_apart else right for n, right in enumerate(rights)]
        report_a, report_b = (
            evaluate_predictions(examples, made, scoring_of(["exact_match"]), bootstrap=Bootstrap())
            for made in (a, rights)
        )
        found = compare(report_a, report_b, bootstrap=Bootstrap())
        assert found.better("exact_match") == better, found
        assert (found.differences["exact_match"].p_value < 0.05) == bool(better)


def test_a_system_that_is_right_more_often_is_better_and_the_interval_says_so() -> None:
    found = compare(report(45, "exact_match"), report(30, "exact_match"), bootstrap=BOOTSTRAP)
    difference = found.differences["exact_match"]
    assert difference.difference.value == pytest.approx(25.0)
    assert 0.0 < difference.difference.low < 25.0 < difference.difference.high
    assert difference.p_value < 0.01
    assert found.better("exact_match") == "A"
    turned = compare(report(30, "exact_match"), report(45, "exact_match"), bootstrap=BOOTSTRAP)
    assert turned.better("exact_match") == "B"
    assert turned.differences["exact_match"].difference.value == -difference.difference.value


def test_equal_systems_are_told_to_be_so() -> None:
    found = compare(report(30, "exact_match", "squad"), report(30, "exact_match", "squad"), bootstrap=BOOTSTRAP)
    for name in ("exact_match.exact_match", "squad.exact_match", "f1"):
        assert (found.differences[name].difference.value, found.differences[name].p_value) == (0.0, 1.0)
        assert found.better(name) == ""
        assert found.to_json()["scores"][name]["better"] is None


def test_a_lower_error_rate_is_better() -> None:
    pytest.importorskip("jiwer")
    found = compare(report(50, "word_error_rate"), report(10, "word_error_rate"), bootstrap=BOOTSTRAP)
    assert found.differences["wer"].difference.value < 0.0
    assert found.better("wer") == "A"
    assert str(found).splitlines()[1].split()[-1] == "A"


class HalfSilent:
    """Finds what it can take likely; what holds "x" it cannot."""

    def answer(self, prompts: Sequence[str], progress: Progress) -> list[Answer | T5kitError]:
        return [Answer("") for _ in prompts]

    def likelihoods(
        self, prompts: Sequence[str], targets: Sequence[str], progress: Progress
    ) -> list[Likelihood | T5kitError]:
        return [RequestError("too long") if "x" in prompt else Likelihood(-1.0, 2) for prompt in prompts]


def half_silent(scoring: Scoring) -> EvaluationReport:
    rows = [{"input": f"{'x' if n % 2 else 'y'}{n}", "target": "a", "kind": "xy"[n % 2]} for n in range(4)]
    examples = evaluation_set(pair_form(), table_of(rows), slice_by=("kind",))
    return evaluate(examples, HalfSilent(), scoring, bootstrap=BOOTSTRAP)


@pytest.mark.filterwarnings("error")
def test_where_half_is_unanswered_a_system_is_not_better_than_itself() -> None:
    one, two = (half_silent(scoring_of(["perplexity"])) for _ in range(2))
    assert one.intervals["perplexity"].high == math.inf  # of some samples nothing was answered
    assert one.to_json()["scores"]["perplexity"]["high"] is None  # which JSON cannot say
    json.dumps(one.to_json(), allow_nan=False)
    found = compare(one, two, bootstrap=BOOTSTRAP)
    difference = found.differences["perplexity"]
    assert dataclasses.astuple(difference.difference)[:3] == (0.0, 0.0, 0.0) and difference.p_value == 1.0
    assert found.better("perplexity") == "" and "nan" not in str(found)
    page = one.to_html(other=two, comparison=found)  # with slices in which nothing was answered
    assert "By kind" in page and "F1 of words" not in page and "A is better on" not in page


def test_an_interval_that_is_none_makes_no_system_better() -> None:
    nothing = PairedComparison(Interval(math.nan, math.nan, math.nan, 0.95), 0.5)
    found = Comparison(scores_a={"f1": 1.0}, scores_b={"f1": 1.0}, differences={"f1": nothing}, num_examples=1)
    assert found.better("f1") == ""


def test_only_scores_of_both_are_compared() -> None:
    found = compare(report(30, "exact_match", "accuracy"), report(40, "accuracy"), bootstrap=BOOTSTRAP)
    assert list(found.differences) == ["accuracy"]
    with pytest.raises(RequestError, match="no score in common"):
        compare(report(30, "exact_match"), report(40, "accuracy"), bootstrap=BOOTSTRAP)


def test_reports_about_other_examples_cannot_be_compared() -> None:
    other = evaluate_predictions(examples(5), ["x"] * 5, scoring_of(["exact_match"]))
    with pytest.raises(RequestError, match="different examples"):
        compare(report(3, "exact_match"), other, bootstrap=BOOTSTRAP)


def test_the_paired_interval_is_of_the_differences_item_by_item() -> None:
    # Hard and easy items vary far more than the two systems differ: pairing takes that away.
    a, b = report(31, "exact_match"), report(30, "exact_match")
    paired = compare(a, b, bootstrap=BOOTSTRAP).differences["exact_match"].difference
    wide = evaluate_predictions(examples(), ["a c"] * SIZE, scoring_of(["exact_match"]), bootstrap=BOOTSTRAP).intervals[
        "exact_match"
    ]
    assert (wide.low, wide.high) == (0.0, 0.0)
    rng = np.random.default_rng(0)
    drawn = rng.integers(SIZE, size=(2000, SIZE))
    expected = np.quantile(100 * (drawn == 30).mean(axis=1), [0.025, 0.975])  # the systems differ in item 30 alone
    assert (paired.low, paired.high) == pytest.approx(tuple(expected), abs=1.7)  # one item is 1.67

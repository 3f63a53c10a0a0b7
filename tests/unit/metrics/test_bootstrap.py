import numpy as np
import pytest

from t5kit.errors import DataError, RequestError
from t5kit.metrics.answers import exact_match
from t5kit.metrics.bootstrap import bootstrap, mean_of, paired_bootstrap, score_of


def test_interval_of_a_mean_is_about_two_standard_errors_each_side() -> None:
    values = np.random.default_rng(0).normal(10.0, 2.0, 400)
    interval = bootstrap(mean_of(values), 400, rng=np.random.default_rng(1), num_samples=4000)
    standard_error = values.std() / 20
    assert interval.value == values.mean()
    assert interval.value - interval.low == pytest.approx(1.96 * standard_error, rel=0.1)
    assert interval.high - interval.value == pytest.approx(1.96 * standard_error, rel=0.1)


def test_paired_comparison_sees_a_small_steady_gain_that_single_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.normal(0.0, 10.0, 200)
    system_a, system_b = mean_of(hardness + 0.5 + rng.normal(0, 1, 200)), mean_of(hardness + rng.normal(0, 1, 200))
    found = paired_bootstrap(system_a, system_b, 200, rng=np.random.default_rng(2))
    assert found.difference.low > 0.0
    assert found.p_value < 0.01
    same = paired_bootstrap(system_a, system_a, 200, rng=np.random.default_rng(2))
    assert (same.difference.value, same.p_value) == (0.0, 1.0)


@pytest.mark.parametrize(("num_items", "least"), [(1, 1.0), (3, 0.25), (6, 0.03125)])
def test_few_items_prove_little_however_far_apart(num_items: int, least: float) -> None:
    """Equal systems are all apart in one direction as often as that."""
    all_right, all_wrong = mean_of([1.0] * num_items), mean_of([0.0] * num_items)
    found = paired_bootstrap(all_right, all_wrong, num_items, rng=np.random.default_rng(0))
    assert (found.difference.low, found.difference.high, found.p_value) == (1.0, 1.0, least)


def test_differences_that_are_equal_count_as_equal_whatever_rounding_makes_of_them() -> None:
    rng = np.random.default_rng(0)
    for num_items in (20, 30, 100) * 12:
        a, b = rng.integers(0, 2, (2, num_items))
        counted = paired_bootstrap(
            lambda chosen, a=a: float(a[chosen].sum()), lambda chosen, b=b: float(b[chosen].sum()),
            num_items, rng=np.random.default_rng(num_items),
        )  # fmt: skip
        for unit in (100.0, 1e-9, 1e9):
            scaled = paired_bootstrap(
                mean_of(unit * a), mean_of(unit * b), num_items, rng=np.random.default_rng(num_items)
            )
            assert scaled.p_value == counted.p_value


def test_one_infinite_value_proves_nothing() -> None:
    values = np.zeros(20)
    values[3] = np.inf
    found = paired_bootstrap(mean_of(values), mean_of(np.zeros(20)), 20, rng=np.random.default_rng(0))
    assert found.p_value > 0.3


def test_a_corpus_metric_is_computed_anew_for_every_choice() -> None:
    references, predictions = [["a"]] * 10, ["a"] * 5 + ["b"] * 5
    statistic = score_of(exact_match, "exact_match", references, predictions)
    interval = bootstrap(statistic, 10, rng=np.random.default_rng(0), num_samples=500)
    assert interval.value == 50.0
    assert 10.0 <= interval.low < 40.0 < 60.0 < interval.high <= 90.0


def test_the_same_generator_gives_the_same_interval() -> None:
    values = [1.0, 2.0, 5.0]
    first, second = (bootstrap(mean_of(values), 3, rng=np.random.default_rng(4)) for _ in range(2))
    assert first == second


def test_nothing_to_resample_is_an_error() -> None:
    with pytest.raises(DataError):
        bootstrap(mean_of([]), 0, rng=np.random.default_rng(0))
    with pytest.raises(RequestError):
        bootstrap(mean_of([1.0]), 1, rng=np.random.default_rng(0), confidence=95)

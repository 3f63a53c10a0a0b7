import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t5kit.data.shuffling import generator_at, shuffled_indices


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 100))
def test_an_epoch_gives_each_record_once(num_records: int, seed: int, epoch: int) -> None:
    found = shuffled_indices(np.arange(num_records), num_records, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(found), np.arange(num_records))


def test_parts_of_an_epoch_agree_with_the_whole() -> None:
    whole = shuffled_indices(np.arange(1000), 1000, seed=3, epoch=2)
    parts = [shuffled_indices(np.arange(n, n + 10), 1000, seed=3, epoch=2) for n in range(0, 1000, 10)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_seeds_and_epochs_give_unlike_orders() -> None:
    orders = [shuffled_indices(np.arange(1000), 1000, seed=s, epoch=e) for s, e in ((0, 0), (1, 0), (0, 1))]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert (orders[left] == orders[right]).mean() < 0.01
    assert (orders[0] == np.arange(1000)).mean() < 0.01


def test_every_place_is_equally_likely() -> None:
    places = np.array([shuffled_indices(np.array([0, 7]), 10, seed=seed, epoch=0) for seed in range(5000)])
    for column in places.T:
        assert abs(np.bincount(column, minlength=10) - 500).max() < 100  # 4.7 standard deviations
    assert abs(np.corrcoef(places.T)[0, 1] + 1 / 9) < 0.05, "as independent as two places of one order can be"


def test_generators_depend_on_their_place_alone() -> None:
    first = generator_at(1, 2, 3, 4).random(5)
    assert np.array_equal(first, generator_at(1, 2, 3, 4).random(5))
    others = [generator_at(*place).random(5) for place in ((0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0))]
    assert not any(np.array_equal(first, other) for other in others)

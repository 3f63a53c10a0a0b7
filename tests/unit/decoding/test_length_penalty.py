"""The two formulas of the length penalty."""

import numpy as np
import pytest

from t5kit.decoding.length_penalty import length_penalties


def penalty(num_tokens: int, exponent: float, *, is_paper: bool) -> float:
    return float(length_penalties(np.array([num_tokens]), np.array([exponent]), np.array([is_paper]))[0])


@pytest.mark.parametrize("num_tokens", [1, 7, 512])
@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.6, 2.0])
def test_formulas_are_the_published_ones(num_tokens: int, exponent: float) -> None:
    assert penalty(num_tokens, exponent, is_paper=False) == np.float32(num_tokens**exponent)
    assert penalty(num_tokens, exponent, is_paper=True) == np.float32(((5 + num_tokens) / 6) ** exponent)


@pytest.mark.parametrize("exponent", [-1000.0, 1000.0])
def test_no_exponent_makes_a_score_infinite(exponent: float) -> None:
    scores = np.float32([-1e-3, -1e6]) / np.float32(penalty(4096, exponent, is_paper=False))
    assert np.isfinite(scores).all()

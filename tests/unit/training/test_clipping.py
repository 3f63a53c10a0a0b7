"""Gradients of sums become those of means, clipped together, and bad ones are reported."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5kit.errors import DataError
from t5kit.training.clipping import finish_gradients, global_norm


def with_gradients(*gradients: list[float]) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros(len(g))) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return parameters


def test_the_example_of_the_docstring() -> None:
    parameters = with_gradients([6.0], [8.0])
    report = finish_gradients(parameters, count=2, max_norm=1.0)
    assert (report.global_norm, report.clip_factor, report.is_finite) == pytest.approx((5.0, 0.2, True))
    assert [float(p.grad) for p in parameters] == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("max_norm", [0.0, 5.0, 100.0])
def test_small_gradients_are_only_divided(max_norm: float) -> None:
    parameters = with_gradients([6.0], [8.0])
    assert finish_gradients(parameters, count=2, max_norm=max_norm).clip_factor == 1.0
    assert [float(p.grad) for p in parameters] == [3.0, 4.0]


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=4), min_size=1, max_size=4),
    st.floats(0.01, 100),
    st.integers(1, 1000),
)
def test_the_norm_after_clipping_is_at_most_the_limit(values: list, max_norm: float, count: int) -> None:
    parameters = with_gradients(*values)
    before = global_norm([p.grad for p in parameters])
    report = finish_gradients(parameters, count=count, max_norm=max_norm)
    after = float(global_norm([p.grad for p in parameters]))
    assert report.global_norm == pytest.approx(float(before) / count, rel=1e-6)
    assert after == pytest.approx(min(max_norm, float(before) / count), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_gradients_are_reported_and_left(bad: float) -> None:
    parameters = with_gradients([6.0, bad], [8.0])
    report = finish_gradients(parameters, count=2, max_norm=1.0)
    assert not report.is_finite and not math.isfinite(report.global_norm)
    assert float(parameters[1].grad) == 8.0


def test_bfloat16_gradients_are_summed_in_float32() -> None:
    # a bfloat16 sum of ones stops at 256, where the next number is 258
    gradient = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    norm = global_norm([gradient, gradient])
    assert norm.dtype == torch.float32 and float(norm) == pytest.approx(math.sqrt(8192), rel=1e-6)


def test_parameters_without_gradient_are_left_out() -> None:
    parameters = [*with_gradients([3.0, 4.0]), torch.nn.Parameter(torch.ones(2))]
    assert finish_gradients(parameters, count=1).global_norm == 5.0
    assert parameters[1].grad is None
    assert finish_gradients(parameters[1:], count=1).global_norm == 0.0


@pytest.mark.parametrize("count", [0, -1, math.nan])
def test_no_targets_to_divide_by_are_refused(count: float) -> None:
    with pytest.raises(DataError, match="targets"):
        finish_gradients(with_gradients([1.0]), count=count)

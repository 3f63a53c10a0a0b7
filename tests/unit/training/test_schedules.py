"""Learning rates at steps computed by hand."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.errors import ConfigError
from t5kit.training.config import SCHEDULES, ScheduleConfig
from t5kit.training.schedules import make_schedule, warmup


def rates(config: ScheduleConfig, steps: list[int], *, total_steps: int) -> list[float]:
    schedule = make_schedule(config, total_steps=total_steps)
    return [schedule(step) for step in steps]


@pytest.mark.parametrize(
    ("fields", "total_steps", "expected"),
    [
        ({"name": "constant", "peak_lr": 1e-3}, 10, {0: 1e-3, 9: 1e-3, 10: 1e-3}),
        (
            {"name": "constant", "peak_lr": 1.0, "warmup_steps": 4},
            10,
            {0: 0, 1: 0.25, 2: 0.5, 3: 0.75, 4: 1, 9: 1},
        ),
        ({"name": "constant", "peak_lr": 1.0, "warmup_steps": 4, "warmup_start": 0.5}, 10, {0: 0.5, 2: 0.75, 4: 1}),
        (
            {"name": "inverse_sqrt", "peak_lr": 0.01},
            2**20,
            {0: 0.01, 1: 0.01, 10_000: 0.01, 40_000: 0.005, 1_000_000: 0.001},
        ),
        ({"name": "inverse_sqrt_cooldown", "peak_lr": 0.01}, 100, {0: 0.01, 90: 0.01, 95: 0.005, 100: 0, 101: 0}),
        (
            {"name": "inverse_sqrt_cooldown", "peak_lr": 0.01},
            2**16,
            # ceil(0.9 * 65536) = 58983 = first; half way down at 58983 + 6553 / 2
            {10_000: 0.01, 40_000: 0.005, 58_983: 1 / math.sqrt(58_983), 65_536: 0},
        ),
        (
            {"name": "cosine", "peak_lr": 1.0, "final_lr": 0.2, "warmup_steps": 10},
            110,
            {0: 0, 5: 0.5, 10: 1, 35: 0.6 + 0.4 * math.sqrt(0.5), 60: 0.6, 110: 0.2, 500: 0.2},
        ),
        (
            {"name": "linear", "peak_lr": 1.0, "final_lr": 0.2, "warmup_steps": 10},
            110,
            {0: 0, 5: 0.5, 10: 1, 35: 0.8, 60: 0.6, 110: 0.2, 500: 0.2},
        ),
    ],
)
def test_rates_computed_by_hand(fields: dict[str, Any], total_steps: int, expected: dict[int, float]) -> None:
    got = rates(ScheduleConfig(**fields), list(expected), total_steps=total_steps)
    assert got == pytest.approx(list(expected.values()), rel=1e-12, abs=1e-15)


@given(st.integers(0, 2_000_000))
def test_inverse_sqrt_is_the_pretraining_rate_of_t5x(step: int) -> None:
    schedule = make_schedule(ScheduleConfig(name="inverse_sqrt", peak_lr=0.01), total_steps=2**20)
    assert schedule(step) == pytest.approx(1 / math.sqrt(max(step, 10_000)), rel=1e-12)


@given(st.integers(0, 65_536))
def test_inverse_sqrt_cooldown_is_the_legacy_rate_of_nanot5(step: int) -> None:
    total, first = 65_536, math.ceil(65_536 * 0.9)
    rate = min(1e-2, 1 / math.sqrt(max(step, 1)))
    if step > first:
        rate = min(1e-2, 1 / math.sqrt(first)) * (1 - (step - first) / (total - first))
    schedule = make_schedule(ScheduleConfig(name="inverse_sqrt_cooldown", peak_lr=0.01), total_steps=total)
    assert schedule(step) == pytest.approx(rate, rel=1e-12, abs=1e-15)


@given(st.sampled_from(SCHEDULES), st.integers(0, 50), st.integers(1, 300), st.integers(0, 400))
def test_rates_stay_between_zero_and_the_peak(name: str, warmup_steps: int, num_more: int, step: int) -> None:
    schedule = make_schedule(
        ScheduleConfig(name=name, peak_lr=0.3, warmup_steps=warmup_steps),  # type: ignore[arg-type]  # one of SCHEDULES
        total_steps=warmup_steps + num_more,
    )
    assert 0 <= schedule(step) <= 0.3


def test_warmup_without_steps_is_one() -> None:
    assert warmup(0, warmup_steps=0) == 1


@pytest.mark.parametrize("total_steps", [0, 10])
def test_warmup_must_leave_steps_to_train(total_steps: int) -> None:
    with pytest.raises(ConfigError, match=r"training\.num_steps"):
        make_schedule(ScheduleConfig(warmup_steps=10), total_steps=total_steps)

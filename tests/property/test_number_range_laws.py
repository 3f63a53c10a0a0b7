"""Patterns of numbers within bounds: they match what is within, and nothing else."""

import re
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from t5kit.tasks.linear_schema import NUMBER
from t5kit.tasks.number_range import at_least, at_most

MAGNITUDES = st.one_of(
    st.integers(0, 130).map(Decimal),
    st.integers(0, 10**15 - 1).map(Decimal),
    st.decimals(0, 3, places=2),
    st.decimals(0, 1000, places=12),
)


@given(bound=MAGNITUDES, number=MAGNITUDES)
@example(bound=Decimal("0.50"), number=Decimal("0.5"))
@example(bound=Decimal("0.5"), number=Decimal("0.500"))
@example(bound=Decimal(0), number=Decimal("0.000"))
@example(bound=Decimal(10), number=Decimal(9))
@example(bound=Decimal(99), number=Decimal(100))
def test_a_pattern_matches_what_is_within_its_bound_and_nothing_else(bound: Decimal, number: Decimal) -> None:
    text = f"{number:f}"
    assert NUMBER.fullmatch(text)
    assert bool(re.fullmatch(at_least(bound), text)) == (number >= bound)
    assert bool(re.fullmatch(at_most(bound), text)) == (number <= bound)


@given(bound=MAGNITUDES, places=st.integers(-3, 3))
def test_a_pattern_knows_the_numbers_next_to_its_bound(bound: Decimal, places: int) -> None:
    for number in (bound - Decimal(10) ** places, bound + Decimal(10) ** places, bound):
        if number >= 0:
            text = f"{number:f}"
            assert bool(re.fullmatch(at_least(bound), text)) == (number >= bound)
            assert bool(re.fullmatch(at_most(bound), text)) == (number <= bound)

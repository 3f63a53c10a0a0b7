"""Charts as SVG: well formed, within their frame, true to their numbers."""

import math
import re
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from t5kit.drawing.axes import Axis, linear_ticks, number_text, tick_text
from t5kit.drawing.line_chart import MAX_POINTS, Series, line_chart, thinned

SVG = "{http://www.w3.org/2000/svg}"

ANY_FLOATS = st.lists(st.floats(width=64, allow_nan=True, allow_infinity=True), min_size=1, max_size=40)


@given(ANY_FLOATS, st.booleans())
def test_any_values_give_a_drawing_within_its_frame(values: list[float], starts_at_zero: bool) -> None:
    series = Series("train", list(range(1, len(values) + 1)), [abs(v) for v in values] if starts_at_zero else values)
    text = line_chart([series], title="T", description="<&>", starts_at_zero=starts_at_zero)
    if not text:
        assert not any(math.isfinite(value) and abs(value) <= 1e100 for value in values)
        return
    chart = ElementTree.fromstring(text)
    numbers = [float(n) for path in chart.iter(f"{SVG}path") for n in re.findall(r"-?[\d.]+", path.get("d"))]
    numbers += [float(dot.get(name)) for dot in chart.iter(f"{SVG}circle") for name in ("cx", "cy")]
    assert numbers and all(0 <= number <= 460 for number in numbers)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000))
def test_thinning_keeps_the_order_and_the_extremes(values: list[float]) -> None:
    points = thinned(Series("train", list(range(len(values))), values))
    assert len(points) <= MAX_POINTS + 2
    assert [step for step, _ in points] == sorted(step for step, _ in points)
    assert {min(values), max(values)} <= {value for _, value in points}


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_within_the_axis(low: float, width: float) -> None:
    ticks = linear_ticks(low, low + width)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-6 * width - 1e-9 <= tick <= low + width + 1e-6 * width + 1e-9 for tick in ticks)


def test_axes_place_their_ends_and_logarithms() -> None:
    assert [Axis(2.0, 6.0).share(v) for v in (2, 4, 6)] == [0, 0.5, 1]
    assert [Axis(1.0, 100.0, is_logarithmic=True).share(v) for v in (1, 10, 100)] == [0, 0.5, 1]
    assert Axis(0.5, 200.0, is_logarithmic=True).ticks() == [1, 10, 100]
    assert linear_ticks(0, 10) == [0, 2, 4, 6, 8, 10]


def test_numbers_are_short() -> None:
    shown = {
        0: "0",
        12000: "12k",
        1500: "1500",
        2.5e6: "2.5M",
        5e-4: "5e-4",
        0.25: "0.25",
        -30: "-30",
        0.1 + 0.2: "0.3",
    }
    assert {value: tick_text(value) for value in shown} == shown
    assert [number_text(v) for v in (1234567.0, 12.3456, 0.00012, math.nan)] == [
        "1,234,567",
        "12.35",
        "0.00012",
        "not finite",
    ]

"""Charts as SVG: well formed, within their frame, true to their numbers."""

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.drawing.axes import Axis, linear_ticks, number_text, tick_text
from t5kit.drawing.heat_map import heat_image, heat_level, heat_table
from t5kit.drawing.histogram import histogram_image, histogram_of
from t5kit.drawing.interval_chart import IntervalRow, interval_chart
from t5kit.drawing.line_chart import MAX_POINTS, Series, line_chart, thinned
from t5kit.testing.pages import Page

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


COUNTS = st.lists(st.integers(0, 5000).map(float), min_size=1, max_size=60)


@given(COUNTS, COUNTS, st.booleans())
def test_a_histogram_holds_every_value_of_both_groups_in_its_bin(
    first: list[float], second: list[float], are_counts: bool
) -> None:
    found = histogram_of({"one": first, "two": second}, are_counts=are_counts)
    assert found is not None
    for name, values in (("one", first), ("two", second)):
        assert sum(found.counts[name]) == len(values)
        for number, count in enumerate(found.counts[name]):
            low, high = found.edges[number : number + 2]
            is_last = number == len(found.edges) - 2
            inside = [v for v in values if low - 1e-6 <= v and (v < high + 1e-6 or (is_last and found.has_tail))]
            assert count <= len(inside)
    if are_counts:
        assert all(edge.is_integer() for edge in found.edges)
        assert not any(low == high for low, high in pairwise(found.edges))
    chart = ElementTree.fromstring(histogram_image(found, title="T", description="d", x_name="<words>"))
    for bar in chart.iter(f"{SVG}rect"):
        assert 0 <= float(bar.get("x", "")) <= 460 and 0 <= float(bar.get("y", "")) <= 280
        assert float(bar.get("width", "")) > 0 and float(bar.get("height", "")) >= 0


def test_bins_of_whole_numbers_are_named_for_what_they_hold() -> None:
    narrow = histogram_of({"n": [4.0, 5.0, 5.0, 7.0]}, are_counts=True)
    assert narrow is not None and narrow.rows() == [("4", "1"), ("5", "2"), ("7", "1")]
    tail = histogram_of({"n": [*map(float, range(200)), 1e6]}, are_counts=True)
    assert tail is not None and tail.has_tail
    assert tail.rows()[-1][0].endswith("and more") and len(tail.rows()) < 40
    assert histogram_of({"n": [math.nan]}) is None


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=12))
def test_intervals_lie_within_their_frame_around_their_values(points: list[tuple[float, float, float]]) -> None:
    rows = [IntervalRow(f"<row {n}>" * 5, [(v, v - low, v + high)]) for n, (v, low, high) in enumerate(points)]
    chart = ElementTree.fromstring(interval_chart(rows, title="T", description="d", x_name="score", marked=0.0))
    ranges = [path for path in chart.iter(f"{SVG}path") if path.get("class") == "range s0"]
    dots = list(chart.iter(f"{SVG}circle"))
    assert len(ranges) == len(dots) == len(points)
    for path, dot in zip(ranges, dots, strict=True):
        low, _, high = (float(n) for n in re.findall(r"-?[\d.]+", path.get("d", "")))
        assert 149 <= low <= float(dot.get("cx", "")) + 0.11 and float(dot.get("cx", "")) <= high + 0.11 <= 460


def test_an_interval_that_is_not_finite_has_no_row() -> None:
    rows = [IntervalRow("a", [(1.0, 0.5, 2.0)]), IntervalRow("b", [(math.inf, 1.0, math.nan)])]
    text = interval_chart(rows, title="T", description="d", x_name="x")
    assert text.count("<circle") == 1 and "nan" not in text and "inf" not in text
    assert interval_chart(rows[1:], title="T", description="d", x_name="x") == ""


def test_a_heat_table_colours_by_size_and_sign_and_escapes_its_texts() -> None:
    text = heat_table("c", "x", ["<r>"], ["a", "b", "c"], [[4.0, -2.0, 0.1]], [["<4>", "-2", "0"]])
    page = Page(text)
    assert [found.get("class") for tag, found in page.found if tag == "td"] == ["hp8", "hn4", None]
    assert page.text_of["td"] == ["<4>", "-2", "0"] and "<r>" in page.text_of["th"]
    assert [heat_level(v, 0.0) for v in (1.0, math.nan)] == [0, 0]


@given(st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_heat_picture_covers_exactly_the_cells_of_each_level(values: list[list[float]]) -> None:
    chart = ElementTree.fromstring(heat_image(values, title="T", description="d", largest=1.0))
    size = 460 / max(len(values), 3)
    covered = 0.0
    for path in chart.iter(f"{SVG}path"):
        covered += sum(float(width) for width in re.findall(r"h(\d[\d.]*)v", path.get("d", ""))) / size
    expected = sum(heat_level(value, 1.0) != 0 for row in values for value in row)
    assert covered == pytest.approx(expected, abs=0.01 * len(values) * 3)

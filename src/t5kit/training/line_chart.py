"""Curves as SVG text for a page of its own: themed by the page's CSS, readable aloud, without script or request.

By hand, because the small libraries give no page that is whole: pygal (26 kB a chart) brings script and addresses
along, pysvgchart has neither logarithmic axes nor gaps, and matplotlib, some 60 MB installed, fixes its colours for one
theme. Loads without torch.
"""

import dataclasses
import math
from collections.abc import Sequence
from html import escape

from t5kit.training.run_history import Series

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 12, 40
"""Margins; a phone shows the chart at about three quarters of this size."""
MAX_POINTS = 500
"""More points are joined, in twos or more, by their lowest and highest, so that no peak is lost."""
MAX_DOTS = 60
"""Up to so many points are marked one by one."""
LOGARITHMIC_FROM = 30.0
"""Ratio of the largest to the smallest value from which an axis of positive values is logarithmic."""


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """Values -> positions on paper. Logarithmic where `is_logarithmic`; low < high."""

    low: float
    high: float
    is_logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies, 0 at low and 1 at high."""
        if self.is_logarithmic:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return three to eight round values between the ends."""
        return _log_ticks(self.low, self.high) if self.is_logarithmic else linear_ticks(self.low, self.high)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    marked_step: int | None = None,
    starts_at_zero: bool = False,
) -> str:
    """Return the curves as one <svg>, or "" if no value is finite.

    Values that are not finite, or beyond 1e100, leave a gap. `marked_step` gets a line from top to bottom.
    `starts_at_zero` is for values that are not negative. CSS classes: chart, grid, axis, mark, and curve and dot, both
    with s0 or s1 by the series' stroke.
    """
    series = [dataclasses.replace(one, values=[_drawable(value) for value in one.values]) for one in series]
    pairs = [pair for one in series for pair in zip(one.steps, one.values, strict=True)]
    points = [(step, value) for step, value in pairs if math.isfinite(value)]
    if not points:
        return ""
    steps = [step for step, _ in points]
    x_axis = _around(min(steps), max(steps))
    y_axis = _value_axis([value for _, value in points] + [0.0] * starts_at_zero)
    parts = [*_grid(x_axis, y_axis)]
    if marked_step is not None and x_axis.low <= marked_step <= x_axis.high:
        x = _x(x_axis, marked_step)
        parts.append(f'<line class="mark" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
    for one in series:
        parts += _curve(one, x_axis, y_axis)
    identity = f"chart-{''.join(c if c.isalnum() else '-' for c in title.lower())}"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{identity}-title {identity}-text" xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{identity}-title">{escape(title)}</title><desc id="{identity}-text">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def scatter_chart(
    points: Sequence[tuple[float, float]],
    *,
    x_name: str,
    title: str,
    description: str,
    marked: int | None = None,
    x_names: Sequence[str] = (),
) -> str:
    """Return points (x, value) as one <svg>, or "" if no value is finite; the number `marked` of them stands out.

    x_names: of the places 0, 1, …, where x is a choice and not a number.
    """
    kept = [(number, x, _drawable(y)) for number, (x, y) in enumerate(points)]
    kept = [(number, x, y) for number, x, y in kept if math.isfinite(y) and math.isfinite(x)]
    if not kept:
        return ""
    x_axis = Axis(-0.5, len(x_names) - 0.5) if x_names else _value_axis([x for _, x, _ in kept])
    y_axis = _value_axis([y for _, _, y in kept])
    parts = [*_grid(x_axis, y_axis, x_name=x_name, x_names=x_names)]
    for number, x, y in kept:
        stroke, radius = ("s1", 5) if number == marked else ("s0", 3.5)
        parts.append(f'<circle class="dot {stroke}" cx="{_x(x_axis, x):.1f}" cy="{_y(y_axis, y):.1f}" r="{radius}"/>')
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: '
        f'{escape(description)}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def legend(series: Sequence[Series], *, marked_step: int | None = None) -> str:
    """Return the names of several curves, and of the marked step, beside samples of their strokes: an HTML list."""
    items = [
        _legend_item(
            f'<path class="curve s{one.stroke}" d="M1 5H27"/><circle class="dot s{one.stroke}" cx="14" cy="5" r="3"/>',
            one.name,
        )
        for one in series
        if len(series) > 1
    ]
    if marked_step is not None:
        items.append(_legend_item('<path class="mark" d="M1 5H27"/>', f"best, step {marked_step:,}"))
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def _legend_item(stroke: str, name: str) -> str:
    return f'<li><svg class="chart key" viewBox="0 0 28 10" aria-hidden="true">{stroke}</svg>{escape(name)}</li>'


def number_text(value: float) -> str:
    """Return a number for people, about four digits of it: 0.00012 -> "0.00012", 1234567.0 -> "1,234,567"."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4g}"


def _curve(series: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    stroke = f"s{series.stroke}"
    runs: list[list[tuple[float, float]]] = [[]]
    for step, value in thinned(series):
        if math.isfinite(value):
            runs[-1].append((_x(x_axis, step), _y(y_axis, value)))
        else:
            runs.append([])
    runs = [run for run in runs if run]
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run) for run in runs if len(run) > 1)
    parts = [f'<path class="curve {stroke}" d="{path}"/>'] if path else []
    num_points = sum(len(run) for run in runs)
    dots = [point for run in runs if num_points <= MAX_DOTS or len(run) == 1 for point in run]
    return parts + [f'<circle class="dot {stroke}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in dots]


def thinned(series: Series) -> list[tuple[int, float]]:
    """Return at most about MAX_POINTS of the points: of each stretch its lowest and highest, in order, and its gaps."""
    points = list(zip(series.steps, series.values, strict=True))
    if len(points) <= MAX_POINTS:
        return points
    stretch = -(-2 * len(points) // MAX_POINTS)
    kept: list[tuple[int, float]] = []
    for first in range(0, len(points), stretch):
        part = points[first : first + stretch]
        finite = [point for point in part if math.isfinite(point[1])]
        chosen = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])} if finite else set()
        gap = [point for point in part if not math.isfinite(point[1])][:1]
        kept += sorted([*chosen, *gap], key=lambda p: p[0])
    return kept


def _grid(x_axis: Axis, y_axis: Axis, *, x_name: str = "step", x_names: Sequence[str] = ()) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in y_axis.ticks():
        y = _y(y_axis, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(tick)}</text>')
    named = [(float(place), name) for place, name in enumerate(x_names)]
    named = named or [(tick, tick_text(tick)) for tick in x_axis.ticks()]
    for tick, text in named:
        x = _x(x_axis, tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    return parts


def tick_text(value: float) -> str:
    """Return a round value in at most six characters: 12000 -> "12k", 0.0005 -> "5e-4"."""
    if value == 0:
        return "0"
    size = abs(value)
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit * (1 if sign != "k" else 10):
            return f"{value / unit:g}{sign}"
    if size < 1e-2:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{float(f'{value:.6g}'):g}"


def linear_ticks(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten within low … high, about five."""
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * size for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if (high - low) / (factor * size) <= 6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1.0, 2.0, 5.0) if math.log10(high / low) < 2.5 else (1.0,)
    found = [factor * 10.0**d for d in decades for factor in factors if low <= factor * 10.0**d <= high]
    return found[:: max(1, -(-len(found) // 8))] or [low, high]


def _value_axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if low > 0 and high / low >= LOGARITHMIC_FROM:
        return Axis(low / 1.1, high * 1.1, is_logarithmic=True)
    axis = _around(low, high)
    room = (axis.high - axis.low) * 0.05
    return Axis(0.0 if 0 <= low < room else axis.low - room, axis.high + room)


def _around(low: float, high: float) -> Axis:
    """Return the axis from low to high, or around them where they are one."""
    if high > low and math.isfinite(high - low) and high - low > 1e-12 * max(abs(low), abs(high)):
        return Axis(low, high)
    room = abs(high) / 2 or 1.0
    return Axis(low - room, high + room)


def _drawable(value: float) -> float:
    """Return the value, NaN for one too large to place, 0 for one too small."""
    size = abs(value)
    return value if 1e-100 <= size <= 1e100 else 0.0 if size < 1e-100 else math.nan


def _x(axis: Axis, step: float) -> float:
    return LEFT + axis.share(step) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return TOP + (1 - axis.share(value)) * (HEIGHT - TOP - BOTTOM)

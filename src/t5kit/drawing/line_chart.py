"""Curves as SVG text for a page of its own: themed by the page's CSS, readable aloud, without script or request.

By hand, because the small libraries give no page that is whole: pygal (26 kB a chart) brings script and addresses
along, pysvgchart has neither logarithmic axes nor gaps, and matplotlib, some 60 MB installed, fixes its colours for one
theme. Loads without torch.
"""

import dataclasses
import math
from collections.abc import Sequence

from t5kit.drawing.axes import BOTTOM, HEIGHT, TOP, Axis, around, grid, image, legend_item, value_axis, x_of, y_of

MAX_POINTS = 500
"""More points are joined, in twos or more, by their lowest and highest, so that no peak is lost."""
MAX_DOTS = 60
"""Up to so many points are marked one by one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """One number over the steps. Shapes: steps [N], ascending; values [N], may hold NaN and infinities."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    stroke: int = 0
    """How it is drawn: 0 train, 1 dev."""


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
    x_axis = around(min(steps), max(steps))
    y_axis = value_axis([value for _, value in points] + [0.0] * starts_at_zero)
    parts = [*grid(x_axis, y_axis, "step")]
    if marked_step is not None and x_axis.low <= marked_step <= x_axis.high:
        x = x_of(x_axis, marked_step)
        parts.append(f'<line class="mark" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
    for one in series:
        parts += _curve(one, x_axis, y_axis)
    return image(title, description, parts)


def legend(series: Sequence[Series], *, marked_step: int | None = None) -> str:
    """Return the names of several curves, and of the marked step, beside samples of their strokes: an HTML list."""
    items = [
        legend_item(
            f'<path class="curve s{one.stroke}" d="M1 5H27"/><circle class="dot s{one.stroke}" cx="14" cy="5" r="3"/>',
            one.name,
        )
        for one in series
        if len(series) > 1
    ]
    if marked_step is not None:
        items.append(legend_item('<path class="mark" d="M1 5H27"/>', f"best, step {marked_step:,}"))
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def _curve(series: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    stroke = f"s{series.stroke}"
    runs: list[list[tuple[float, float]]] = [[]]
    for step, value in thinned(series):
        if math.isfinite(value):
            runs[-1].append((x_of(x_axis, step), y_of(y_axis, value)))
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


def _drawable(value: float) -> float:
    """Return the value, NaN for one too large to place, 0 for one too small."""
    size = abs(value)
    return value if 1e-100 <= size <= 1e100 else 0.0 if size < 1e-100 else math.nan

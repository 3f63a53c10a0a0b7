"""Values with the intervals around them, a row each: scores, slices, differences of two systems."""

import dataclasses
import math
from collections.abc import Sequence
from html import escape

from t5kit.drawing.axes import RIGHT, TOP, WIDTH, Axis, around, image, legend_item, tick_text

LABEL_WIDTH = 150
MAX_LABEL = 22
"""Characters of a label; a longer one is cut, and stands whole in the table beside the chart."""
ROW_HEIGHT = 26
SECOND_OFFSET = 11


@dataclasses.dataclass(frozen=True, slots=True)
class IntervalRow:
    """One row; several points stand below each other."""

    label: str
    points: Sequence[tuple[float, float, float]]
    """(value, low, high), one of each group, in the groups' order; equal where there is no interval."""


def interval_chart(
    rows: Sequence[IntervalRow],
    *,
    title: str,
    description: str,
    x_name: str,
    marked: float | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Return the rows as one <svg>, "" if there are none; one that holds a number that is not finite is left out.

    marked: a value that gets a line from top to bottom, such as 0 for differences. limits: what values can be at all;
    the axis never goes beyond.
    """
    rows = [row for row in rows if all(math.isfinite(end) for point in row.points for end in point)]
    ends = [end for row in rows for point in row.points for end in point]
    if not ends:
        return ""
    axis = _axis([*ends, *([] if marked is None else [marked])], limits)
    num_points = max(len(row.points) for row in rows)
    row_height = ROW_HEIGHT + SECOND_OFFSET * (num_points - 1)
    bottom = TOP + row_height * len(rows)
    parts = []
    for tick in axis.ticks():
        x = _x(axis, tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick_text(tick)}</text>')
    middle = (LABEL_WIDTH + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{bottom + 36}" text-anchor="middle">{escape(x_name)}</text>')
    if marked is not None:
        x = _x(axis, marked)
        parts.append(f'<line class="mark" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
    for number, row in enumerate(rows):
        top = TOP + row_height * number
        label = row.label if len(row.label) <= MAX_LABEL else f"{row.label[: MAX_LABEL - 1]}…"
        y = top + row_height / 2 + 4
        parts.append(
            f'<text class="axis label" x="{LABEL_WIDTH - 10}" y="{y:.1f}" text-anchor="end">{escape(label)}</text>'
        )
        for place, (value, low, high) in enumerate(row.points):
            y = top + ROW_HEIGHT / 2 + SECOND_OFFSET * place
            parts.append(f'<path class="range s{place}" d="M{_x(axis, low):.1f} {y:.1f}H{_x(axis, high):.1f}"/>')
            parts.append(f'<circle class="dot s{place}" cx="{_x(axis, value):.1f}" cy="{y:.1f}" r="4"/>')
    return image(title, description, parts, height=bottom + 42)


def group_legend(names: Sequence[str]) -> str:
    """Return the names of two groups beside samples of how they are drawn; "" for one."""
    if len(names) < 2:
        return ""
    items = [
        legend_item(f'<path class="range s{n}" d="M1 5H27"/><circle class="dot s{n}" cx="14" cy="5" r="4"/>', name)
        for n, name in enumerate(names)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _axis(values: Sequence[float], limits: tuple[float, float] | None) -> Axis:
    axis = around(min(values), max(values))
    room = (axis.high - axis.low) * 0.06
    low, high = axis.low - room, axis.high + room
    if limits is not None:
        low, high = max(low, min(limits[0], *values)), min(high, max(limits[1], *values))
    return around(low, high)


def _x(axis: Axis, value: float) -> float:
    return LABEL_WIDTH + axis.share(value) * (WIDTH - LABEL_WIDTH - RIGHT)

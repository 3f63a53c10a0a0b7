"""Heat maps: as tables, whose numbers can be read aloud, and as small pictures of many cells.

Colours are classes of the page's style sheet, so that both themes have their own: level 1 … 8 of a positive value (s0's
colour) or of a negative one (s1's).
"""

import math
from collections.abc import Sequence
from html import escape

from t5kit.drawing.axes import WIDTH, image
from t5kit.drawing.page import scrolling
from t5kit.drawing.style import NUM_HEAT_LEVELS

Matrix = Sequence[Sequence[float]]


def heat_level(value: float, largest: float) -> int:
    """Return -8 … 8: how strongly a value is coloured beside the largest size, 0 for not at all."""
    if not largest or not math.isfinite(value):
        return 0
    level = round(NUM_HEAT_LEVELS * min(1.0, abs(value) / largest))
    return level if value > 0 else -level


def heat_class(level: int) -> str:
    """Return the CSS class of a level, "" for 0."""
    return f"hp{level}" if level > 0 else f"hn{-level}" if level else ""


def largest_size(values: Matrix) -> float:
    """Return the largest finite size of any value, 0 without any."""
    return max((abs(value) for row in values for value in row if math.isfinite(value)), default=0.0)


def heat_table(
    caption: str,
    corner: str,
    row_names: Sequence[str],
    column_names: Sequence[str],
    values: Matrix,
    texts: Sequence[Sequence[str]],
    *,
    largest: float | None = None,
) -> str:
    """Return a coloured table. Shapes: values [R, C], texts [R, C] are what stands in the cells.

    corner: what rows and columns are, over the row names. largest: the size that is coloured most; that of the values.
    """
    most = largest_size(values) if largest is None else largest
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in column_names)
    rows = []
    for name, row, cells in zip(row_names, values, texts, strict=True):
        marked = "".join(
            f"<td{_class(heat_class(heat_level(value, most)))}>{escape(cell)}</td>"
            for value, cell in zip(row, cells, strict=True)
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{marked}</tr>')
    return scrolling(
        caption,
        f'<table class="heat"><caption>{escape(caption)}</caption><thead><tr><th scope="col">{escape(corner)}</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
    )


def heat_image(values: Matrix, *, title: str, description: str, largest: float | None = None) -> str:
    """Return a picture of the values [R, C], without names: rows from top to bottom.

    Cells of one level are one path, so that thousands of cells stay small.
    """
    most = largest_size(values) if largest is None else largest
    num_rows, num_columns = len(values), max((len(row) for row in values), default=0)
    if not num_rows or not num_columns:
        return ""
    size = WIDTH / max(num_rows, num_columns)
    paths: dict[int, list[str]] = {}
    for number, row in enumerate(values):
        start = 0
        levels = [heat_level(value, most) for value in row]
        while start < len(levels):
            end = start
            while end < len(levels) and levels[end] == levels[start]:
                end += 1
            if levels[start]:
                width = (end - start) * size
                cell = f"M{start * size:.1f} {number * size:.1f}h{width:.1f}v{size:.1f}h-{width:.1f}z"
                paths.setdefault(levels[start], []).append(cell)
            start = end
    frame = f'<rect class="frame" x="0" y="0" width="{num_columns * size:.1f}" height="{num_rows * size:.1f}"/>'
    parts = [f'<path class="{heat_class(level)}" d="{"".join(cells)}"/>' for level, cells in sorted(paths.items())]
    return image(title, description, [frame, *parts], height=num_rows * size, extra_class=" heat")


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""

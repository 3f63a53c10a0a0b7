"""Points as SVG text: what was tried, and what came of it."""

import math
from collections.abc import Sequence

from t5kit.drawing.axes import Axis, around, grid, image, value_axis, x_of, y_of


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
    kept = [(number, x, y) for number, (x, y) in enumerate(points) if math.isfinite(x) and math.isfinite(y)]
    if not kept:
        return ""
    xs = [x for _, x, _ in kept]
    x_axis = Axis(-0.5, len(x_names) - 0.5) if x_names else value_axis(xs) if len(set(xs)) > 1 else around(xs[0], xs[0])
    y_axis = value_axis([y for _, _, y in kept])
    parts = grid(x_axis, y_axis, x_name, x_names=x_names)
    for number, x, y in kept:
        stroke, radius = ("s1", 5) if number == marked else ("s0", 3.5)
        parts.append(
            f'<circle class="dot {stroke}" cx="{x_of(x_axis, x):.1f}" cy="{y_of(y_axis, y):.1f}" r="{radius}"/>'
        )
    return image(title, description, parts)

"""The reliability diagram: how often answers are right, by how sure the model is of them."""

import dataclasses
import math
from collections.abc import Sequence

from t5kit.drawing.axes import Axis, grid, image, x_of, y_of

_AXIS = Axis(0.0, 1.0)
SMALLEST, LARGEST = 2.5, 9.0
"""Radius of a point; its area grows with its items."""


@dataclasses.dataclass(frozen=True, slots=True)
class ReliabilityPoint:
    """Answers of like confidence; all shares of 1."""

    confidence: float
    accuracy: float
    low: float
    high: float
    num_items: int


def reliability_diagram(points: Sequence[ReliabilityPoint], *, title: str, description: str) -> str:
    """Return the diagram as <svg>; a calibrated model's points lie on the dashed diagonal."""
    parts = grid(_AXIS, _AXIS, "confidence")
    corners = [(x_of(_AXIS, end), y_of(_AXIS, end)) for end in (0.0, 1.0)]
    parts.append(f'<path class="mark" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}"/>')
    most = max((point.num_items for point in points), default=1)
    line = "L".join(f"{x_of(_AXIS, point.confidence):.1f} {y_of(_AXIS, point.accuracy):.1f}" for point in points)
    if len(points) > 1:
        parts.append(f'<path class="curve s0" d="M{line}"/>')
    for point in points:
        x, y = x_of(_AXIS, point.confidence), y_of(_AXIS, point.accuracy)
        radius = max(SMALLEST, LARGEST * math.sqrt(point.num_items / most))
        ends = f"M{x:.1f} {y_of(_AXIS, point.low):.1f}V{y_of(_AXIS, point.high):.1f}"
        parts.append(f'<path class="range s0" d="{ends}"/>')
        parts.append(f'<circle class="dot s0" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>')
    return image(title, description, parts)

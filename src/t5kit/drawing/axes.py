"""The paper of every chart: its size, its axes with round ticks, and numbers as people write them."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from html import escape

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 12, 40
"""Margins; a phone shows the chart at about three quarters of this size."""
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


def identity_of(title: str) -> str:
    """Return a title as the name of an element: "Dev rougeL" -> "dev-rougel"; other scripts by their code points."""
    return "".join(c if c.isascii() and c.isalnum() else "-" if c.isascii() else f"{ord(c):x}" for c in title.lower())


def image(title: str, description: str, parts: Iterable[str], *, height: float = HEIGHT, extra_class: str = "") -> str:
    """Return the parts as one <svg> with a title and a description to be read aloud; a page's titles must differ."""
    identity = f"chart-{identity_of(title)}"
    return (
        f'<svg class="chart{extra_class}" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-labelledby="{identity}-title {identity}-text" xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{identity}-title">{escape(title)}</title><desc id="{identity}-text">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def legend_item(stroke: str, name: str) -> str:
    """Return a sample of a stroke, drawn on 28 x 10, and its name as an item of a list of class "legend"."""
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


def grid(x_axis: Axis, y_axis: Axis, x_name: str, *, x_names: Sequence[str] = ()) -> list[str]:
    """Return the lines, the ticks' values and the name of the horizontal axis; x_names: of its places 0, 1, …"""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in y_axis.ticks():
        y = y_of(y_axis, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(tick)}</text>')
    named = [(float(place), name) for place, name in enumerate(x_names)]
    for tick, text in named or [(tick, tick_text(tick)) for tick in x_axis.ticks()]:
        x = x_of(x_axis, tick)
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


def value_axis(values: Sequence[float]) -> Axis:
    """Return an axis with room around the values, logarithmic where they are far apart and positive."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= LOGARITHMIC_FROM:
        return Axis(low / 1.1, high * 1.1, is_logarithmic=True)
    axis = around(low, high)
    room = (axis.high - axis.low) * 0.05
    return Axis(0.0 if 0 <= low < room else axis.low - room, axis.high + room)


def around(low: float, high: float) -> Axis:
    """Return the axis from low to high, or around them where they are one."""
    if high > low and math.isfinite(high - low) and high - low > 1e-12 * max(abs(low), abs(high)):
        return Axis(low, high)
    room = abs(high) / 2 or 1.0
    return Axis(low - room, high + room)


def x_of(axis: Axis, value: float) -> float:
    """Return where a value of the horizontal axis lies on paper."""
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def y_of(axis: Axis, value: float) -> float:
    """Return where a value of the vertical axis lies on paper."""
    return TOP + (1 - axis.share(value)) * (HEIGHT - TOP - BOTTOM)

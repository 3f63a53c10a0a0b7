"""How values are spread, as bars: one group of values, or two on the same bins."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from t5kit.drawing.axes import Axis, grid, image, legend_item, linear_ticks, number_text, x_of, y_of

NUM_BINS = 24
"""About so many bins; their width is a round number."""
TAIL_SHARE = 0.99
TAIL_FACTOR = 2.0
"""Where the values reach so many times as far as their quantile TAIL_SHARE, the last bin holds all above it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of values by bins of equal width."""

    edges: tuple[float, ...]
    """[N + 1], ascending."""
    counts: Mapping[str, tuple[int, ...]]
    """Group -> [N]; one or two groups."""
    are_counts: bool
    """Values are whole numbers."""
    has_tail: bool
    """The last bin holds all values above its lower edge, however large."""

    def bin_name(self, number: int) -> str:
        """Return a bin's range as text."""
        low, high = self.edges[number], self.edges[number + 1]
        if self.has_tail and number == len(self.edges) - 2:
            return f"{number_text(low)} and more"
        if self.are_counts:
            return number_text(low) if high - low == 1 else f"{number_text(low)} to {number_text(high - 1)}"
        return f"{number_text(low)} to {number_text(high)}"

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table behind the drawing: a bin and each group's count; bins that nothing is in are left out."""
        return [
            (self.bin_name(number), *(f"{counts[number]:,}" for counts in self.counts.values()))
            for number in range(len(self.edges) - 1)
            if any(counts[number] for counts in self.counts.values())
        ]


def histogram_of(groups: Mapping[str, Sequence[float]], *, are_counts: bool = False) -> Histogram | None:
    """Return the histogram of one or two groups' values, on common bins; None if no value is finite.

    are_counts: values are whole numbers, so bins are not narrower than 1.
    """
    finite = {name: [value for value in values if math.isfinite(value)] for name, values in groups.items()}
    everything = sorted(itertools.chain.from_iterable(finite.values()))
    if not everything:
        return None
    low, high = everything[0], everything[-1]
    quantile = everything[min(len(everything) - 1, int(TAIL_SHARE * len(everything)))]
    has_tail = quantile > low and high - low > TAIL_FACTOR * (quantile - low)
    edges = _edges(low, quantile if has_tail else high, are_counts=are_counts)
    num_bins, width = len(edges) - 1, edges[1] - edges[0]
    counts = {}
    for name, values in finite.items():
        found = [0] * num_bins
        for value in values:
            found[max(0, min(num_bins - 1, int((value - edges[0]) / width + 1e-9)))] += 1
        counts[name] = tuple(found)
    return Histogram(edges=tuple(edges), counts=counts, are_counts=are_counts, has_tail=has_tail)


def histogram_image(histogram: Histogram, *, title: str, description: str, x_name: str) -> str:
    """Return the bars of the first group, and the outline of the second over them, as <svg>."""
    x_axis = Axis(histogram.edges[0], histogram.edges[-1])
    most = max(max(counts) for counts in histogram.counts.values())
    y_axis = Axis(0.0, max(1.0, most * 1.05))
    parts = grid(x_axis, y_axis, x_name)
    first, *others = histogram.counts.values()
    bottom = y_of(y_axis, 0.0)
    for number, count in enumerate(first):
        left, right = (x_of(x_axis, edge) for edge in histogram.edges[number : number + 2])
        top = y_of(y_axis, count)
        if count:
            parts.append(
                f'<rect class="bar s0" x="{left + 0.5:.1f}" y="{top:.1f}" '
                f'width="{max(0.5, right - left - 1):.1f}" height="{bottom - top:.1f}"/>'
            )
    for counts in others:
        points = [(x_of(x_axis, histogram.edges[0]), bottom)]
        for number, count in enumerate(counts):
            points += [(x_of(x_axis, edge), y_of(y_axis, count)) for edge in histogram.edges[number : number + 2]]
        points.append((x_of(x_axis, histogram.edges[-1]), bottom))
        parts.append(f'<path class="curve solid s1" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')
    return image(title, description, parts)


def histogram_legend(histogram: Histogram) -> str:
    """Return the names of two groups beside samples of how they are drawn; "" for one."""
    if len(histogram.counts) < 2:
        return ""
    first, second = histogram.counts
    bar, line = '<rect class="bar s0" x="4" y="1" width="20" height="8"/>', '<path class="curve solid s1" d="M1 5H27"/>'
    return f'<ul class="legend">{legend_item(bar, first)}{legend_item(line, second)}</ul>'


def _edges(low: float, high: float, *, are_counts: bool) -> list[float]:
    """Return the edges of bins of a round width from below low to above high."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1.0):
        width = 1.0 if are_counts else (abs(low) / 10 or 0.1)
        return [low - width, low, low + width, low + 2 * width] if are_counts else [low - width / 2, low + width / 2]
    ticks = linear_ticks(low, high)
    width = (ticks[1] - ticks[0]) if len(ticks) > 1 else high - low
    while (high - low) / width < NUM_BINS / 2:
        width /= 2
    if are_counts:
        width = max(1.0, float(math.ceil(width)))
    start = math.floor(low / width + 1e-9) * width
    num_bins = int((high - start) / width - 1e-9) + 1
    # Numerics: a value on the last edge belongs to the last bin, unless whole numbers make it a bin of its own.
    if are_counts and start + num_bins * width <= high:
        num_bins += 1
    return [start + number * width for number in range(num_bins + 1)]

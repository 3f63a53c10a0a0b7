"""The report of a search for settings: one HTML file with its plots, that fetches nothing. Loads without torch."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from html import escape

from t5kit.drawing.axes import image, number_text
from t5kit.drawing.page import document, figure, section, table
from t5kit.drawing.scatter_chart import scatter_chart

BAR_WIDTH = 270
MOST_CHOICES = 6
"""Whole numbers of which a search tried at most so many are drawn as choices, side by side."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TriedSettings:
    """One run of a search."""

    number: int
    """From 1."""
    settings: Mapping[str, float | int | str]
    value: float
    """Its best dev metric; NaN where the run failed."""
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search as far as it came."""

    name: str
    metric: str
    is_highest_best: bool
    tried: tuple[TriedSettings, ...]
    importances: Mapping[str, float]
    """Setting -> share of the metric's variance that it explains; empty if unknown."""
    findings: tuple[str, ...]
    command: str
    """What trains the best settings again."""

    def best(self) -> TriedSettings | None:
        """Return the best run; the first among equals, None if none was finished."""
        sign = -1.0 if self.is_highest_best else 1.0
        finished = [tried for tried in self.tried if math.isfinite(tried.value)]
        return min(finished, key=lambda tried: (sign * tried.value, tried.number)) if finished else None


def tuning_page(search: Search) -> str:
    """Return the report as an HTML document."""
    best = search.best()
    marked = None if best is None else [tried.number for tried in search.tried].index(best.number)
    history = [(float(tried.number), tried.value) for tried in search.tried]
    figures = [_figure("Runs", history, "run", search, marked)]
    for name in dict.fromkeys(name for tried in search.tried for name in tried.settings):
        figures.append(_by_setting(name, search, marked))
    title = f"Search {search.name}"
    told = "no run is finished yet"
    if best is not None:
        told = f"{len(search.tried)} runs; best {search.metric} {number_text(best.value)} in run {best.number}"
    findings = "".join(f"<li>{escape(finding)}</li>" for finding in search.findings)
    body = [
        section("Plots", f'<div class="charts">{"".join(figures)}</div>'),
        section("What mattered", _importances(search.importances)),
        section("Runs", _runs(search, best)),
        section("Findings", f"<ul>{findings}</ul>" if findings else ""),
        section("Again", f'<pre tabindex="0" aria-label="command">{escape(search.command)}</pre>'),
    ]
    return document(title, title, f"{told}.", "".join(body))


def _by_setting(name: str, search: Search, marked: int | None) -> str:
    values = [tried.settings.get(name, math.nan) for tried in search.tried]
    are_numbers = all(isinstance(value, int | float) for value in values)
    if are_numbers and (len(set(values)) > MOST_CHOICES or any(isinstance(value, float) for value in values)):
        points = [(float(value), tried.value) for value, tried in zip(values, search.tried, strict=True)]
        return _figure(name, points, name, search, marked)
    names = [str(value) for value in sorted(set(values), key=lambda value: (value if are_numbers else 0, str(value)))]
    points = [(float(names.index(str(value))), tried.value) for value, tried in zip(values, search.tried, strict=True)]
    return _figure(name, points, name, search, marked, x_names=names)


def _figure(
    title: str,
    points: Sequence[tuple[float, float]],
    x_name: str,
    search: Search,
    marked: int | None,
    *,
    x_names: Sequence[str] = (),
) -> str:
    described = f"{search.metric} of {len(points)} runs"
    svg = scatter_chart(points, x_name=x_name, title=title, description=described, marked=marked, x_names=x_names)
    return figure(f"{search.metric} by {x_name}", svg) if svg else ""


def _importances(importances: Mapping[str, float]) -> str:
    if not importances:
        return ""
    height = 26 * len(importances)
    bars = "".join(
        f'<text class="axis" x="130" y="{26 * row + 17}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="138" y="{26 * row + 4}" width="{max(1.0, BAR_WIDTH * share):.1f}" height="18" fill="var(--s0)"/>'
        f'<text class="axis" x="{144 + BAR_WIDTH * share:.1f}" y="{26 * row + 17}">{share:.0%}</text>'
        for row, (name, share) in enumerate(importances.items())
    )
    title = "Share of the variance a setting explains"
    described = ", ".join(f"{name} {share:.0%}" for name, share in importances.items())
    return f'<div class="charts">{figure(title, image(title, described, [bars], height=height))}</div>'


def _runs(search: Search, best: TriedSettings | None) -> str:
    names = list(dict.fromkeys(name for tried in search.tried for name in tried.settings))
    rows = [
        (
            f"{tried.number}{' (best)' if tried is best else ''}",
            number_text(tried.value) if math.isfinite(tried.value) else "failed",
            *(_text(tried.settings.get(name, "")) for name in names),
            f"{tried.seconds:,.0f}",
        )
        for tried in search.tried
    ]
    return table("What was tried", ("run", search.metric, *names, "seconds"), rows, is_numeric=True)


def _text(value: object) -> str:
    if isinstance(value, float):
        return number_text(value)
    return value if isinstance(value, str) else json.dumps(value)

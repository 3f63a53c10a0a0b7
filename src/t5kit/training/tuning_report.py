"""The report of a search for settings: one HTML file with its plots, that fetches nothing. Loads without torch."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from html import escape

from t5kit.training.line_chart import number_text, scatter_chart
from t5kit.training.report_style import STYLE

BAR_WIDTH = 300
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
    parts = [
        f"<h2>Plots</h2><div class='charts'>{''.join(figures)}</div>",
        _importances(search.importances),
        _runs(search, best),
        f"<h2>Findings</h2><ul>{findings}</ul>" if findings else "",
        f'<h2>Again</h2><pre tabindex="0" aria-label="command">{escape(search.command)}</pre>',
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(told)}.</p></header>\n<main>{''.join(parts)}</main>\n"
        "</body>\n</html>\n"
    )


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
    return f"<figure><figcaption>{escape(search.metric)} by {escape(x_name)}</figcaption>{svg}</figure>" if svg else ""


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
    return (
        "<h2>What mattered</h2><div class='charts'><figure>"
        "<figcaption>Share of the variance a setting explains</figcaption>"
        f'<svg class="chart" viewBox="0 0 500 {height}" role="img" aria-label="importances" '
        f'xmlns="http://www.w3.org/2000/svg">{bars}</svg></figure></div>'
    )


def _runs(search: Search, best: TriedSettings | None) -> str:
    names = list(dict.fromkeys(name for tried in search.tried for name in tried.settings))
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("run", search.metric, *names, "seconds"))
    rows = []
    for tried in search.tried:
        mark = " (best)" if tried is best else ""
        cells = [number_text(tried.value) if math.isfinite(tried.value) else "failed"]
        cells += [_text(tried.settings.get(name, "")) for name in names] + [f"{tried.seconds:,.0f}"]
        body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{tried.number}{mark}</th>{body}</tr>')
    return (
        '<h2>Runs</h2><div class="table" role="region" tabindex="0" aria-label="Runs"><table class="numbers">'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return number_text(value)
    return value if isinstance(value, str) else json.dumps(value)

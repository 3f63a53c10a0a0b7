"""The page around the charts: one HTML file, its sections, tables and key figures, with every text escaped."""

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from t5kit.drawing.style import STYLE
from t5kit.errors import DataError


def document(title: str, heading: str, subtitle: str, body: str, *, style: str = "") -> str:
    """Return a whole HTML document. body: markup; style: CSS behind that of all pages; the other texts are escaped."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing may be fetched, whatever stands in a sample or a recipe.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(heading)}</h1><p>{escape(subtitle)}</p></header>\n<main>\n"
        f"{body}</main>\n</body>\n</html>\n"
    )


def write_page(path: Path, page: str, *, what: str = "the report") -> None:
    """Write a page in one step; an older one is replaced. Raises: DataError if it cannot be written."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        # Half of a surrogate pair cannot be written; it stands as "?".
        partial.write_text(page, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise DataError(f"{path}: {what} cannot be written ({error.strerror or error}).") from error


def section(title: str, body: str) -> str:
    """Return a section with its heading, "" if there is nothing in it. A page's section titles must differ."""
    identity = title.lower().replace(" ", "-")
    heading = f'<h2 id="{identity}">{escape(title)}</h2>'
    return f'<section aria-labelledby="{identity}">{heading}{body}</section>\n' if body else ""


def figure(title: str, picture: str, *, above: str = "", below: str = "") -> str:
    """Return a picture in its frame; markup above it may be its legend, below it the table of its numbers."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{above}{picture}{below}</figure>"


def note(text: str) -> str:
    """Return a sentence that explains what stands below it."""
    return f'<p class="note">{escape(text)}</p>'


def details(summary: str, body: str) -> str:
    """Return what opens on demand, without a script."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def key_figures(figures: Iterable[tuple[str, str]]) -> str:
    """Return (name, value) pairs as cards; "" if there are none."""
    items = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for name, value in figures)
    return f'<dl class="figures">{items}</dl>' if items else ""


def table(caption: str, names: Sequence[str], rows: Iterable[Sequence[str]], *, is_numeric: bool = False) -> str:
    """Return rows of texts as a table whose first column heads its rows."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    kind = ' class="numbers"' if is_numeric else ""
    return scrolling(
        caption,
        f"<table{kind}><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
    )


def scrolling(name: str, body: str) -> str:
    """Return a box that scrolls by itself, and by keyboard, so that the page never does sideways."""
    return f'<div class="table" role="region" tabindex="0" aria-label="{escape(name)}">{body}</div>'

"""How Sphinx builds the documentation; `make docs` runs it with warnings as errors and without the network."""

import importlib.metadata
import re

project = "t5kit"
author = "the t5kit authors"
project_copyright = "the t5kit authors, Apache-2.0"
release = version = importlib.metadata.version("t5kit")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"t5kit {release}"
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}


def as_restructured_text(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Rewrite a docstring of this project, in place, so that Sphinx shows what its author wrote.

    Our docstrings are plain text with `names` in backticks and indented examples. reStructuredText would read asterisks
    and underscores in them as markup, single backticks as a cross-reference, and complain about free indentation.
    """
    written = "\n".join(lines)
    shown: list[str] = []
    for paragraph in re.split(r"\n\s*\n", written):
        rows = paragraph.split("\n")
        if all(row.startswith("    ") for row in rows if row.strip()) and paragraph.strip():
            shown += ["::", "", *rows, ""]
            continue
        for row in rows:
            pieces = re.split(r"(`[^`]+`)", row)
            plain = [p if p.startswith("`") and p.endswith("`") else re.sub(r"([*_|\\`])", r"\\\1", p) for p in pieces]
            shown.append("| " + "".join(f"`{p}`" if p.startswith("`") else p for p in plain).strip())
        shown.append("")
    lines[:] = shown


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_restructured_text)  # type: ignore[attr-defined]

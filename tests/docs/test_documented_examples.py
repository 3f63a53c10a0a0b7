"""The examples of the documentation are run: every `pycon` block of a page must print what the page says."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if BLOCK.search(path.read_text("utf-8"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_print_what_the_page_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    report: list[str] = []
    names: dict[str, object] = {}  # A page reads from top to bottom: its blocks share their names.
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        example = doctest.DocTestParser().get_doctest(block.group(1), names, page.name, str(page), line)
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append, clear_globs=False)
        names = example.globs
    assert not report, "".join(report)

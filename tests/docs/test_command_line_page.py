"""The page of the command line names every verb and every variable that there is."""

import re
from pathlib import Path

from t5kit.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")


def test_the_page_lists_all_verbs_and_no_others() -> None:
    verbs = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    listed = re.findall(r"^    t5kit ([a-z]+) ", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(map(str, verbs))


def test_the_page_explains_every_variable_that_is_read() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src" / "t5kit").rglob("*.py")]
    read = {name for text in sources for name in re.findall(r"\bT5KIT_[A-Z_]+\b", text)}
    assert read and {name for name in read if f"`{name}`" not in PAGE} == set()

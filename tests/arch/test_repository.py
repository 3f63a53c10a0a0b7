"""Facts about the files themselves: what a clone anywhere may hold."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = {
    "",
    ".cfg",
    ".cpp",
    ".h",
    ".json",
    ".jsonl",
    ".md",
    ".py",
    ".pyi",
    ".sh",
    ".toml",
    ".tsv",
    ".txt",
    ".yaml",
    ".yml",
}
MAX_LINES = 600
EMPTY_NAMES = {"common", "helpers", "misc", "util", "utils"}

MACHINE = re.compile(r"(?<![\w.~-])/(home|mnt|opt|root|tmp|Users|work)/\w")
REGISTRY = re.compile(r"--(extra-)?index-url|registry[=]|\bdeb[ ]https?:|pypi[.]org|pythonhosted[.]|npmjs[.]")
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b(?! ?\(?#\d+)")


def listed_files() -> list[Path]:
    """Return the text files of the repository, new ones that git does not ignore included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in names if name]
    return [path for path in paths if path.is_file() and path.suffix in TEXT and path.name != "LICENSE"]


def lines_matching(pattern: re.Pattern[str], *, under: str = "") -> list[str]:
    """Return "file:line: text" for every line that matches, in the files below the folder `under`."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in listed_files()
        if path.relative_to(ROOT).as_posix().startswith(under)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_path_of_one_machine() -> None:
    assert not lines_matching(MACHINE)


def test_no_address_of_a_package_registry() -> None:
    assert not lines_matching(REGISTRY)


def test_unfinished_work_names_its_issue() -> None:
    assert not lines_matching(UNFINISHED)


def test_no_function_is_a_stub() -> None:
    assert not lines_matching(re.compile(r"raise NotImplementedError"), under="src/")


def test_source_files_are_short_and_named_for_what_they_hold() -> None:
    sources = [path for path in listed_files() if path.suffix in {".py", ".cpp", ".h"}]
    sources = [path for path in sources if path.relative_to(ROOT).parts[0] in {"src", "native"}]
    assert not [path for path in sources if path.stem in EMPTY_NAMES]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert not {path: length for path, length in lengths.items() if length > MAX_LINES}

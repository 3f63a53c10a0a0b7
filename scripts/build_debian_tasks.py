"""Rebuild the tasks made of Debian's package descriptions: synopsis (summaries) and section (classification).

    python scripts/build_debian_tasks.py FOLDER [--index INDEX]

FOLDER then holds, for train, dev and test, lines of input TAB target:

    synopsis  "summarize: " and the long description -> the one-line synopsis
    section   "debian section: NAME: SYNOPSIS. DESCRIPTION" -> one of 58 sections

INDEX holds the files Packages and Translation-en of Debian 12 (bookworm), main, amd64, plain or as .xz. On Debian they
are fetched by apt-get, into a folder of their own, when INDEX lacks them; elsewhere take them from
dists/bookworm/main/binary-amd64/ and dists/bookworm/main/i18n/ of any mirror. Descriptions are kept that have at least
15 words and that no earlier package has; the part follows from the source package, so that sister packages stay
together. A later point release of Debian changes a few rows, but never the part of one.
"""

import argparse
import lzma
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from build_tasks import PARTS, BuildError, Part, Row, part_of, write_rows

MIN_WORDS = 15
TEST_BELOW, DEV_BELOW = 50, 100

SOURCES = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main\n"
INDEX_FILES = {"Packages": "*_main_binary-amd64_Packages*", "Translation-en": "*_main_i18n_Translation-en*"}


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, list[str]]]:
    """Yield the paragraphs of a control file: field -> its first line and its continuation lines."""
    fields: dict[str, list[str]] = {}
    last: list[str] = []
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            if fields:
                yield fields
            fields = {}
        elif line[0] in " \t":
            last.append(line.strip())
        else:
            name, _, value = line.partition(":")
            last = fields[name] = [value.strip()]
    if fields:
        yield fields


def description_rows(packages: Iterable[str], translation: Iterable[str]) -> Iterator[tuple[Row, Row]]:
    """Yield the synopsis and the section row of every package whose description is long enough and new.

    Descriptions belong to packages by their MD5 sums, since one package has several over architectures and versions.
    """
    descriptions: dict[str, list[str]] = {}
    for fields in stanzas(translation):
        descriptions.setdefault(fields["Description-md5"][0], fields["Description-en"])
    seen = set()
    for fields in stanzas(packages):
        first, *rest = descriptions.get(fields.get("Description-md5", [""])[0], [""])
        synopsis = " ".join(first.split())
        body = " ".join(" ".join(line for line in rest if line != ".").split())
        if len(body.split()) < MIN_WORDS or body in seen:
            continue
        seen.add(body)
        name = fields["Package"][0]
        source_package = fields.get("Source", [name])[0].split(" ")[0]
        yield (
            Row(f"summarize: {body}", synopsis, source_package),
            Row(f"debian section: {name}: {synopsis}. {body}", fields["Section"][0], source_package),
        )


def fetch_index(
    index: Path, files: Mapping[str, str] = INDEX_FILES, *, languages: str = "en", packages: Sequence[str] = ()
) -> None:
    """Put Debian's index files, and packages as .deb, into a folder by apt-get, with package lists of its own.

    files: name in the folder -> pattern of its name among apt's lists.
    """
    if not shutil.which("apt-get"):
        wanted = " or ".join([*files, *packages])
        raise BuildError(f"{index} lacks {wanted}, and there is no apt-get to fetch them; see --help.")
    with tempfile.TemporaryDirectory() as scratch:
        lists = Path(scratch, "lists")
        (lists / "partial").mkdir(parents=True)
        sources = Path(scratch, "sources.list")
        sources.write_text(SOURCES, encoding="utf-8")
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": lists,
            "Dir::Cache": scratch,
            "Acquire::Languages": languages,
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        subprocess.run(["apt-get", "update", *options], stdin=subprocess.DEVNULL, check=False)
        for name, pattern in files.items():
            found = sorted(lists.glob(pattern))
            if not found:
                raise BuildError(f"apt-get fetched no {name} (its message is above); it needs a Debian mirror to ask.")
            with (index / name).open("wb") as file:
                subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(found[0])], stdout=file, check=True)
        if packages:
            command = ["apt-get", "download", *options, *packages]
            subprocess.run(command, cwd=index, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)


def read_index(index: Path, name: str) -> str:
    """Return an index file's text, plain or from its .xz."""
    plain = index / name
    return plain.read_text("utf-8") if plain.is_file() else lzma.decompress(Path(f"{plain}.xz").read_bytes()).decode()


def build(index: Path) -> dict[str, dict[Part, list[Row]]]:
    """Return the rows of both tasks by part, in the order of the package index."""
    tasks: dict[str, dict[Part, list[Row]]] = {name: {part: [] for part in PARTS} for name in ("synopsis", "section")}
    packages, translation = (read_index(index, name).splitlines() for name in INDEX_FILES)
    for synopsis, section in description_rows(packages, translation):
        part = part_of(synopsis.key, test_below=TEST_BELOW, dev_below=DEV_BELOW)
        tasks["synopsis"][part].append(synopsis)
        tasks["section"][part].append(section)
    return tasks


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the data goes; made if it is missing")
    parser.add_argument("--index", type=Path, help="the folder of Packages and Translation-en")
    arguments = parser.parse_args()
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            index: Path = arguments.index or Path(scratch)
            index.mkdir(parents=True, exist_ok=True)
            if not all((index / name).is_file() or (index / f"{name}.xz").is_file() for name in INDEX_FILES):
                fetch_index(index)
            for name, parts in build(index).items():
                for part, rows in parts.items():
                    write_rows(rows, arguments.folder / f"{name}.{part}.tsv.gz")
                print(f"{name:8} " + ", ".join(f"{len(parts[part]):,} {part}" for part in PARTS))
    except (BuildError, OSError, subprocess.CalledProcessError, lzma.LZMAError) as error:
        print(f"build_debian_tasks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

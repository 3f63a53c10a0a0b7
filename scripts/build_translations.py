"""Rebuild the translation tasks en-de and en-fr from Debian's package descriptions and LibreOffice's help.

    python scripts/build_translations.py FOLDER [--index INDEX]

FOLDER then holds, for train, dev and test, lines of input TAB target:

    en-de     "translate English to German: " and a text -> its translation      Debian's translators; MPL-2.0
    en-fr     the same into French

INDEX holds Translation-en, Translation-de and Translation-fr of Debian 12 (bookworm), main, plain or as .xz, and the
packages libreoffice-help-en-us, -de and -fr as .deb. What is missing is fetched by apt-get, on Debian; elsewhere take
the first from dists/bookworm/main/i18n/ and the others from pool/main/libr/libreoffice/ of any mirror.

A pair is a synopsis, or a paragraph of a description or help page that has as many of them in both languages. The first
pair of an English text counts. Kept are those of at most 60 words (help: at least two) whose translation has 0.4 to 2.5
times as many characters. The part follows from the English letters alone. A later point release of Debian changes a few
rows, but never the part of one.
"""

import argparse
import html
import io
import lzma
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from build_debian_tasks import fetch_index, read_index, stanzas
from build_tasks import PARTS, BuildError, Part, Row, part_of, write_rows

LANGUAGES = {"de": "German", "fr": "French"}
MAX_WORDS, MIN_HELP_WORDS = 60, 2
LOW_RATIO, HIGH_RATIO = 0.4, 2.5
TEST_BELOW, DEV_BELOW = 20, 35

INDEX_FILES = {f"Translation-{code}": f"*_main_i18n_Translation-{code}*" for code in ("en", *LANGUAGES)}
HELP_PACKAGES = {"en-US": "libreoffice-help-en-us", **{code: f"libreoffice-help-{code}" for code in LANGUAGES}}
HELP_ORDER = Path(__file__).with_name("libreoffice_help_files.txt")
"""The pages in the order that decides which pair of an English text is the first; pages not named there come last."""

HELP_PARAGRAPH = re.compile(r'<(?:p|h[1-6]?|span)\b[^>]*\b(?:id|class)="[^"]*"[^>]*>(.*?)</(?:p|h[1-6]?)>', re.DOTALL)
"""Paragraphs and headings that have a name or a class; of others, from their first marked word on."""


def key_of(english: str) -> str:
    """Return what decides a text's part: its letters, all else as single spaces."""
    return re.sub("[^a-z]+", " ", english.lower())


def paragraphs(lines: Iterable[str]) -> list[str]:
    """Return the paragraphs of a description's continuation lines; a dot, or nothing, stands between them."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line in (".", ""):
            found.append([])
        else:
            found[-1].append(line)
    return [" ".join(paragraph) for paragraph in found if paragraph]


def description_pairs(english: Iterable[str], translated: Iterable[str], code: str) -> Iterator[tuple[str, str]]:
    """Yield synopses and paragraphs with their translations, in the order of the translated index.

    They belong together by the MD5 sum of the English description, of which the first counts in both indexes.
    """
    originals: dict[str, list[str]] = {}
    for fields in stanzas(english):
        originals.setdefault(fields["Description-md5"][0], fields["Description-en"])
    seen = set()
    for fields in stanzas(translated):
        number = fields["Description-md5"][0]
        if number in seen or number not in originals:
            continue
        seen.add(number)
        (title, *lines), (translated_title, *translated_lines) = originals[number], fields[f"Description-{code}"]
        yield title, translated_title
        sides = paragraphs(lines), paragraphs(translated_lines)
        if len(sides[0]) == len(sides[1]):
            yield from zip(*sides, strict=True)


def help_texts(page: str) -> list[str]:
    """Return the paragraphs of one help page without their marks."""
    return [one_line(html.unescape(re.sub("<[^>]*>", "", text))) for text in HELP_PARAGRAPH.findall(page)]


def help_pairs(english: Mapping[str, str], translated: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the paragraphs of help pages (name -> HTML) with those that stand in the same place of the translation."""
    for name in help_order(english):
        sides = help_texts(english[name]), help_texts(translated.get(name, ""))
        if len(sides[0]) == len(sides[1]):
            yield from zip(*sides, strict=True)


def help_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of HELP_ORDER, others behind them by name."""
    place = {name: number for number, name in enumerate(HELP_ORDER.read_text("utf-8").splitlines())}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


def one_line(text: str) -> str:
    """Return the text with single spaces between its words."""
    return " ".join(text.split())


def chosen(pairs: Iterable[tuple[str, str]], *, min_words: int, without: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs to keep; English texts in `without` have had their turn."""
    seen = set()
    for english, translated in pairs:
        if english == translated or english in seen:
            continue
        seen.add(english)
        source, target = one_line(english), one_line(translated)
        # Lengths are those before spaces are joined, which is how the parts were published.
        is_alike = LOW_RATIO * len(english) < len(translated) < HIGH_RATIO * len(english)
        if is_alike and min_words <= len(source.split()) <= MAX_WORDS and source not in without:
            yield source, target


def translation_rows(
    descriptions: Iterable[tuple[str, str]], pages: Iterable[tuple[str, str]], *, language: str
) -> Iterator[Row]:
    """Yield the rows of one language: descriptions, then help."""
    given = set()
    for min_words, pairs in ((1, descriptions), (MIN_HELP_WORDS, pages)):
        kept = list(chosen(pairs, min_words=min_words, without=given))
        for source, target in kept:
            yield Row(f"translate English to {language}: {source}", target, key_of(source))
        given.update(source for source, _ in kept)


def read_help(package: Path, folder: str) -> dict[str, str]:
    """Return the help pages of a .deb by their path below text/."""
    root = f"./usr/share/libreoffice/help/{folder}/text/"
    try:
        with tarfile.open(fileobj=io.BytesIO(deb_data(package.read_bytes()))) as archive:
            return {
                member.name.removeprefix(root): archive.extractfile(member).read().decode("utf-8")  # type: ignore[union-attr]
                for member in archive
                if member.isfile() and member.name.startswith(root) and member.name.endswith(".html")
            }
    except (tarfile.TarError, lzma.LZMAError, ValueError) as error:
        raise BuildError(f"{package.name} cannot be read as a Debian package ({error}).") from error


def deb_data(deb: bytes) -> bytes:
    """Return the data archive inside a .deb, which is an ar file: 60 bytes of header a member, at even places."""
    place = len(b"!<arch>\n")
    while place + 60 <= len(deb):
        name, size = deb[place : place + 16].decode("ascii", "replace").strip(" /"), int(deb[place + 48 : place + 58])
        place += 60
        if name.startswith("data.tar"):
            return deb[place : place + size]
        place += size + size % 2
    raise ValueError("it holds no data.tar")


def find_help(index: Path) -> dict[str, Path]:
    """Return the packages in a folder by the language of their pages, the last version of each."""
    found = {folder: sorted(index.glob(f"{name}_*.deb"))[-1:] for folder, name in HELP_PACKAGES.items()}
    return {folder: paths[0] for folder, paths in found.items() if paths}


def build(index: Path) -> dict[str, dict[Part, list[Row]]]:
    """Return the rows of both tasks by part, in their order."""
    texts = {code: read_index(index, f"Translation-{code}").split("\n") for code in ("en", *LANGUAGES)}
    packages = find_help(index)
    pages = {folder: read_help(path, folder) for folder, path in packages.items()}
    tasks: dict[str, dict[Part, list[Row]]] = {}
    for code, language in LANGUAGES.items():
        parts: dict[Part, list[Row]] = {part: [] for part in PARTS}
        descriptions = description_pairs(texts["en"], texts[code], code)
        for row in translation_rows(descriptions, help_pairs(pages["en-US"], pages[code]), language=language):
            parts[part_of(row.key, test_below=TEST_BELOW, dev_below=DEV_BELOW)].append(row)
        tasks[f"en-{code}"] = parts
    return tasks


def fetch_missing(index: Path) -> None:
    """Fetch what a folder lacks."""
    missing = [name for name in INDEX_FILES if not any((index / f"{name}{end}").is_file() for end in ("", ".xz"))]
    have = find_help(index)
    packages: Sequence[str] = [name for folder, name in HELP_PACKAGES.items() if folder not in have]
    if missing or packages:
        files = {name: INDEX_FILES[name] for name in missing}
        fetch_index(index, files, languages=",".join(["en", *LANGUAGES]), packages=packages)


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the data goes; made if it is missing")
    parser.add_argument("--index", type=Path, help="the folder of Translation-* and the help packages")
    arguments = parser.parse_args()
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            index: Path = arguments.index or Path(scratch)
            index.mkdir(parents=True, exist_ok=True)
            fetch_missing(index)
            for name, parts in build(index).items():
                for part, rows in parts.items():
                    write_rows(rows, arguments.folder / f"{name}.{part}.tsv.gz")
                print(f"{name:8} " + ", ".join(f"{len(parts[part]):,} {part}" for part in PARTS))
    except (BuildError, OSError, subprocess.CalledProcessError, lzma.LZMAError) as error:
        print(f"build_translations: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

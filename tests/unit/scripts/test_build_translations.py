"""The translation data: rules on small sources, and equality with the published files where both are at hand."""

import gzip
import importlib
import io
import lzma
import os
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"

ENGLISH = """Package: ada
Description-md5: 1
Description-en: Compiler for Ada
 one  two
 three
 .
 Four words stand here

Package: bob
Description-md5: 2
Description-en: Same number
 a
"""

GERMAN = """Package: ada
Description-md5: 1
Description-de: Übersetzer für Ada
 eins zwei
 drei
 \u00a0
 Hier stehen vier Texte

Package: gone
Description-md5: 9
Description-de: Weg

Package: bob
Description-md5: 2
Description-de: Gleiche Zahl
 a
 .
 b
"""

PAGE = """<div><p id="p1" class="x">Click <span class="emph">OK</span> &amp; go.</p>
<h id="h1">Two\n words</h><p>Not named</p><h2 id="h2">Heading here</h2>
<p dir="auto">The <span class="emph">Let</span> word</p></div>"""


@pytest.fixture(scope="module")
def translations() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module("build_translations")
    finally:
        sys.path.remove(str(SCRIPTS))


def test_descriptions_pair_paragraphs_where_both_have_as_many(translations: ModuleType) -> None:
    pairs = list(translations.description_pairs(ENGLISH.split("\n"), GERMAN.split("\n"), "de"))
    assert pairs == [
        ("Compiler for Ada", "Übersetzer für Ada"),
        ("one  two three", "eins zwei drei"),
        ("Four words stand here", "Hier stehen vier Texte"),
        ("Same number", "Gleiche Zahl"),
    ]


def test_help_pages_give_named_paragraphs_without_marks(translations: ModuleType) -> None:
    assert translations.help_texts(PAGE) == ["Click OK & go.", "Two words", "Heading here", "Let word"]


def test_help_pages_of_unlike_length_or_one_language_give_nothing(translations: ModuleType) -> None:
    pages = {"z.html": PAGE, "shared/find_toolbar.html": PAGE, "only.html": PAGE}
    other = {"z.html": PAGE.replace("Click", "Taste"), "shared/find_toolbar.html": '<p id="a">Ein Wort</p>'}
    assert next(pair[1] for pair in translations.help_pairs(pages, other)) == "Taste OK & go."
    assert len(list(translations.help_pairs(pages, other))) == 4


def test_known_help_pages_come_in_the_published_order(translations: ModuleType) -> None:
    names = ["a/unknown.html", "shared/main0108.html", "shared/find_toolbar.html"]
    assert translations.help_order(names) == [names[2], names[1], names[0]]


@pytest.mark.parametrize(
    ("english", "translated", "is_kept"),
    [
        ("Open the file", "Datei öffnen", True),
        ("Same", "Same", False),
        ("0123456789", "0123", False),
        ("0123456789", "01234", True),
        ("0123456789", "x" * 25, False),
        ("0123456789", "x" * 24, True),
        ("w " * 60, "v " * 60, True),
        ("w " * 61, "v " * 61, False),
    ],
)
def test_pairs_are_kept_by_length_and_likeness(
    translations: ModuleType, english: str, translated: str, is_kept: bool
) -> None:
    assert bool(list(translations.chosen([(english, translated)], min_words=1, without=set()))) is is_kept


def test_the_first_pair_of_a_text_counts_even_if_it_is_not_kept(translations: ModuleType) -> None:
    pairs = [("Edit", "Edit"), ("Edit", "x"), ("Edit", "Ändern"), ("Two words", "Zwei Texte")]
    assert list(translations.chosen(pairs, min_words=1, without=set())) == [("Two words", "Zwei Texte")]
    rows = list(translations.translation_rows(pairs, [("Two words", "Z W"), ("One", "Ein")], language="German"))
    assert [(row.source, row.key) for row in rows] == [("translate English to German: Two words", "two words")]


def test_the_key_is_the_letters_of_the_english_text(translations: ModuleType) -> None:
    assert translations.key_of("A 2nd file (new).") == "a nd file new "


def deb(data: bytes) -> bytes:
    def member(name: str, body: bytes) -> bytes:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode()
        return header + body + b"\n" * (len(body) % 2)

    return (
        b"!<arch>\n"
        + member("debian-binary", b"2.0\n")
        + member("control.tar.xz", b"odd")
        + member("data.tar.xz", data)
    )


def test_help_is_read_from_a_debian_package(translations: ModuleType, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("de/text/shared/a.html", "de/media/b.html", "fr/text/c.html"):
            member = tarfile.TarInfo(f"./usr/share/libreoffice/help/{name}")
            member.size = len(PAGE.encode())
            archive.addfile(member, io.BytesIO(PAGE.encode()))
    path = tmp_path / "libreoffice-help-de_1_all.deb"
    path.write_bytes(deb(lzma.compress(buffer.getvalue())))
    assert translations.read_help(path, "de") == {"shared/a.html": PAGE}
    assert translations.find_help(tmp_path) == {"de": path}


@pytest.mark.parametrize("content", [b"", b"!<arch>\n", deb(b"no archive"), b"!<arch>\n" + b"x" * 70])
def test_a_broken_package_is_told_by_name(translations: ModuleType, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "libreoffice-help-de_1_all.deb"
    path.write_bytes(content)
    with pytest.raises(translations.BuildError, match=r"libreoffice-help-de_1_all\.deb cannot be read"):
        translations.read_help(path, "de")


@pytest.mark.slow
def test_rebuilt_translations_equal_the_published_files(translations: ModuleType) -> None:
    folder, index = os.environ.get("T5KIT_TASK_DATA"), os.environ.get("T5KIT_DEBIAN_INDEX")
    if not folder or not index or not (Path(index) / "Translation-de").is_file():
        pytest.skip("needs T5KIT_TASK_DATA and T5KIT_DEBIAN_INDEX (build_translations.py --index)")
    for name, parts in translations.build(Path(index)).items():
        for part, rows in parts.items():
            published = gzip.decompress(Path(folder, f"{name}.{part}.tsv.gz").read_bytes()).decode("utf-8")
            assert "".join(f"{row.source}\t{row.target}\n" for row in rows) == published, f"{name}.{part} differs"

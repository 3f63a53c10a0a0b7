"""Files that are not UTF-8, cells that are not small, and separators that are no commas."""

import gzip
from pathlib import Path

import pytest

from t5kit.errors import DataError
from t5kit.sources import BadRecord, Record, read_records, read_table


def fields_of(path: Path, **options: str) -> list[object]:
    return [dict(r.fields) if isinstance(r, Record) else r for r in read_records(path, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-8-sig"])
def test_a_named_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\r\nschön,gut\r\nüble Sache,schlecht\r\n".encode(encoding))
    assert fields_of(tmp_path / "a.csv", encoding=encoding) == [
        {"text": "schön", "label": "gut"},
        {"text": "üble Sache", "label": "schlecht"},
    ]


def test_utf_16_is_known_by_its_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("eins\nzwei\n".encode("utf-16"))
    assert fields_of(tmp_path / "a.txt") == [{"text": "eins"}, {"text": "zwei"}]


def test_bytes_that_an_encoding_does_not_have_make_a_bad_line_only(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xe9t\xe9\nbad \x81 byte\nok\n")
    first, second, third = fields_of(tmp_path / "a.txt", encoding="cp1252")
    assert first == {"text": "été"} and third == {"text": "ok"}
    assert isinstance(second, BadRecord) and "a.txt:2" in second.error


def test_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    with pytest.raises(DataError, match="encoding = 'klingon' is not known; usual ones are"):
        read_table(tmp_path / "a.txt", encoding="klingon")


@pytest.mark.parametrize("encoding", ["rot13", "base64", "hex", "idna", "punycode", "undefined", "unicode_escape"])
def test_a_codec_that_no_text_file_is_in_is_no_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    with pytest.raises(DataError, match=f"encoding = '{encoding}' is not known; usual ones are"):
        read_table(tmp_path / "a.txt", encoding=encoding)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_a_file_of_utf_8_is_in_no_wide_encoding(tmp_path: Path, encoding: str, suffix: str) -> None:
    path = tmp_path / f"a.csv{suffix}"
    with (gzip.open if suffix else open)(path, "wb") as file:
        file.write("text,label\ngrün,x\n".encode() * 400)
    with pytest.raises(DataError, match=rf"a\.csv{suffix} is not in {encoding}: it is UTF-8"):
        read_table(path, encoding=encoding)
    with (gzip.open if suffix else open)(path, "wb") as file:
        file.write("text,label\ngrün,x\n".encode(encoding))
    assert fields_of(path, encoding=encoding) == [{"text": "grün", "label": "x"}]


def test_a_wide_file_without_its_mark_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("eins\n".encode("utf-16-be"))
    with pytest.raises(DataError, match=r"a\.txt is not in utf-16 \(UTF-16 stream does not start with BOM\)"):
        read_table(tmp_path / "a.txt", encoding="utf-16")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_first_line_tells_what_separates_the_cells(tmp_path: Path, separator: str) -> None:
    lines = [["text", "label"], ['"1,5; a | b"', "x"]]
    (tmp_path / "a.csv").write_text("".join(separator.join(cells) + "\n" for cells in lines), encoding="utf-8")
    assert fields_of(tmp_path / "a.csv") == [{"text": "1,5; a | b", "label": "x"}]


def test_a_cell_of_ten_megabytes_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text,label\n{'word ' * 2_000_000},x\nshort,y\n", encoding="utf-8")
    first, second = fields_of(tmp_path / "a.csv")
    assert (
        isinstance(first, dict) and len(str(first["text"])) == 10_000_000 and second == {"text": "short", "label": "y"}
    )

import bz2
import errno
import gzip
import io
import lzma
from pathlib import Path

import pytest

from t5kit.errors import DataError
from t5kit.sources import BadRecord, Record, read_records, text_field
from t5kit.sources.lines import BadRecord as LineBadRecord
from t5kit.sources.lines import read_lines


def fields(path: Path, **arguments: object) -> list[object]:
    """Fields of good records, errors of bad ones."""
    return [r.fields if isinstance(r, Record) else r.error for r in read_records(path, **arguments)]


def test_text_keeps_blank_lines_and_drops_mark_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\ntwo")
    assert fields(path) == [{"text": "one"}, {"text": ""}, {"text": "two"}]


def test_a_bad_line_keeps_its_place_and_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n\xff\n[1]\n"text"\n\n' + b"[" * 100_000 + b'\n{"b": "x"}\n')
    records = list(read_records(path))
    assert [isinstance(r, BadRecord) for r in records] == [False, True, True, True, False, True, False]
    assert [r.place for r in records] == [f"{path}:{n}" for n in (1, 2, 3, 4, 5, 7, 8)]
    assert "not UTF-8 (byte 0xff at column 1)" in records[2].error


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_compressed_files_read_like_plain_ones(tmp_path: Path, suffix: str, compress: object) -> None:
    path = tmp_path / f"a.tsv{suffix}"
    path.write_bytes(compress("über\tb\n1\t2\n".encode()))
    assert fields(path) == [{"0": "über", "1": "b"}, {"0": "1", "1": "2"}]
    assert fields(path, has_header=True) == [{"über": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_a_cut_compressed_file_gives_what_it_can_and_one_bad_record(
    tmp_path: Path, suffix: str, compress: object
) -> None:
    path = tmp_path / f"a.txt{suffix}"
    whole = compress("\n".join(f"line {hash((n, n))}" for n in range(20_000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    records = list(read_records(path))
    assert isinstance(records[-1], BadRecord)
    assert "damaged" in records[-1].error
    assert all(isinstance(r, Record) for r in records[:-1])


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_a_compressed_file_damaged_within_gives_what_it_can_and_one_bad_record(
    tmp_path: Path, suffix: str, compress: object
) -> None:
    path = tmp_path / f"a.txt{suffix}"
    lines = [f"line {n * n * 2_654_435_761 % 2**32}" for n in range(200_000)]
    whole = bytearray(compress("\n".join(lines).encode()))
    middle = len(whole) // 2
    whole[middle : middle + 20] = bytes(byte ^ 0xFF for byte in whole[middle : middle + 20])
    path.write_bytes(whole)
    *records, last = read_records(path)
    assert isinstance(last, BadRecord) and "the compressed file is damaged from here on" in last.error
    assert len(records) > 10_000
    sound = records[:10_000]  # xz and gzip may have read on a little way into the damage
    assert [r.fields["text"] for r in sound if isinstance(r, Record)] == lines[:10_000]


def test_an_error_of_the_disk_is_not_taken_for_damage() -> None:
    class Failing(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        list(read_lines(Failing(), "a.txt.bz2"))


def test_csv_cells_may_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"a, ""b""\nc"\n\n2,d\n', encoding="utf-8", newline="")
    records = list(read_records(path))
    assert [r.fields for r in records] == [{"id": "1", "text": 'a, "b"\nc'}, {"id": "2", "text": "d"}]
    assert [r.place for r in records] == [f"{path}:2", f"{path}:5"]


@pytest.mark.parametrize(
    "text",
    [
        "\n  \ntext;label\na,b;1\n",
        "sep=;\ntext;label\na,b;1\n",
        '"sep=;"\r\ntext;label\r\na,b;1\r\n',
        '"text";"label"\na,b;1\n',
    ],
)
def test_a_csv_file_says_its_separator(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    [record] = read_records(tmp_path / "a.csv")
    assert record.fields == {"text": "a,b", "label": "1"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"text, raw";label\nx;1\n', ["text, raw", "label"]),
        ('label;"text, ""raw"""\n1;x\n', ["label", 'text, "raw"']),
        ('5" wide,6" long\nx,1\n', ['5" wide', '6" long']),
    ],
)
def test_a_separator_within_a_quoted_name_is_none(tmp_path: Path, text: str, names: list[str]) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    [record] = read_records(tmp_path / "a.csv")
    assert list(record.fields) == names  # type: ignore[union-attr]


def test_bad_csv_rows_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1\n"2"x,y\n\xff,z\n3,ok\n4,"open\n')
    found = fields(path)
    assert found[0].startswith(f"{path}:2: has 1 cells, expected 2")
    assert f"{path}:3: not valid CSV" in found[1]
    assert f"{path}:4: not UTF-8" in found[2]
    assert found[3] == {"id": "3", "text": "ok"}
    assert f"{path}:6: not valid CSV" in found[4]


def test_a_quote_that_is_never_closed_is_told_with_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"open\n2,b\n3,c\n', encoding="utf-8")
    (error,) = fields(path)
    assert error == f"{path}:2: not valid CSV (a quoted cell begins here and never ends; lines lost after it: 2)."


def test_a_column_that_the_header_names_twice_is_told_and_taken_from_neither_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\ta\n1\t2\t3\n", encoding="utf-8")
    told, record = fields(path, has_header=True)
    assert told == f"{path}:1: the header names a column twice ('a'), which is left out. Rename one of the two."
    assert record == {"b": "2"}


def test_columns_without_a_name_are_no_doubled_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;label;;\na;b;;\n", encoding="utf-8")  # as spreadsheets write cells that were once touched
    assert fields(path) == [{"text": "a", "label": "b"}]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_columns_without_a_header_have_the_names_that_are_given(tmp_path: Path, name: str) -> None:
    separator = "," if name.endswith("csv") else "\t"
    (tmp_path / name).write_text(f"1{separator}x\n2{separator}y\n3\n")
    first, second, short = fields(tmp_path / name, columns=["", "text"])
    assert first["text"] == "x" and second == {"": "2", "text": "y"}
    assert f"{name}:3: has 1 cells, expected 2" in short
    for columns in (["a", "a"], [""], "ab"):
        with pytest.raises(DataError, match="must be a list of names, each there once"):
            fields(tmp_path / name, columns=columns)


def test_columns_and_encodings_are_refused_where_a_format_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"x"\n')
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.jsonl: columns \(text\) are names for CSV and TSV without a header"):
        fields(tmp_path / "a.jsonl", columns=["text"])
    with pytest.raises(DataError, match="Parquet says its encoding itself"):
        fields(tmp_path / "a.parquet", encoding="cp1252")


def test_a_broken_json_line_is_told_with_one_line_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b\n', encoding="utf-8")
    error = str(fields(path)[1])
    assert error == f"{path}:2: not valid JSON (Unterminated string starting at: column 10)."
    assert "line 1" not in error


def test_a_folder_or_a_missing_file_is_told_before_its_ending(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it is a folder\)\. Name a file in it"):
        list(read_records(tmp_path))
    with pytest.raises(DataError, match="there is no such file"):
        list(read_records(tmp_path / "a.doc"))
    with pytest.raises(DataError, match="File name too long"):
        list(read_records(tmp_path / ("x" * 300 + ".txt")))


def test_an_endless_line_is_a_bad_record_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5kit.sources.lines.MAX_LINE_BYTES", 10)
    found = list(read_lines(io.BytesIO(b"short\n" + b"x" * 35 + b"\nnext\n"), "f"))
    assert [isinstance(line, LineBadRecord) for line in found] == [False, True, False]
    assert (found[2].text, found[2].place) == ("next", "f:3")


def test_unknown_names_and_missing_files_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match="cannot tell its format"):
        list(read_records(tmp_path / "a.doc"))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_records(tmp_path / "a.txt"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="Parquet"):
        list(read_records(tmp_path / "b.parquet"))


def test_parquet_rows_come_by_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [f"t{n}" for n in range(3000)], "tags": [["a", "b"]] * 3000}), path)
    records = list(read_records(path))
    assert len(records) == 3000
    assert records[2999] == Record(fields={"text": "t2999", "tags": ["a", "b"]}, place=f"{path}:3000")


def test_text_field_tells_what_is_there_instead() -> None:
    record = Record(fields={"a": "x", "n": 1}, place="f:1")
    assert text_field(record, "a") == "x"
    assert "it has: a, n" in text_field(record, "b").error
    assert "is int, expected text" in text_field(record, "n").error

"""Readers keep every line in its place, the bad ones too."""

from pathlib import Path

import pytest

from t5kit.errors import DataError
from t5kit.sources import BadRecord, Record, read_records


def read(path: Path, content: bytes, **options: str) -> list[Record | BadRecord]:
    path.write_bytes(content)
    return list(read_records(path, **options))  # type: ignore[arg-type]


def test_text_lines_keep_their_order_and_blank_ones_count(tmp_path: Path) -> None:
    records = read(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\ntwo\x00\tthree")
    assert [record.fields["text"] for record in records if isinstance(record, Record)] == ["one", "", "two\x00\tthree"]
    assert records[2].place.endswith("a.txt:3")


def test_tsv_columns_are_numbered(tmp_path: Path) -> None:
    (record,) = read(tmp_path / "a.tsv", b"left\tright\n")
    assert isinstance(record, Record) and record.fields == {"0": "left", "1": "right"}


def test_bad_json_lines_keep_their_place(tmp_path: Path) -> None:
    records = read(tmp_path / "a.jsonl", b'{"text": "a"}\n{oops\n\n"b"\n[1]\n' + b"[" * 100_000 + b"\n")
    assert [isinstance(record, BadRecord) for record in records] == [False, True, False, True, True]
    assert isinstance(records[1], BadRecord) and "a.jsonl:2" in records[1].error


def test_bytes_that_are_not_utf8_are_one_bad_record(tmp_path: Path) -> None:
    records = read(tmp_path / "a.txt", b"good\nb\xffd\ngood\n")
    assert [isinstance(record, BadRecord) for record in records] == [False, True, False]
    assert isinstance(records[1], BadRecord) and "column 2" in records[1].error


def test_an_unknown_ending_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--format"):
        read(tmp_path / "a.bin", b"x\n")
    assert len(read(tmp_path / "a.bin", b"x\n", format="text")) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.xlsx", "a spreadsheet is not read. Save it as CSV"), ("a.ods", "Save it as CSV"), ("a.json", "one a line")],
)
def test_files_that_people_bring_are_told_what_to_become(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_text('[{"a": 1}]', encoding="utf-8")
    with pytest.raises(DataError, match=said):
        list(read_records(tmp_path / name))
    (array,) = read_records(tmp_path / name, format="jsonl")
    assert isinstance(array, BadRecord) and "an array, whose elements belong on lines of their own" in array.error


def test_csv_with_the_line_ends_of_old_macs_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\rfine,yes\rdull,no\r")
    bad = [record for record in read_records(tmp_path / "a.csv") if isinstance(record, BadRecord)]
    assert bad and "its lines end in CR alone" in bad[0].error


def test_a_missing_file_and_a_folder_are_clear(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            list(read_records(path, format="text"))

import zlib
from pathlib import Path

import pytest

from t5kit.errors import DataError
from t5kit.sources import BadRecord, MemoryTable, ReadReport, find_files, read_table, stream_files, table_of
from t5kit.sources.tables import table_checksum


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("b1\nb2\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a1"}\nnot json\n')
    (tmp_path / "deep" / "c.txt").write_text("c1\n")
    (tmp_path / "notes.doc").write_text("x")
    (tmp_path / ".hidden.txt").write_text("h")
    return tmp_path


def test_folders_globs_and_names_give_each_file_once_in_a_fixed_order(folder: Path) -> None:
    names = [file.name for file in find_files([folder / "b.txt", folder, f"{folder}/**/*.txt"])]
    assert names == ["b.txt", "a.jsonl", "c.txt"]
    assert [file.name for file in find_files(f"{folder}/*.txt")] == ["b.txt"]
    with pytest.raises(DataError, match=r"no\.txt"):
        find_files(folder / "no.txt")


def test_only_what_is_not_there_by_its_name_is_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("d[1]x/a.tsv", "d[1]x/ab[c].tsv", "d[1]x/inner[?]/a.tsv", "d1x/a.tsv", "d2x/a.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), tmp_path):
        assert find_files(folder / "d[1]x" / "a*.tsv") == [folder / "d[1]x/a.tsv", folder / "d[1]x/ab[c].tsv"]
        assert find_files(folder / "d[1]x" / "**" / "a.tsv") == [
            folder / "d[1]x/a.tsv",
            folder / "d[1]x/inner[?]/a.tsv",
        ]
        assert find_files(folder / "d[1]x" / "ab[c].tsv") == [folder / "d[1]x/ab[c].tsv"]
        assert find_files(folder / "d[12]x" / "*.tsv") == [folder / "d1x/a.tsv", folder / "d2x/a.tsv"]
        with pytest.raises(DataError, match=r"d\[1\]x/no\*\.tsv: there is no such file"):
            find_files(folder / "d[1]x" / "no*.tsv")


def test_a_table_reports_every_bad_record(folder: Path) -> None:
    table = read_table(folder)
    assert [record.fields["text"] for record in map(table.__getitem__, range(len(table)))] == ["a1", "b1", "b2", "c1"]
    assert (table.report.num_records, table.report.num_bad) == (4, 1)
    assert table.report.bad[0].place.endswith("a.jsonl:2")
    assert "4 records from 3 file(s), 1 bad" in str(table.report)


def test_many_bad_records_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n" + "x\n" * 100)
    report = read_table(tmp_path / "a.jsonl").report
    assert (report.num_bad, len(report.bad)) == (100, 20)
    assert "80 more" in str(report)


def test_nothing_good_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1"):
        read_table(tmp_path / "a.jsonl")
    with pytest.raises(DataError):
        table_of([])


def test_python_rows_are_a_table() -> None:
    table = table_of(["a", {"source": "b"}])
    assert (table[0].fields, table[1].fields, table[1].place) == ({"text": "a"}, {"source": "b"}, "record:2")


def test_hugging_face_datasets_by_number_and_as_a_stream(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from t5kit.sources.hugging_face import dataset_stream, dataset_table

    rows = [{"text": f"t{n}", "n": n} for n in range(5)]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    table = dataset_table(str(tmp_path / "saved"), split="train")
    assert (len(table), table[3].fields, table[3].place) == (5, rows[3], f"{tmp_path}/saved/train:4")
    stream = dataset_stream(str(tmp_path / "saved"), split="train")
    assert [record.fields for record in stream] == rows
    with pytest.raises(DataError, match="no-such"):
        dataset_table(str(tmp_path / "saved"), split="no-such")
    for opened in (dataset_table, dataset_stream):
        with pytest.raises(DataError, match=r"has no split 'training'; it has: train\. Did you mean 'train'\?"):
            opened(str(tmp_path / "saved"), split="training")


def test_files_as_a_stream_give_the_tables_records_and_the_bad_ones_in_order(folder: Path) -> None:
    stream = stream_files(folder)
    for _ in range(2):
        found = list(stream)
        assert [record.place.removeprefix(f"{folder}/") for record in found] == [
            "a.jsonl:1",
            "a.jsonl:2",
            "b.txt:1",
            "b.txt:2",
            "deep/c.txt:1",
        ]
        assert [isinstance(record, BadRecord) for record in found] == [False, True, False, False, False]


def test_a_stream_of_unknown_format_is_refused_before_it_is_read(folder: Path) -> None:
    with pytest.raises(DataError, match=r"notes\.doc: cannot tell its format"):
        stream_files(folder / "notes.doc")
    assert [record.fields for record in stream_files(folder / "notes.doc", format="text")] == [{"text": "x"}]
    with pytest.raises(DataError, match=r"no-such"):
        stream_files(folder / "no-such*.txt")


def test_a_dataset_stream_that_breaks_off_says_so_and_does_not_end() -> None:
    from t5kit.sources.hugging_face import DatasetStream

    class Rows:
        def __iter__(self) -> object:
            yield {"text": "a"}
            raise ConnectionResetError("peer went away")

    stream = iter(DatasetStream(Rows(), "corpus/train"))
    assert next(stream).fields == {"text": "a"}
    with pytest.raises(
        DataError, match=r"corpus/train broke off after 1 records \(ConnectionResetError: peer went away"
    ):
        next(stream)


def test_a_table_s_checksum_sees_its_length_its_ends_and_most_changes() -> None:
    rows = [{"a": str(n)} for n in range(40_000)]
    checksum = table_checksum(table_of(rows))
    assert checksum == table_checksum(table_of([dict(row) for row in rows], name="elsewhere"))
    others = [rows[:-1], [{"a": "x"}, *rows[1:]], [*rows[:-1], {"a": "x"}], rows[::-1], [*rows[1:], rows[0]]]
    assert checksum not in [table_checksum(table_of(other)) for other in others]
    assert table_checksum(MemoryTable((), ReadReport(0, 0, (), {}))) == zlib.crc32(b"0")

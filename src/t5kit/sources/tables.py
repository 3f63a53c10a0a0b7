"""Sources with random access, which shuffling and exact resume need, and streams, which go forward only."""

import dataclasses
import glob
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from t5kit.errors import DataError
from t5kit.sources.record import BadRecord, Record
from t5kit.sources.records import Format, format_of, read_records

NUM_SHOWN = 20
"""Bad records that a report keeps word for word; all are counted."""
NUM_IN_CHECKSUM = 16_384
"""Records that a table's checksum looks at; of more, so many at even distances and the last one."""


class RecordTable(Protocol):
    """Records by number. The same number always gives the same record."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...


class RecordStream(Protocol):
    """Records in the order they come, from the start at every call."""

    def __iter__(self) -> Iterator[Record | BadRecord]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class ReadReport:
    """What reading found: nothing is dropped without standing here."""

    num_records: int
    num_bad: int
    bad: tuple[BadRecord, ...]
    """The first of them."""
    num_by_file: Mapping[str, int]
    """Good records of every file, 0 included."""

    def __str__(self) -> str:
        lines = [f"{self.num_records:,} records from {len(self.num_by_file)} file(s), {self.num_bad:,} bad"]
        lines += [f"  {bad.error}" for bad in self.bad]
        if self.num_bad > len(self.bad):
            lines.append(f"  … and {self.num_bad - len(self.bad):,} more")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class MemoryTable:
    """Records held in memory, with the report of how they were read."""

    records: Sequence[Record]
    report: ReadReport

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


@dataclasses.dataclass(frozen=True, slots=True)
class FileStream:
    """The records of files one after another, read anew at every pass; nothing is held in memory."""

    files: Sequence[Path]
    format: Format | None = None
    has_header: bool | None = None

    def __iter__(self) -> Iterator[Record | BadRecord]:
        for file in self.files:
            yield from read_records(file, format=self.format, has_header=self.has_header)


def find_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that names, globs ("data/*.jsonl.gz", "**" too) and folders stand for, each once.

    The order is that of the arguments; within a glob or a folder it is by name, so it is the same on every machine. A
    folder stands for all files below it whose name tells a known format; hidden ones are left out. What is there by the
    very name is no pattern: "d[1]/*.tsv" stands for files in "d[1]" if there is such a folder.
    Raises: DataError if an argument stands for nothing.
    """
    named = [paths] if isinstance(paths, str | Path) else paths
    files: dict[Path, None] = {}
    for name in named:
        path = Path(name)
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*")) if _is_visible(file, path) and format_of(file)]
        elif path.exists():
            found = [path]
        else:
            found = sorted(_matches(path))
        if not found:
            raise DataError(f"{name}: there is no such file, and as a folder or pattern it holds no readable file.")
        files.update(dict.fromkeys(found))
    return list(files)


def read_table(
    paths: str | Path | Sequence[str | Path],
    *,
    format: Format | None = None,
    has_header: bool | None = None,
    columns: Sequence[str] = (),
    encoding: str | None = None,
) -> MemoryTable:
    """Read all records of files, globs and folders into memory; the bad ones are in the table's report.

    The other words are those of `read_records`.
    Raises: DataError if a file cannot be opened or there is no good record at all.
    """
    records: list[Record] = []
    bad: list[BadRecord] = []
    num_bad = 0
    num_by_file: dict[str, int] = {}
    for file in find_files(paths):
        before = len(records)
        for record in read_records(file, format=format, has_header=has_header, columns=columns, encoding=encoding):
            if isinstance(record, Record):
                records.append(record)
            else:
                num_bad += 1
                bad += [record] * (len(bad) < NUM_SHOWN)
        num_by_file[str(file)] = len(records) - before
    report = ReadReport(len(records), num_bad, tuple(bad), num_by_file)
    if not records:
        names = ", ".join(list(num_by_file)[:5])
        empty = "" if num_bad else f"; {names}: empty, or a header and nothing else"
        raise DataError(f"no record could be read: {report}{empty}")
    return MemoryTable(records, report)


def stream_files(
    paths: str | Path | Sequence[str | Path], *, format: Format | None = None, has_header: bool | None = None
) -> FileStream:
    """Return files, globs and folders as a stream, for text that does not fit into memory.

    Raises: DataError if an argument stands for nothing, or a file's format can be told neither from its name nor from
    `format`; a file that cannot be opened raises when the stream comes to it.
    """
    files = find_files(paths)
    for file in files:
        if format is None and format_of(file) is None:
            raise DataError(
                f"{file}: cannot tell its format from the name; give format= text, tsv, csv, jsonl or parquet."
            )
    return FileStream(files, format, has_header)


def table_of(rows: Iterable[Mapping[str, object] | str], *, name: str = "record") -> MemoryTable:
    """Return a table of Python rows: mappings of fields, or bare texts as {"text": …}.

    Raises: DataError if there are none.
    """
    records = [
        Record(fields={"text": row} if isinstance(row, str) else row, place=f"{name}:{number}")
        for number, row in enumerate(rows, 1)
    ]
    if not records:
        raise DataError(f"{name}: there are no rows.")
    return MemoryTable(records, ReadReport(len(records), 0, (), {name: len(records)}))


def table_checksum(table: RecordTable) -> int:
    """Return a CRC-32 over a table's number of records and the fields of some of them, at most about 0.1 s of work.

    Tables that differ in it differ; one record among many that changed may go unseen.
    """
    step = max(1, len(table) // NUM_IN_CHECKSUM)
    checksum = zlib.crc32(str(len(table)).encode())
    for index in range(0, len(table), step):
        checksum = record_checksum(table[index], checksum)
    return record_checksum(table[len(table) - 1], checksum) if len(table) else checksum


def record_checksum(record: Record, checksum: int) -> int:
    """Return the CRC-32 of all before, gone on with a record's fields."""
    return zlib.crc32(repr(dict(record.fields)).encode("utf-8", "backslashreplace"), checksum)


def _matches(pattern: Path) -> Iterator[Path]:
    """Yield the files that a pattern stands for."""
    folder = next((parent for parent in pattern.parents if parent.is_dir()), Path())
    escaped = Path(glob.escape(str(folder))) / pattern.relative_to(folder)
    for match in glob.iglob(str(escaped), recursive=True):  # noqa: PTH207
        if (file := Path(match)).is_file():
            yield file


def _is_visible(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)

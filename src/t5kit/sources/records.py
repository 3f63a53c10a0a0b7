"""Files of every known format as records; a line that cannot be read becomes a BadRecord and never stops the rest."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from t5kit.errors import DataError
from t5kit.sources.delimited import read_csv, read_tsv
from t5kit.sources.lines import COMPRESSIONS, Line, open_lines, read_lines, standard_input
from t5kit.sources.parquet import read_parquet
from t5kit.sources.record import BadRecord, Record, text_field

__all__ = ["FORMATS_BY_SUFFIX", "BadRecord", "Format", "Record", "format_of", "read_records", "text_field"]

Format = Literal["text", "tsv", "csv", "jsonl", "parquet"]

FORMATS_BY_SUFFIX: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


_SPREADSHEET = "a spreadsheet is not read. Save it as CSV (UTF-8), and name that."
_NOT_READ = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), _SPREADSHEET),
    ".json": (
        "one JSON document is not read as records. Write its objects one a line and call the file .jsonl (jq -c '.[]' "
        "does), or say --format jsonl if they stand so already."
    ),
}
"""Ending of a file that people bring -> what to do with it."""


def format_of(path: Path) -> Format | None:
    """Return the format a file's name tells, compression aside: a.tsv.gz is tsv; None where it tells none."""
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return FORMATS_BY_SUFFIX.get(path.suffix.lower())


def header_hint(place: str) -> str:
    """Return what to do about a field that a record lacks, if its file's first line was taken for a header.

    place: file:line. In CSV with a header no record stands on line 1.
    """
    name, _, line = place.rpartition(":")
    if format_of(Path(name)) != "csv" or line == "1":
        return ""
    return " If the file has no header, name its columns: --columns text,label (columns=['text', 'label'] in Python)."


def read_records(
    path: str | Path,
    *,
    format: Format | None = None,
    has_header: bool | None = None,
    columns: Sequence[str] = (),
    encoding: str | None = None,
) -> Iterator[Record | BadRecord]:
    """Yield one Record or BadRecord for every line of a file, in order; "-" is standard input.

    The format follows from the name (.txt, .tsv, .csv, .jsonl, .parquet; the text ones also as .gz, .xz, .bz2) where
    none is given; standard input is text. Lines end in \\n or \\r\\n; a byte order mark is dropped. Blank lines are
    records of empty text, except in CSV and JSON lines, where they are skipped. CSV has a header and TSV has none
    unless `has_header` says otherwise. columns: the names of those of CSV or TSV without a header, "" for one that is
    not wanted. encoding: None: UTF-8, or UTF-16 where a named file's mark says so.
    Raises: DataError if the file cannot be opened or its format or encoding is unknown, and for columns or an encoding
    of a format that has none.
    """
    if columns:
        _check_columns(columns)
        has_header = False
    if str(path) == "-":
        if format == "parquet":
            raise DataError("Parquet cannot be read from standard input; name a file.")
        _check_has_columns("<stdin>", format or "text", columns)
        lines = read_lines(standard_input(encoding=encoding), "<stdin>")
        yield from _parse(lines, format or "text", has_header, columns)
        return
    path = Path(path)
    _check_is_file(path)  # before its name is found wanting
    chosen = format or format_of(path)
    if chosen is None and path.suffix.lower() in _NOT_READ:
        raise DataError(f"{path}: {_NOT_READ[path.suffix.lower()]}")
    if chosen is None:
        raise DataError(
            f"{path}: cannot tell its format from the name; expected one of {', '.join(FORMATS_BY_SUFFIX)}, "
            f"alone or with {', '.join(COMPRESSIONS)}. Name it with --format text, tsv, csv, jsonl or parquet."
        )
    _check_has_columns(path, chosen, columns)
    if chosen == "parquet":
        if encoding is not None:
            raise DataError(f"{path}: Parquet says its encoding itself. Drop encoding = {encoding!r}.")
        yield from read_parquet(path)
        return
    try:
        with open_lines(path, encoding=encoding) as file:
            yield from _parse(read_lines(file, str(path)), chosen, has_header, columns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _check_columns(columns: Sequence[str]) -> None:
    named = [name for name in columns if name]
    if isinstance(columns, str) or not named or len(set(named)) < len(named):
        raise DataError(f"columns = {columns!r} must be a list of names, each there once, such as input and target.")


def _check_has_columns(place: str | Path, format: Format, columns: Sequence[str]) -> None:
    if columns and format not in ("csv", "tsv"):
        raise DataError(
            f"{place}: columns ({', '.join(columns)}) are names for CSV and TSV without a header, and this is {format}."
            " Drop them, or say another format."
        )


def _check_is_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise DataError(f"{path}: cannot be read (it is a folder). Name a file in it.")
        if not path.exists():
            raise DataError(f"{path}: cannot be read (there is no such file).")
    except OSError as error:  # a folder above that may not be entered, a name too long
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _parse(
    lines: Iterable[Line | BadRecord], format: Format, has_header: bool | None, columns: Sequence[str]
) -> Iterator[Record | BadRecord]:
    if format == "tsv":
        return read_tsv(lines, has_header=bool(has_header), columns=columns)
    if format == "csv":
        return read_csv(lines, has_header=has_header is not False, columns=columns)
    return _parse_lines(lines, format)


def _parse_lines(lines: Iterable[Line | BadRecord], format: Format) -> Iterator[Record | BadRecord]:
    for line in lines:
        if isinstance(line, BadRecord):
            yield line
        elif format == "text":
            yield Record(fields={"text": line.text}, place=line.place)
        elif line.text.strip():
            yield _parse_json(line.text, line.place)


def _parse_json(line: str, place: str) -> Record | BadRecord:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        # The parser counts lines within its text, which is one line here: its "line 1" would contradict the place.
        found = f"{error.msg}: column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        return BadRecord(place=place, error=f"{place}: not valid JSON ({found}).")
    if isinstance(value, str):
        return Record(fields={"text": value}, place=place)
    if isinstance(value, dict):
        return Record(fields=value, place=place)
    kind = "an array, whose elements belong on lines of their own" if isinstance(value, list) else type(value).__name__
    return BadRecord(place=place, error=f"{place}: expected a JSON object or string on each line, got {kind}.")

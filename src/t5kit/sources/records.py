"""Text, TSV and JSON-lines files as records; a line that cannot be read becomes a BadRecord and never stops the
rest."""

import codecs
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal

from t5kit.errors import DataError

Format = Literal["text", "tsv", "jsonl"]

FORMATS_BY_SUFFIX: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One input: named text fields and where they came from."""

    fields: Mapping[str, object]
    """text: {"text": line}. tsv: {"0": first column, "1": …} or by header names. jsonl: the object as it stands."""
    place: str
    """file:line, for messages."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """A line that could not be read; it keeps its place in the order."""

    error: str
    place: str


def read_records(path: str | Path, *, format: Format | None = None) -> Iterator[Record | BadRecord]:
    """Yield one Record or BadRecord for every line of a file, in order; "-" is standard input.

    The format follows from the name (.txt, .tsv, .jsonl) where none is given; standard input is text. Lines end in \\n
    or \\r\\n; a byte order mark is dropped. Blank lines are records of empty text, except in JSON lines, where they
    are skipped. Raises: DataError if the file cannot be opened or its format is unknown.
    """
    if str(path) == "-":
        yield from _parse(sys.stdin.buffer, format or "text", "<stdin>")
        return
    path = Path(path)
    chosen = format or FORMATS_BY_SUFFIX.get(path.suffix.lower())
    if chosen is None:
        raise DataError(
            f"{path}: cannot tell its format from the name; expected one of "
            f"{', '.join(FORMATS_BY_SUFFIX)}. Name it with --format text, tsv or jsonl."
        )
    try:
        with path.open("rb") as file:
            yield from _parse(file, chosen, str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _parse(file: BinaryIO, format: Format, name: str) -> Iterator[Record | BadRecord]:
    for number, raw in enumerate(_lines(file), 1):
        place = f"{name}:{number}"
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            yield BadRecord(
                place=place, error=f"{place}: not UTF-8 (byte {raw[error.start]:#04x} at column {error.start + 1})."
            )
            continue
        if format == "text":
            yield Record(fields={"text": line}, place=place)
        elif format == "tsv":
            yield Record(fields={str(i): cell for i, cell in enumerate(line.split("\t"))}, place=place)
        elif line.strip():
            yield _parse_json(line, place)


def _lines(file: Iterable[bytes]) -> Iterator[bytes]:
    for number, raw in enumerate(file):
        if number == 0:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        yield raw.removesuffix(b"\n").removesuffix(b"\r")


def _parse_json(line: str, place: str) -> Record | BadRecord:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRecord(place=place, error=f"{place}: not valid JSON ({error}).")
    if isinstance(value, str):
        return Record(fields={"text": value}, place=place)
    if isinstance(value, dict):
        return Record(fields=value, place=place)
    return BadRecord(place=place, error=f"{place}: expected a JSON object or string, got {type(value).__name__}.")


def text_field(record: Record, field: str) -> str | BadRecord:
    """Return the text under `field`, or the BadRecord that says what is there instead."""
    if field not in record.fields:
        present = ", ".join(list(record.fields)[:8]) or "none"
        return BadRecord(place=record.place, error=f"{record.place}: has no field {field!r}; it has: {present}.")
    value = record.fields[field]
    if not isinstance(value, str):
        return BadRecord(
            place=record.place, error=f"{record.place}: field {field!r} is {type(value).__name__}, expected text."
        )
    return value

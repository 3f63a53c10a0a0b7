"""Record: what sources hand to tasks, one input with its named fields and its place."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One input: named text fields and where they came from."""

    fields: Mapping[str, object]
    """text: {"text": line}. csv, tsv: by names that the header or the reader's
    user gives, or {"0": first column, "1": …} without any.
    jsonl: the object as it stands. parquet: by column."""
    place: str
    """file:line (parquet: file:row), for messages."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """A line that could not be read; it keeps its place in the order."""

    error: str
    place: str


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

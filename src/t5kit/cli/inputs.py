"""What a verb reads: texts from arguments, a file or standard input, in chunks, bad lines kept in their place."""

import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast, get_args

from t5kit.cli.options import check_one_input
from t5kit.errors import DataError, RequestError
from t5kit.sources import BadRecord, Record, read_records
from t5kit.sources.lines import NOT_UTF_8
from t5kit.sources.records import Format, header_hint, text_field

Item = TypeVar("Item")

ENCODING_HINT = (
    "If all of the input is in another encoding, name it with --encoding, such as --encoding cp1252 (that of Windows "
    "in Western Europe)."
)
NUM_LOOKED_AT = 20
"""Records at the beginning of an input among which one must have the field asked for."""


def records_of(
    texts: list[str],
    input: Path | None,
    format: str | None,
    *,
    columns: Sequence[str] = (),
    encoding: str | None = None,
) -> Iterator[Record | BadRecord]:
    """Return the records a verb is to work on: its arguments ("-" is standard input), else --input, else what is piped
    in.

    columns, encoding: as `read_records` takes them.
    Raises: RequestError if there is nothing to read.
    """
    check_one_input(texts, input)
    if format is not None and format not in get_args(Format):
        raise RequestError(f"--format {format!r} must be one of: {', '.join(get_args(Format))}.")
    chosen = cast("Format | None", format)
    if "-" in texts and len(texts) > 1:
        raise RequestError(
            'The text "-" stands for standard input and cannot be one of several; as a text it may stand in a file.'
        )
    if texts and texts != ["-"]:
        return iter([Record(fields={"text": text}, place=f"argument {n}") for n, text in enumerate(texts, 1)])
    if input is None or str(input) == "-":
        stdin = cast("TextIO | None", sys.stdin)  # None if it was closed before we started
        if stdin is None or (input is None and not texts and stdin.isatty()):
            raise RequestError("There is no text: give one as an argument, a file with --input, or pipe it in.")
    source: str | Path = "-" if input is None else input
    return _telling_of_encodings(read_records(source, format=chosen, columns=columns, encoding=encoding))


def whole_input(encoding: str | None = None) -> str:
    """Return all that is piped in as one text, without its last line end.

    Raises: RequestError if nothing is piped in; DataError, naming the line, for what is no UTF-8.
    """
    lines: list[str] = []
    for record in records_of(["-"], None, "text", encoding=encoding):
        if isinstance(record, BadRecord):
            raise DataError(record.error)
        lines.append(str(record.fields["text"]))
    return "\n".join(lines)


def texts_of(records: Iterable[Record | BadRecord], field: str | None) -> Iterator[tuple[str, str | BadRecord]]:
    """Yield (place, text or what is wrong) for each record; field defaults to "text", or the first column of TSV.

    Raises: as `with_field`.
    """

    def name_in(record: Record) -> str:
        if field is not None:
            return field
        return "text" if "text" in record.fields or "0" not in record.fields else "0"

    for record in with_field(records, name_in, "--field"):
        if isinstance(record, BadRecord):
            yield record.place, record
        else:
            yield record.place, named_field(record, name_in(record), "--field")


def with_field(
    records: Iterable[Record | BadRecord], name_in: Callable[[Record], str], option: str
) -> Iterator[Record | BadRecord]:
    """Pass records on, unless none of the first ones has the field: then its name is wrong, and not those records.

    name_in: the name under which a record is to have it, which the option can change.
    Raises: RequestError naming the fields that the first record has.
    """
    iterator = iter(records)
    first: list[Record | BadRecord] = []
    lacking: Record | None = None
    for record in itertools.islice(iterator, NUM_LOOKED_AT):
        first.append(record)
        if isinstance(record, Record) and name_in(record) in record.fields:
            lacking = None
            break
        if isinstance(record, Record) and lacking is None:
            lacking = record
    if lacking is not None:
        found = named_field(lacking, name_in(lacking), option)
        assert isinstance(found, BadRecord)
        raise RequestError(found.error + header_hint(lacking.place))
    yield from first
    yield from iterator


def named_field(record: Record, name: str, option: str) -> str | BadRecord:
    """Return the text under a name that an option can change, or what is there instead, the option named."""
    found = text_field(record, name)
    if isinstance(found, BadRecord) and record.fields and name not in record.fields:
        return dataclasses.replace(found, error=f"{found.error} Name one with {option}.")
    return found


def _telling_of_encodings(records: Iterable[Record | BadRecord]) -> Iterator[Record | BadRecord]:
    """Pass records on; at the first that is not UTF-8 say once what to do about a whole file of them."""
    is_told = False
    for record in records:
        if isinstance(record, BadRecord) and NOT_UTF_8 in record.error and not is_told:
            is_told = True
            tell_of_encoding([record])
        yield record


def tell_of_encoding(records: Iterable[BadRecord]) -> None:
    """Say once on standard error what to do about a file in another encoding, if one of the records is not UTF-8."""
    if any(NOT_UTF_8 in record.error for record in records):
        print(f"t5kit: a line is not UTF-8. {ENCODING_HINT}", file=sys.stderr)


@contextlib.contextmanager
def encodings_told() -> Iterator[None]:
    """Add to a DataError about a line that is not UTF-8 what to do about a whole file of them."""
    try:
        yield
    except DataError as error:
        if NOT_UTF_8 not in str(error):
            raise
        raise DataError(f"{error} {ENCODING_HINT}") from error


def json_argument(option: str, argument: str) -> Any:
    """Return the JSON object or list that an option gives: itself, or the file that holds it.

    Raises: RequestError if it is neither.
    """
    is_json = argument.lstrip().startswith(("{", "["))
    if not is_json:
        try:
            argument = Path(argument).read_text(encoding="utf-8")
        except OSError as error:
            raise RequestError(f"{option} {argument!r:.200} cannot be read: {error.strerror}.") from error
        except ValueError as error:  # no UTF-8, or a NUL in the name
            raise RequestError(f"{option} {argument!r:.200} is no UTF-8 text file.") from error
    try:
        return json.loads(argument)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{option} is no JSON ({error}).") from error


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of at most `size` items, so that a file of any length is worked on in bounded memory."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk

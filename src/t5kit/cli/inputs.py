"""What a verb reads: texts from arguments, a file or standard input, in chunks, bad lines kept in their place."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast, get_args

from t5kit.cli.options import check_one_input
from t5kit.errors import RequestError
from t5kit.sources import BadRecord, Record, read_records
from t5kit.sources.records import Format, text_field

Item = TypeVar("Item")


def records_of(texts: list[str], input: Path | None, format: str | None) -> Iterator[Record | BadRecord]:
    """Return the records a verb is to work on: its arguments ("-" is standard input), else --input, else what is piped
    in.

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
    return read_records("-" if input is None else input, format=chosen)


def texts_of(records: Iterable[Record | BadRecord], field: str | None) -> Iterator[tuple[str, str | BadRecord]]:
    """Yield (place, text or what is wrong) for each record; field defaults to "text", or the first column of TSV."""
    for record in records:
        if isinstance(record, BadRecord):
            yield record.place, record
        else:
            name = (
                field if field is not None else ("text" if "text" in record.fields or "0" not in record.fields else "0")
            )
            yield record.place, text_field(record, name)


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

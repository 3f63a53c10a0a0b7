"""CSV and TSV lines -> records by column."""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from t5kit.sources.lines import MAX_LINE_BYTES, Line
from t5kit.sources.record import BadRecord, Record

SEPARATORS = (",", ";", "\t", "|")
"""What may stand between the cells of a CSV file; the first of them that is in its first line does, outside quotes."""

_SAID = re.compile(r'"?sep=([,;|\t])"?', re.IGNORECASE)
"""A first line by which Excel is told the separator."""
_QUOTED = re.compile(r'(?:^|(?<=[,;\t|]))"(?:[^"]|"")*(?:"|$)')

csv.field_size_limit(MAX_LINE_BYTES)  # Python's own limit, 128 KiB, is less than a book's chapter


def read_tsv(
    lines: Iterable[Line | BadRecord], *, has_header: bool, columns: Sequence[str] = ()
) -> Iterator[Record | BadRecord]:
    """Yield a record a line, cells apart by tabs, quotes and backslashes as they stand.

    columns: their names where no header tells them.
    """
    rows = (line if isinstance(line, BadRecord) else (line.text.split("\t"), line.place) for line in lines)
    return _by_column(rows, has_header=has_header, columns=columns)


def read_csv(
    lines: Iterable[Line | BadRecord], *, has_header: bool, columns: Sequence[str] = ()
) -> Iterator[Record | BadRecord]:
    """Yield a record a row, cells apart by commas; a quoted cell may hold commas, doubled quotes and line ends.

    Where the first line has no comma, a semicolon, a tab or a bar in it is the separator: spreadsheets write CSV so
    where the comma is the decimal point; "sep=;" before all may say it. Blank lines between rows are skipped. A
    record's place is its first line.
    columns: their names where no header tells them.
    """
    return _by_column(_csv_rows(lines), has_header=has_header, columns=columns)


def _csv_rows(lines: Iterable[Line | BadRecord]) -> Iterator[tuple[list[str], str] | BadRecord]:
    lines = iter(lines)
    first = next((line for line in lines if isinstance(line, BadRecord) or line.text.strip()), None)
    header = first.text if isinstance(first, Line) else ""
    if said := _SAID.fullmatch(header.strip(" \r")):
        separator = said[1]
    else:
        bare = _QUOTED.sub("", header)
        separator = next((mark for mark in SEPARATORS if mark in bare), ",")
        lines = itertools.chain([] if first is None else [first], lines)
    unread: list[BadRecord] = []  # bad lines met while the csv reader asked for more
    places: list[str] = []  # of the lines that went into the row being read

    def texts() -> Iterator[str]:
        for line in lines:
            if isinstance(line, BadRecord):
                unread.append(line)
            else:
                places.append(line.place)
                yield line.text + "\n"

    reader = csv.reader(texts(), delimiter=separator, strict=True)
    while True:
        places.clear()
        row: list[str] | BadRecord | None
        try:
            row = next(reader, None)
        except csv.Error as error:
            reason = str(error)
            if reason == "unexpected end of data":
                reason = f"a quoted cell begins here and never ends; lines lost after it: {len(places) - 1}"
            elif reason.startswith("new-line character seen in unquoted"):
                reason = "its lines end in CR alone; save it with line ends of LF or CR LF"
            row = BadRecord(place=places[0], error=f"{places[0]}: not valid CSV ({reason}).")
        yield from unread
        unread.clear()
        if row is None:
            return
        if isinstance(row, BadRecord):
            yield row
        elif row:
            yield row, places[0]


def _by_column(
    rows: Iterable[tuple[list[str], str] | BadRecord], *, has_header: bool, columns: Sequence[str]
) -> Iterator[Record | BadRecord]:
    names: Sequence[str] | None = columns or None
    twice: set[str] = set()
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
            continue
        cells, place = row
        if has_header and names is None:
            names = cells
            twice = {name for name in names if names.count(name) > 1}
            if named := sorted(twice - {""}):  # columns without a name nobody can mean; spreadsheets append such
                told = f"the header names a column twice ({', '.join(map(repr, named))}), which is left out"
                yield BadRecord(place=place, error=f"{place}: {told}. Rename one of the two.")
        elif names is None:
            yield Record(fields={str(i): cell for i, cell in enumerate(cells)}, place=place)
        elif len(cells) != len(names):
            yield BadRecord(
                place=place, error=f"{place}: has {len(cells)} cells, expected {len(names)} ({', '.join(names[:8])})."
            )
        else:
            fields = {name: cell for name, cell in zip(names, cells, strict=True) if name not in twice}
            yield Record(fields=fields, place=place)

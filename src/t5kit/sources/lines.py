"""Bytes -> decoded lines with their numbers, from plain and compressed files, whatever is wrong with some of them."""

import bz2
import codecs
import dataclasses
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from t5kit.errors import DataError
from t5kit.sources.record import BadRecord

COMPRESSIONS = (".gz", ".xz", ".bz2")
"""Suffixes of compressed files, behind the suffix of their format: corpus.txt.gz."""

_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

NOT_UTF_8 = "not UTF-8"
"""What the error of an undecodable line says."""
MAX_LINE_BYTES = 64 * 2**20
"""A longer line is a bad record: it is no text, or a compressed file made to fill the memory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One decoded line without its end."""

    text: str
    place: str


def open_lines(path: Path, *, encoding: str | None = None) -> BinaryIO:
    """Open a file of text for reading as UTF-8, decompressed by its suffix.

    encoding: Python's name of the one it is in; None: UTF-8, or UTF-16 where a plain file begins with that one's mark.
    Raises: DataError for an encoding that Python does not know, OSError.
    """
    if encoding is None:
        file = open_binary(path)
        is_utf_16 = isinstance(file, io.BufferedReader) and file.peek(2)[:2] in _UTF_16_MARKS
        return cast(BinaryIO, _Recoded(file, "utf-16")) if is_utf_16 else file
    is_utf_8 = _is_utf_8(encoding)  # before the file is opened: it says an unknown one
    file = open_binary(path)
    return file if is_utf_8 else cast(BinaryIO, _Recoded(file, encoding))


def standard_input(*, encoding: str | None = None) -> BinaryIO:
    """Return standard input for reading as UTF-8. encoding: Python's name of the one it is in; None: UTF-8.

    Raises: DataError for an encoding that Python does not know.
    """
    file = sys.stdin.buffer
    return file if encoding is None or _is_utf_8(encoding) else cast(BinaryIO, _Recoded(file, encoding))


def _is_utf_8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    except LookupError:
        raise DataError(
            f"encoding = {encoding!r} is not known; usual ones are utf-8, cp1252 (Windows, Western Europe), latin-1, "
            "utf-16 and cp1251 (Cyrillic)."
        ) from None


class _Recoded:
    """A file in another encoding, read as UTF-8 lines; bytes that it does not have are passed on, to be bad lines."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        errors = "replace" if encoding.lower().startswith(("utf-16", "utf16")) else "surrogateescape"
        self._text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="\n")

    def readline(self, size: int = -1) -> bytes:
        return self._text.readline(size).encode("utf-8", "surrogateescape")

    def __enter__(self) -> "_Recoded":
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed by its suffix. Raises: OSError."""
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(path, "rb"))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path, "rb"))
        case _:
            return path.open("rb")


def read_lines(file: BinaryIO, name: str) -> Iterator[Line | BadRecord]:
    """Yield every line of a UTF-8 file; \\n and \\r\\n end lines, a byte order mark is dropped.

    Undecodable and endless lines become BadRecords. Where compressed data is damaged, one BadRecord says so and the
    rest of the file is lost.
    Raises: OSError where the file cannot be read on.
    """
    number = 0
    while True:
        place = f"{name}:{number + 1}"
        try:
            raw = file.readline(MAX_LINE_BYTES + 1)
            if not raw:
                return
            if is_endless := len(raw) > MAX_LINE_BYTES:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE_BYTES)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk; gzip and bz2 call damage an OSError without a number
            yield BadRecord(place=place, error=f"{place}: the compressed file is damaged from here on ({error}).")
            return
        number += 1
        if is_endless:
            yield BadRecord(place=place, error=f"{place}: the line is longer than {MAX_LINE_BYTES >> 20} MiB.")
            continue
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield Line(raw.decode("utf-8"), place)
        except UnicodeDecodeError as error:
            yield BadRecord(
                place=place, error=f"{place}: {NOT_UTF_8} (byte {raw[error.start]:#04x} at column {error.start + 1})."
            )

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
_NO_FILE_IS_IN = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape")
"""Codecs that are for single names or for program texts."""
_USUAL = "utf-8, cp1252 (Windows, Western Europe), latin-1, utf-16 and cp1251 (Cyrillic)"
_OTHER_ENCODING = "Drop the encoding if the file is UTF-8, or name another one."
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
        return cast(BinaryIO, _Recoded(file, "utf-16", str(path))) if is_utf_16 else file
    is_utf_8 = _is_utf_8(encoding)  # before the file is opened: it says an unknown one
    file = open_binary(path)
    return file if is_utf_8 else _recoded(file, encoding, str(path))


def standard_input(*, encoding: str | None = None) -> BinaryIO:
    """Return standard input for reading as UTF-8. encoding: Python's name of the one it is in; None: UTF-8.

    Raises: DataError for an encoding that Python does not know.
    """
    file = sys.stdin.buffer
    return file if encoding is None or _is_utf_8(encoding) else _recoded(file, encoding, "standard input")


def _recoded(file: BinaryIO, encoding: str, name: str) -> BinaryIO:
    try:
        return cast(BinaryIO, _Recoded(file, encoding, name))
    except DataError:
        file.close()
        raise


def _is_utf_8(encoding: str) -> bool:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding)  # no codec of bytes, such as base64
        name = codecs.lookup(encoding).name
        if name in _NO_FILE_IS_IN:
            raise LookupError(name)
        return name in ("utf-8", "utf-8-sig", "ascii")
    except LookupError:
        raise DataError(f"encoding = {encoding!r} is not known; usual ones are {_USUAL}.") from None


class _Recoded:
    """A file in another encoding, read as UTF-8 lines; bytes that it does not have are passed on, to be bad lines."""

    def __init__(self, file: BinaryIO, encoding: str, name: str) -> None:
        self._encoding, self._name = encoding, name
        is_wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
        if is_wide:
            _check_wide(file, encoding, name)
        errors = "replace" if is_wide else "surrogateescape"
        self._text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="\n")

    def readline(self, size: int = -1) -> bytes:
        try:
            return self._text.readline(size).encode("utf-8", "surrogateescape")
        except UnicodeError as error:  # such as the mark that UTF-16 begins with
            raise DataError(f"{self._name} is not in {self._encoding} ({error}). {_OTHER_ENCODING}") from error

    def __enter__(self) -> "_Recoded":
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()


def _check_wide(file: BinaryIO, encoding: str, name: str) -> None:
    """Raise DataError for a file of UTF-8: as letters of two or four bytes it would be other letters, not damage."""
    try:
        beginning = cast(io.BufferedReader, file).peek(4096)[:4096]
    except (OSError, EOFError, zlib.error, lzma.LZMAError):  # damaged: whoever reads on says so
        return
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)  # its last letter may be cut
    except UnicodeDecodeError:
        return
    if (b"\n" in beginning or b" " in beginning) and b"\0" not in beginning:  # which the wide ones write with one
        raise DataError(f"{name} is not in {encoding}: it is UTF-8 (or ASCII). {_OTHER_ENCODING}")


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

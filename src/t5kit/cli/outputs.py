"""Where a verb writes: standard output or a file that appears whole, and a progress line on standard error."""

import contextlib
import json
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from t5kit.errors import EngineError, RequestError

PROGRESS_AFTER_S = 2.0
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_NUMBERED_TEXT = re.compile(r"^Text \d+ (?=\w)")


class Output:
    """A stream that answers are written to; an OSError of a write carries the name of the file that the user gave."""

    def __init__(self, stream: IO[Any], name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, data: str | bytes) -> None:
        """Write text (or bytes, to a binary stream)."""
        with _naming(self._name):
            self._stream.write(data)

    def flush(self) -> None:
        """Hand everything written to the system."""
        with _naming(self._name):
            self._stream.flush()

    def close(self) -> None:
        """Write what is left and close."""
        with _naming(self._name):
            self._stream.close()


@contextlib.contextmanager
def open_output(path: Path | None, *, is_binary: bool = False) -> Iterator[Output]:
    """Give a text (or binary) stream: standard output, or a file that appears only when everything was written.

    A symbolic link stays, and the file it points to is replaced. What exists and is no regular file (a device, a named
    pipe) is written to directly.
    Raises: RequestError if `path` is a folder or lies in none.
    """
    if path is None:
        output = Output(sys.stdout, "standard output")
        yield output
        output.flush()
        return
    if path.is_dir():  # "" too: Path("") is "."
        raise RequestError(f"--output {str(path)!r} is a folder; name a file to write.")
    if path.exists() and not path.is_file():
        with contextlib.closing(_opened(path, "w", path, is_binary=is_binary)) as output:
            yield output
        return
    try:
        target = path.resolve()
    except RuntimeError as error:
        raise RequestError(f"--output {path} is a symbolic link that leads to itself.") from error
    if not target.parent.is_dir():
        raise RequestError(f"{path}: its folder {target.parent} does not exist. Create it first.")
    partial = target.with_name(f".t5kit-{secrets.token_hex(8)}.partial")
    output = _opened(partial, "x", path, is_binary=is_binary)
    try:
        with contextlib.closing(output):
            yield output
        with _naming(str(path)):
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: Path, option: str) -> None:
    """Raise RequestError now if a file that comes at the end of the work cannot be put there."""
    if path.is_dir():
        raise RequestError(f"{option} {str(path)!r} is a folder; name a file to write.")
    if not path.parent.is_dir():
        raise RequestError(f"{option} {path}: its folder {path.parent} does not exist. Create it first.")


def _opened(path: Path, mode: str, name: Path, *, is_binary: bool) -> Output:
    with _naming(str(name)):
        stream = path.open(f"{mode}b") if is_binary else path.open(mode, encoding="utf-8", newline="\n")
    return Output(stream, str(name))


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = name
        raise


def without_line_breaks(text: str) -> str:
    """Return text fit for a line of a list of answers: line breaks become spaces."""
    return _LINE_BREAK.sub(" ", text)


def tell_of_line_breaks(warned: set[str]) -> None:
    """Say once, on standard error, that line breaks became spaces. warned: what was said before; added to."""
    if "line break" not in warned:
        warned.add("line break")
        print("t5kit: an answer holds line breaks; they are written as spaces. --json keeps them.", file=sys.stderr)


def one_line(text: str, warned: set[str]) -> str:
    """Return text without line breaks, said once on standard error."""
    line = without_line_breaks(text)
    if line != text:
        tell_of_line_breaks(warned)
    return line


def json_line(value: object) -> str:
    """Return one JSON line; every character that UTF-8 can carry is written as it is.

    Raises: EngineError for NaN and infinities, which JSON does not have and no sound model gives.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise EngineError(
            "The result holds a number that is not finite; the model's weights may be damaged."
        ) from error


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output is; None for a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def at_place(place: str, error: object) -> str:
    """Return what is wrong with the text at `place`; the position in a batch, which an error may begin with, goes."""
    return f"{place}: {_NUMBERED_TEXT.sub('the text ', str(error))}"


@contextlib.contextmanager
def progress(what: str) -> Iterator["ProgressCount"]:
    """Give a counter whose line shows on standard error after two seconds, if that is a terminal."""
    count = ProgressCount(what)
    try:
        yield count
    finally:
        count.stop()


class ProgressCount:
    """Counts texts done; see `progress`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._done = 0
        self._started = time.monotonic()
        self._bar: Progress | None = None

    def advance(self, number: int) -> None:
        """Add `number` finished texts."""
        self._done += number
        if self._bar is None and sys.stderr.isatty() and time.monotonic() - self._started > PROGRESS_AFTER_S:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task(self._what, total=None)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def stop(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.stop()

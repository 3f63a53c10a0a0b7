"""Where a verb writes: standard output or a file that appears whole, and a progress line on standard error."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from t5kit.errors import RequestError

PROGRESS_AFTER_S = 2.0


@contextlib.contextmanager
def open_output(path: Path | None, *, is_binary: bool = False) -> Iterator[IO[Any]]:
    """Give a text (or binary) stream: standard output, or a file renamed into place only when everything was
    written."""
    if path is None:
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="surrogatepass")
        yield sys.stdout
        sys.stdout.flush()
        return
    partial = path.with_name(f".{path.name}.partial")
    if not path.parent.is_dir():
        raise RequestError(f"{path}: its folder {path.parent} does not exist. Create it first.")
    try:
        with partial.open("wb") if is_binary else partial.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def one_line(text: str, warned: set[str]) -> str:
    """Return text fit for a line of a list of answers: line breaks become spaces, said once on standard error."""
    if "\n" not in text and "\r" not in text:
        return text
    if "line break" not in warned:
        warned.add("line break")
        print("t5kit: an answer holds line breaks; they are written as spaces. --json keeps them.", file=sys.stderr)
    return " ".join(text.splitlines())


def json_line(value: object) -> str:
    """Return one JSON line; every character that UTF-8 can carry is written as it is."""
    return json.dumps(value, ensure_ascii=False) + "\n"


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

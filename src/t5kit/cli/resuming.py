"""Long outputs that survive being stopped: lines go to a file beside the output, which takes its name when it is whole.

Beside it stands a note of what was asked, so that a run goes on only where it was about the same thing.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from t5kit.cli.outputs import Output
from t5kit.errors import RequestError

_BLOCK_BYTES = 1 << 20


def file_stamp(path: Path) -> list[Any]:
    """Return what tells that a file is still the same: its full name, size and time of change."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def open_resumable(path: Path, asked: dict[str, Any], *, lines_per_record: int) -> Iterator[tuple[Output, int]]:
    """Give a text stream to go on writing `path` with, and how many records stand there already.

    A record is `lines_per_record` lines; what a stopped run left of an incomplete one is cut off. If the block fails or
    is interrupted, what was written stays for the next time; otherwise `path` appears whole. asked: JSON values that
    must be the same each time.
    Raises: RequestError if another run writes it, if it was about something else, or for a path that is no file's.
    """
    if path.is_dir() or (path.exists() and not path.is_file()) or not path.resolve().parent.is_dir():
        raise RequestError(f"--output {str(path)!r} with --resume must be a file in a folder that exists.")
    target = path.resolve()
    partial, note = target.with_name(f"{target.name}.partial"), target.with_name(f"{target.name}.partial.json")
    with partial.open("a+b") as stream:
        _lock(stream, path)
        told = json.loads(json.dumps(asked))
        is_new = not stream.tell()
        if is_new:
            note.write_text(json.dumps(told, ensure_ascii=False, indent=1), encoding="utf-8")
        else:
            _check_same(note, told, path)
        num_done = _cut_incomplete(stream, lines_per_record)
        output = Output(os.fdopen(os.dup(stream.fileno()), "a", encoding="utf-8", newline="\n"), str(path))
        try:
            yield output, num_done
            output.flush()
            partial.replace(target)
            note.unlink(missing_ok=True)
        finally:
            output.close()


def _lock(stream: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RequestError(f"--output {path}: another run is writing it. Wait for it, or name another file.") from error


def _check_same(note: Path, asked: dict[str, Any], path: Path) -> None:
    """Raise RequestError if a stopped run was asked something else, naming the first difference."""
    again = f"Delete {path.name}.partial to begin again, or ask for the same."
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path}: what its stopped run was asked is not known any more ({note.name}). {again}"
        ) from error
    for word in {**asked, **before}:
        if before.get(word) != asked.get(word):
            raise RequestError(
                f"{path}: its stopped run had {word} = {before.get(word)!r}, and now it is {asked.get(word)!r}. {again}"
            )


def _cut_incomplete(stream: IO[bytes], lines_per_record: int) -> int:
    """Cut a file after its last whole record and return how many there are."""
    stream.seek(0)
    num_lines = end = position = 0
    while block := stream.read(_BLOCK_BYTES):
        start = 0
        while (found := block.find(b"\n", start)) >= 0:
            num_lines += 1
            start = found + 1
            if num_lines % lines_per_record == 0:
                end = position + start
        position += len(block)
    stream.truncate(end)
    stream.seek(0, os.SEEK_END)
    return num_lines // lines_per_record

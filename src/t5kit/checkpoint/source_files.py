"""Opening the files of a model folder that may be hostile: only regular files, only inside the folder, only so large.

JSON is read strictly: no duplicate keys, no NaN, no endless nesting, a size limit before anything is read.
"""

import dataclasses
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Self

from t5kit.errors import CheckpointError

MAX_JSON_BYTES = 10_000_000
"""Limit of config.json and its like; the largest real ones carry a few thousand label names."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


@dataclasses.dataclass(frozen=True, slots=True)
class WeightFile:
    """A file that weights were read from, and which bytes it held then."""

    path: Path
    identity: tuple[int, ...]
    """What changes when a file's bytes do, or another takes its name. Times may be copied, the inode's own not."""

    @classmethod
    def of(cls, path: Path, status: os.stat_result) -> Self:
        """Return the file by what the system says of it, asked before it was read, or of its descriptor."""
        times = (status.st_mtime_ns, status.st_ctime_ns)
        return cls(path, (status.st_dev, status.st_ino, status.st_size, *times))

    @property
    def is_as_read(self) -> bool:
        """Whether the path still leads to these bytes. Raises: OSError if it leads nowhere."""
        return WeightFile.of(self.path, self.path.stat()) == self


def locate(folder: Path, name: str, *, subfolder: str = "") -> Path:
    """Return the path of the regular file `name` directly inside `folder`, or inside its folder `subfolder`.

    A symbolic link is followed where it stays inside the folder or leads to the `blobs` of the Hugging Face cache that
    the folder is a snapshot of. Raises: CheckpointError for any other link, a path in place of a name, no regular file.
    """
    for part in (name, subfolder) if subfolder else (name,):
        if not _PLAIN_NAME.fullmatch(part):
            raise CheckpointError(
                f"{folder} names the file {shortened(part)}; only plain names of files inside the folder are read (of "
                "letters, digits, . _ + and -)."
            )
    path = folder / subfolder / name
    try:
        real, home = path.resolve(strict=True), folder.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Fetch or copy the model folder again.") from error
    blobs = home.parent.parent / "blobs"
    if not real.is_relative_to(home) and real.parent != blobs:
        raise CheckpointError(
            f"{path} is a symbolic link to {real}, outside the folder. Copy the file into the folder, or open the "
            "folder it lies in."
        )
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is no regular file.")
    return real


def open_for_reading(path: Path) -> int:
    """Return a descriptor of the regular file `path`; never waits on a pipe. Raises: CheckpointError."""
    # A file may be swapped for a pipe after `locate` looked: opening without waiting and looking again is safe.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is no regular file.")
    return descriptor


def read_json(path: Path, *, limit_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """Return the JSON object in `path`. Raises: CheckpointError if it is too large, broken, or no object."""
    return parse_json_object(_read(path, limit_bytes), source=str(path))


def read_json_list(path: Path) -> list[object]:
    """Return the JSON list in `path`. Raises: CheckpointError if it is too large, broken, or no list."""
    value = _parse_json(_read(path, MAX_JSON_BYTES), source=str(path))
    if not isinstance(value, list):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected a list [...].")
    return value


def _read(path: Path, limit_bytes: int) -> bytes:
    with os.fdopen(open_for_reading(path), "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > limit_bytes:
            raise CheckpointError(f"{path} has {size_bytes} bytes; at most {limit_bytes} are read.")
        try:
            return file.read(limit_bytes + 1)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def parse_json_object(raw: bytes, *, source: str) -> dict[str, object]:
    """Return the JSON object in `raw`; `source` names it in errors. Raises: CheckpointError."""
    value = _parse_json(raw, source=source)
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} holds a JSON {type(value).__name__}; expected an object {{...}}.")
    return value


def _parse_json(raw: bytes, *, source: str) -> object:
    try:
        value: object = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError as error:
        raise CheckpointError(f"{source} is nested too deeply to be a model's file.") from error
    except ValueError as error:  # no UTF-8, broken JSON, an integer of 5,000 digits
        raise CheckpointError(f"{source} is not valid JSON: {error}.") from error
    return value


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shortened(twice)} appears twice")
    return made


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def shortened(value: object, limit: int = 120) -> str:
    """Return `repr(value)` cut to `limit` characters, safe to print whatever bytes a file held."""
    text = repr(value).encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= limit else f"{text[:limit]}..."

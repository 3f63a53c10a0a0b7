"""TOML files as plain values, with the line of every key, and values as TOML."""

import dataclasses
import functools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t5kit.config.binding import KeyPath
from t5kit.errors import ConfigError, DependencyError

MAX_FILE_BYTES = 1_000_000
"""A larger file is no recipe."""


@dataclasses.dataclass(frozen=True)
class TomlFile:
    """One file, read."""

    path: Path
    text: str
    """Letter for letter."""
    values: Mapping[str, Any]

    def place(self, path: KeyPath) -> str:
        """Return where a key stands: "recipes/g2p.toml:14"; the file for the empty path; "" if it is not there."""
        if not path:
            return str(self.path)
        line = self._lines.get(path)
        while line is None and path and path[-1].isdigit():  # a list's member stands where its list begins
            path = path[:-1]
            line = self._lines.get(path)
        return f"{self.path}:{line}" if line else ""

    @functools.cached_property
    def _lines(self) -> Mapping[KeyPath, int]:
        return _lines_of_keys(self.text)


def load_toml(path: str | Path) -> TomlFile:
    """Read a file. Raises: ConfigError saying what is wrong with it, and in which line."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}).") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes: it is no recipe.")
    try:
        text = raw.decode("utf-8")
        return TomlFile(path, text, tomllib.loads(text))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {raw[error.start]:#04x} at {error.start}).") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error or 'tables nested too deeply'}.") from error


def to_toml(values: Mapping[str, Any]) -> str:
    """Return plain values as TOML; reading it gives the same values back.

    Raises: DependencyError without tomli-w.
    """
    try:
        import tomli_w
    except ImportError:
        raise DependencyError.for_extra("tomli-w", "train", "Writing a recipe") from None
    return tomli_w.dumps(values)


def _lines_of_keys(text: str) -> dict[KeyPath, int]:
    """Return path -> line of every key and table of a valid TOML text.

    A statement (a table's head, or key = value over as many lines as it takes) is TOML by itself, so the parser of the
    standard library says which keys it holds.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    pending: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        pending.append(line)
        try:
            statement = tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue
        first, is_head = number - len(pending) + 1, pending[0].lstrip().startswith("[")
        pending.clear()
        if is_head:
            table = max(_paths(statement, ()), key=len)
            lines.setdefault(table, first)
            continue
        for path in _paths(statement, table):
            lines.setdefault(path, first)
    return lines


def _paths(values: Mapping[str, Any], above: KeyPath) -> Iterator[KeyPath]:
    for key, value in values.items():
        path = (*above, key)
        yield path
        if isinstance(value, dict):
            yield from _paths(value, path)
        elif isinstance(value, list):
            for number, member in enumerate(value):
                if isinstance(member, dict):
                    yield from _paths(member, (*path, str(number)))

"""TOML files as plain values, with the line of every key, and values as TOML."""

import dataclasses
import functools
import re
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
    for first, statement_text in _statements(text):
        statement = tomllib.loads(statement_text)
        if statement_text.lstrip().startswith("["):
            table = max(_paths(statement, ()), key=len)
            lines.setdefault(table, first)
            continue
        for path in _paths(statement, table):
            lines.setdefault(path, first)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, text) of every statement: it ends with the line that leaves nothing open.

    Speed: one scan for brackets and quotes; asking the parser after every line of a long list is quadratic.
    """
    pending: list[str] = []
    quote, depth = "", 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):  # splitlines() knows more ends than TOML
        pending.append(line)
        quote, depth = _left_open(line, quote, depth)
        if not quote and not depth:
            yield number - len(pending) + 1, "\n".join(pending)
            pending.clear()


_TOKEN = re.compile(r"""\"{3}|'{3}|"(?:\\.|[^"\\])*"|'[^']*'|\#.*|[\[\]{}]""")
_CLOSING = {
    '"""': re.compile(r'(?:\\.|[^"\\]|"{1,2}(?!"))*?("{3,5})'),
    "'''": re.compile(r"(?:[^']|'{1,2}(?!'))*?('{3,5})"),
}
"""Up to two quotes before the closing three belong to the string."""


def _left_open(line: str, quote: str, depth: int) -> tuple[str, int]:
    """Return the quotes of the long string, and the number of brackets, that are open after a line of valid TOML."""
    at = 0
    while True:
        if quote:
            if (end := _CLOSING[quote].match(line, at)) is None:
                return quote, depth
            quote, at = "", end.end()
        if (token := _TOKEN.search(line, at)) is None:
            return quote, depth
        at = token.end()
        if token[0] in _CLOSING:
            quote = token[0]
        else:
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)


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

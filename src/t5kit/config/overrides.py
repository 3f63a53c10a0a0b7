"""`key.path=value` words of a command line, laid over a recipe's values."""

import copy
import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5kit.config.binding import KeyPath, dotted
from t5kit.config.toml_files import TomlFile, load_toml
from t5kit.errors import ConfigError

COMMAND_LINE = "command line"


@dataclasses.dataclass(frozen=True)
class Settings:
    """A recipe's values with the overrides over them, and where each was said."""

    file: TomlFile
    values: Mapping[str, Any]
    overrides: tuple[str, ...]
    """As they were written."""
    overridden: frozenset[KeyPath]
    """The keys they set."""

    def place(self, path: KeyPath) -> str:
        """Return where a key was said; see `binding.Place`."""
        if any(path[: len(said)] == said for said in self.overridden):
            return COMMAND_LINE
        return self.file.place(path)


def read_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a recipe file and lay overrides over it. Raises: ConfigError."""
    file = load_toml(path)
    parsed = [parse_override(text) for text in overrides]
    return Settings(file, _laid_over(file.values, parsed), tuple(overrides), frozenset(path for path, _ in parsed))


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return values with the overrides over them, the last one winning; values themselves stay as they are.

    Raises: ConfigError for a word that is no override, or a key below something that is no table.
    Example: ({"training": {"seed": 0}}, ["training.seed=7", "data.dir=files"])
    -> {"training": {"seed": 7}, "data": {"dir": "files"}}
    """
    return _laid_over(values, [parse_override(text) for text in overrides])


def parse_override(text: str) -> tuple[KeyPath, Any]:
    """Return path and value of one override.

    The value is TOML; what is no TOML value is text as it stands, so that words and file names need no quotes.
    Raises: ConfigError
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"{COMMAND_LINE}: {text!r} is no override; expected key.path=value.")
    return _path_of(key.strip(), text), _value_of(value.strip())


def _path_of(key: str, text: str) -> KeyPath:
    try:
        found: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        raise ConfigError(
            f"{COMMAND_LINE}: {text!r}: {key!r} is no key path; expected names with dots between them, such as "
            'training.seed or data.tasks."glue/cola".train.'
        ) from None
    path = []
    while isinstance(found, dict):
        ((name, found),) = found.items()
        path.append(name)
    return tuple(path)


def _value_of(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = parsed.get("value")
    # "1\nother = 2" would be two keys, and 2024-01-01 a date, for which no setting asks.
    return value if len(parsed) == 1 and isinstance(value, bool | int | float | str | list | dict) else text


def _laid_over(values: Mapping[str, Any], overrides: Sequence[tuple[KeyPath, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = copy.deepcopy(dict(values))
    for path, value in overrides:
        table: Any = result
        for depth, key in enumerate(path[:-1], 1):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(
                    f"{COMMAND_LINE}: {dotted(path)} cannot be set: {dotted(path[:depth])} is no table of settings."
                )
        table[path[-1]] = value
    return result

"""Plain values <-> frozen configs, strictly: every key known, every type right, and every complaint with its place.

A config is a frozen dataclass; its fields are numbers, texts, truth values, choices (Literal or StrEnum), lists
(tuple[X, ...]), tables by name (Mapping[str, X]), other configs, or `X | None`, where an absent key is None.
"""

import dataclasses
import difflib
import enum
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, cast

from t5kit.config.docstrings import field_docs
from t5kit.errors import ConfigError

KeyPath = tuple[str, ...]
"""("data", "tasks", "g2p", "train"): the keys from the top of a recipe to a value."""
Place = Callable[[KeyPath], str]
"""Where a key was written ("recipes/g2p.toml:14", "command line"); "" where that is not known."""

Config = TypeVar("Config")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_COMPLAINT = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)+")


def nowhere(path: KeyPath) -> str:
    """Return that the place of a key is not known: for values that Python code made."""
    return ""


def bind(cls: type[Config], values: Mapping[str, object], *, path: KeyPath = (), place: Place = nowhere) -> Config:
    """Return the config of class cls that values stand for; path is where in the whole they stand.

    An int is taken where a float is wanted, and nothing else is converted: "1e-3" is text.
    Raises: ConfigError with the key's place and full path: a key that is unknown (with the nearest known one), missing
    or of the wrong type, or the config's own complaint about a value.
    """
    return cast(Config, _Binder(cls, path, place).config(cls, values, path))


def unbind(config: object) -> dict[str, Any]:
    """Return a config as plain values, all defaults written out; `bind` gives the same config back.

    None is left out: TOML has no word for it, and an absent key means it.
    """
    assert dataclasses.is_dataclass(config)
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None:
            values[field.name] = _plain(value)
    return values


def dotted(path: KeyPath) -> str:
    """Return a path as TOML writes it; keys that are no bare words stand in quotes: data.tasks."glue/cola".train."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else '"' + key.replace('"', '\\"') + '"' for key in path)


def hints_of(cls: type) -> dict[str, Any]:
    """Return a config's field types in their order."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def is_config(kind: object) -> bool:
    """Say whether a field type is a config of its own."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def without_none(kind: Any) -> Any:
    """Return X of `X | None`, and any other type as it is."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (inner,) = (member for member in typing.get_args(kind) if member is not type(None))
        return inner
    return kind


def type_words(kind: Any) -> str:
    """Return a field type in words: "an integer", "a list of texts", "one of: packed, bucketed"."""
    kind = without_none(kind)
    if kind in _WORDS:
        return _WORDS[kind]
    if typing.get_origin(kind) is tuple:
        return f"a list of {_plural(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) in (Mapping, dict):
        return f"a table of {_plural(typing.get_args(kind)[1])} by name"
    return "a table of settings" if is_config(kind) else f"one of: {', '.join(choices_of(kind))}"


def choices_of(kind: Any) -> tuple[str, ...]:
    """Return the texts that a Literal or StrEnum field can be."""
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    assert isinstance(kind, type) and issubclass(kind, enum.StrEnum), f"{kind} is no type of a config field"
    return tuple(member.value for member in kind)


_WORDS: Mapping[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def _plural(kind: Any) -> str:
    words = {bool: "truth values", int: "integers", float: "numbers", str: "texts"}
    if kind in words:
        return words[kind]
    if typing.get_origin(kind) in (Mapping, dict):
        return f"tables of {_plural(typing.get_args(kind)[1])}"
    return "tables" if is_config(kind) else f"words ({', '.join(choices_of(kind))})"


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value):
        return unbind(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, tuple) else value


class _Binder:
    """One call of `bind`: what every level of it needs to know."""

    def __init__(self, root: type, root_path: KeyPath, place: Place) -> None:
        self._root, self._root_path, self._place = root, root_path, place

    def config(self, cls: type, values: object, path: KeyPath) -> object:
        """Return a config of class cls."""
        table = self._table(values, path, "a table of settings")
        hints = hints_of(cls)
        for key in table:
            if key not in hints:
                raise self._unknown((*path, key), hints)
        bound = {}
        for field in dataclasses.fields(cls):
            if field.name in table:
                bound[field.name] = self._value(table[field.name], hints[field.name], (*path, field.name))
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                bound[field.name] = self._missing(cls, field.name, hints[field.name], path)
        try:
            return cls(**bound)
        except ConfigError as error:
            raise self._placed(error, path, cls) from error

    def _missing(self, cls: type, name: str, kind: Any, path: KeyPath) -> object:
        """Return a section that may be left out because nothing in it must be said; raise for any other."""
        if is_config(kind):
            return self.config(kind, {}, (*path, name))
        said = field_docs(cls).get(name, "")
        raise ConfigError(
            f"{self._where(path)}{dotted((*path, name))} is missing; expected {type_words(kind)}."
            f"{f' {said}' if said else ''}"
        )

    def _value(self, value: object, kind: Any, path: KeyPath) -> object:
        kind = without_none(kind)
        if is_config(kind):
            return self.config(kind, value, path)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise self._wrong(value, kind, path) from None
        if kind in _WORDS:
            if type(value) is not kind:
                raise self._wrong(value, kind, path)
            return value
        if typing.get_origin(kind) is tuple:
            if not isinstance(value, list | tuple):
                raise self._wrong(value, kind, path)
            member = typing.get_args(kind)[0]
            return tuple(self._value(item, member, (*path, str(number))) for number, item in enumerate(value))
        if typing.get_origin(kind) in (Mapping, dict):
            member = typing.get_args(kind)[1]
            table = self._table(value, path, type_words(kind))
            return {key: self._value(item, member, (*path, key)) for key, item in table.items()}
        if not isinstance(value, str) or value not in choices_of(kind):
            near = difflib.get_close_matches(str(value), choices_of(kind), n=1)
            raise self._wrong(value, kind, path, hint=f" Did you mean {near[0]!r}?" if near else "")
        return kind(value) if isinstance(kind, type) else value

    def _table(self, values: object, path: KeyPath, expected: str) -> Mapping[str, object]:
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{self._where(path)}{dotted(path) or 'the whole'} = {_shown(values)} must be {expected}."
            )
        return values

    def _wrong(self, value: object, kind: Any, path: KeyPath, *, hint: str = "") -> ConfigError:
        if not hint and isinstance(value, float) and kind is int and value.is_integer():
            hint = f" Write {int(value)}."
        elif not hint and isinstance(value, str) and kind in (int, float, bool):
            hint = " Numbers and truth values stand without quotes." if _is_toml_scalar(value) else ""
        elif not hint and isinstance(value, str) and typing.get_origin(kind) is tuple:
            hint = f' Write ["{value}"].' if len(value) < 80 else ""
        elif not hint and kind is str and isinstance(value, int | float) and not isinstance(value, bool):
            hint = f' Write "{value}".'
        return ConfigError(f"{self._where(path)}{dotted(path)} = {_shown(value)} must be {type_words(kind)}.{hint}")

    def _unknown(self, path: KeyPath, known: Mapping[str, Any]) -> ConfigError:
        key = path[-1]
        elsewhere = [dotted(place) for place in _places(self._root, self._root_path) if place[-1] == key]
        near = difflib.get_close_matches(key, known, n=2, cutoff=0.5)
        if elsewhere:
            hint = f"There is {' and '.join(elsewhere[:2])}."
        elif near:
            hint = f"Did you mean {' or '.join(near)}?"
        else:
            hint = f"Known here: {', '.join(known)}."
        return ConfigError(f"{self._where(path)}{dotted(path)} is no setting. {hint}")

    def _placed(self, error: ConfigError, path: KeyPath, cls: type) -> ConfigError:
        """Return a config's own complaint with full paths, and the place of the first key in it that was written.

        A config does not know where it stands and calls itself by its class's first word: of TaskConfig's
        "task.held_out" this makes "data.tasks.g2p.held_out".
        """
        said, hints, own_word = str(error), hints_of(cls), re.findall("[A-Z][a-z]*", cls.__name__)[0].lower()
        text = re.sub(
            rf"(?<![\w.]){own_word}\.([a-z0-9_]+)",
            lambda found: dotted((*path, found[1])) if path and found[1] in hints else found[0],
            said,
        )
        for name in _COMPLAINT.findall(said):
            for keys in (tuple(name.split(".")), (*path, name.rpartition(".")[2])):
                if where := self._place(keys):
                    return ConfigError(f"{where}: {text}")
        return ConfigError(f"{self._where(path)}{text}")

    def _where(self, path: KeyPath) -> str:
        """Return the place of a key, or of the nearest table around it, as the beginning of a message."""
        for length in range(len(path), -1, -1):
            if where := self._place(path[:length]):
                return f"{where}: "
        return ""


def _places(cls: type, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the path of every setting below a config; tables by name are not entered."""
    for name, kind in hints_of(cls).items():
        inner = without_none(kind)
        if is_config(inner):
            yield from _places(inner, (*path, name))
        else:
            yield (*path, name)


def _is_toml_scalar(text: str) -> bool:
    return text in ("true", "false") or bool(re.fullmatch(r"[+-]?[0-9][0-9_]*(\.[0-9_]+)?([eE][+-]?[0-9]+)?", text))


def _shown(value: object) -> str:
    """Return a value as TOML writes it, shortened."""
    match value:
        case bool():
            text = str(value).lower()
        case str():
            text = '"' + value + '"'
        case Mapping():
            text = "{" + ", ".join(map(str, value)) + "}"
        case _:
            text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"

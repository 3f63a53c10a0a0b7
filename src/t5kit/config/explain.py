"""Every setting of a config with its type, its default and its sentence."""

import dataclasses
import difflib
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from t5kit.config.binding import KeyPath, dotted, hints_of, is_config, type_words, unbind, without_none
from t5kit.config.docstrings import field_docs
from t5kit.errors import ConfigError

ANY_NAME = "NAME"
"""What stands in a path for a name of the user's own: data.tasks.NAME.train."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One key that a recipe can hold."""

    path: KeyPath
    type: str
    """In words."""
    default: str
    """As TOML writes it; "none" where an absent key means something of its own, "must be given" where there is none."""
    doc: str

    def __str__(self) -> str:
        lines = textwrap.wrap(self.doc, 112, initial_indent="    ", subsequent_indent="    ")
        return "\n".join([f"{dotted(self.path)} = {self.default}    ({self.type})", *lines])


def settings_of(cls: type, *, path: KeyPath = ()) -> Iterator[Setting]:
    """Yield every setting below a config class, in the order of its fields; NAME stands for names that are free."""
    docs = field_docs(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, hint in hints_of(cls).items():
        kind, here = without_none(hint), (*path, name)
        member, inner = _member(kind)
        if is_config(kind):
            yield from settings_of(kind, path=here)
        elif member is not None and is_config(member):
            yield Setting(here, type_words(kind), _default(fields[name]), docs.get(name, ""))
            yield from settings_of(member, path=(*here, inner))
        else:
            yield Setting(here, type_words(kind), _default(fields[name]), docs.get(name, ""))


def explain(cls: type, path: str = "") -> str:
    """Return the settings below a path ("" for all, "training", "training.seed") as text for people.

    Raises: ConfigError naming the nearest paths if there is none below this one.
    """
    every = list(settings_of(cls))
    asked = tuple(path.split(".")) if path else ()
    found = [setting for setting in every if _fits(setting.path, asked)]
    if not found:
        known = sorted({dotted(s.path[:length]) for s in every for length in range(1, len(s.path) + 1)})
        near = difflib.get_close_matches(path, known, n=3) or sorted({s.path[0] for s in every})
        raise ConfigError(f"There is no setting {path!r}. Nearest: {', '.join(near)}.")
    return "\n".join(map(str, found))


def _fits(path: KeyPath, asked: KeyPath) -> bool:
    """Say whether a setting is the one asked for or stands below it; NAME fits every name."""
    if len(path) < len(asked):
        return False
    return all(known in (ANY_NAME, word) for known, word in zip(path, asked, strict=False))


def _member(kind: Any) -> tuple[Any, str]:
    """Return what a list or a table by name holds and how its key is written; None for everything else."""
    if typing.get_origin(kind) is tuple:
        return typing.get_args(kind)[0], "0"
    if typing.get_origin(kind) in (Mapping, dict):
        return typing.get_args(kind)[1], ANY_NAME
    return None, ""


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return _as_toml(field.default_factory())
    return "(must be given)" if field.default is dataclasses.MISSING else _as_toml(field.default)


def _as_toml(value: Any) -> str:
    match value:
        case None:
            return "(absent)"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(map(_as_toml, value))}]"
        case Mapping():
            return "{" + ", ".join(f"{key} = {_as_toml(member)}" for key, member in value.items()) + "}"
        case _ if dataclasses.is_dataclass(value):
            return _as_toml(unbind(value))
        case _:
            return str(value)

"""Prompt templates: records with named fields -> prompt and target."""

import dataclasses
import string
from collections.abc import Mapping

from t5kit.errors import ConfigError, DataError

Fields = Mapping[str, object]
_NO_SIGNS = "A field whose own name has : or ! is named by itself, without braces; one with { or } has to be renamed."


@dataclasses.dataclass(frozen=True, slots=True)
class TextPair:
    """One prompt, what is to be written for it, and everything else that would count as right."""

    prompt: str
    target: str
    references: tuple[str, ...]
    """At least the target; metrics take the best of them."""
    place: str


def check_template(word: str, text: str) -> None:
    """Raise ConfigError, naming what `word` the template is called by, unless its braces hold plain field names.

    Any column's name will do, such as {Review Text}; it is looked up as it stands.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{word} = {text!r} is no template ({error}). {_NO_SIGNS}") from error
    for _, field, format, conversion in parts:
        if field is not None and (not field.strip() or format or conversion):
            more = (f"!{conversion}" if conversion else "") + (f":{format}" if format else "")
            raise ConfigError(
                f"{word} = {text!r} holds {{{field}{more}}}; expected field names alone, such as {{source}}. "
                f"{_NO_SIGNS}"
            )


@dataclasses.dataclass(frozen=True)
class Template:
    """A prompt and a target with fields in braces; {{ and }} stand for braces.

    Only names stand in braces, looked up as they are, without formats: a template is data that may come from anyone.
    Example: Template("translate English to German: {source}", "{target}")
    """

    prompt: str
    target: str = "{target}"
    verbalizer: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """field -> its value as text -> the words for it: {"label": {"0": "negative", "1": "positive"}}. Numbers and truth
    values count as their text ("0", "True"). A value that has no words makes a bad record."""

    def __post_init__(self) -> None:
        check_template("task.template.prompt", self.prompt)
        check_template("task.template.target", self.target)

    def render(self, fields: Fields) -> tuple[str, str]:
        """Return prompt and target. Raises: DataError naming the field that is missing, no text, or without words."""
        return self._fill(self.prompt, fields), self._fill(self.target, fields)

    def _fill(self, template: str, fields: Fields) -> str:
        pieces = []
        for literal, field, _, _ in string.Formatter().parse(template):
            pieces.append(literal)
            if field is not None:
                pieces.append(self._text(field, fields))
        return "".join(pieces)

    def _text(self, field: str, fields: Fields) -> str:
        if field not in fields:
            present = ", ".join(list(fields)[:8]) or "none"
            raise DataError(f"has no field {field!r}; it has: {present}.")
        value = fields[field]
        if not isinstance(value, str | int | float):
            raise DataError(f"field {field!r} is {type(value).__name__}, expected text or a number.")
        text = str(value)
        if words := self.verbalizer.get(field):
            if text not in words:
                raise DataError(f"field {field!r} is {text!r:.60}, expected one of: {', '.join(words)}.")
            return words[text]
        return text

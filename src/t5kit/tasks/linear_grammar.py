"""The grammar of a schema's lines, for llguidance: what lets a model write nothing else."""

import json
import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

from t5kit.errors import DataError
from t5kit.tasks.linear_form import EMPTY_LIST, FIELD_SEPARATOR, ITEM_SEPARATOR, NAME_SEPARATOR, NOTHING
from t5kit.tasks.linear_schema import (
    CHARACTER,
    DEFAULT_MAX_ITEMS,
    INTEGER,
    NUMBER,
    STRING,
    ChoiceSchema,
    EntitiesSchema,
    ListSchema,
    NumberSchema,
    ObjectSchema,
    RelationsSchema,
    Schema,
    StringSchema,
    read_schema,
)
from t5kit.tasks.number_range import at_least, at_most

_CHUNK = re.compile(r"[wm](?:[wm]|j+(?=[wm]))*|om*(?:jom*)*|.")
"""A copied string begins and ends at the borders of these: words, or signs with what is joined to them, as the kinds of
`_kind` spell them. Python's own words end at a combining mark, in the middle of what Devanagari or Thai writes."""
_JOINERS = "\u200c\u200d"


def linear_grammar(schema: object, *, copied_from: str | None = None) -> str:
    """Return the grammar of a schema's lines in llguidance's Lark, its rule `text` being a line.

    copied_from: strings (not the texts of a choice) are runs of words of this text, however its words are spaced, with
    a letter or digit in them; None lets them be anything.
    Raises: DataError if a string must be there, and the text has no word.
    """
    writer = _GrammarWriter(copied_from)
    try:
        body = writer.line(read_schema(schema))
    except _NoWordError:
        raise DataError(
            "The text holds no word to copy (of the length asked for), and the schema needs one. With is_copied=False "
            "other words are allowed."
        ) from None
    return "\n".join([f"text: {body}", *writer.rules, ""])


class _NoWordError(Exception):
    """A string is to be copied from a text without words."""


class _GrammarWriter:
    """Collects the rules and terminals of one grammar.

    The lexer takes the longest match and never goes back, so a string and a separator that begins with a space are one
    terminal: after "a " it may still be the string "a b" or the end of the item "a". So are a choice and a separator.
    """

    def __init__(self, copied_from: str | None) -> None:
        self.rules: list[str] = []
        self._names: dict[str, str] = {}
        self._span = ""
        self._chunks: list[str] = []
        if copied_from is not None:
            self._chunks = _chunks(" ".join(copied_from.split()))
            self._span = self._named("SPAN", f"%regex {json.dumps({'substring_chunks': self._chunks})}")

    def line(self, schema: Schema) -> str:
        """Return the expression of a whole line."""
        match schema:
            case EntitiesSchema() | RelationsSchema() if not self._can_write(StringSchema()):
                return _literal(NOTHING)
            case EntitiesSchema(types):
                kinds = " | ".join(_literal(f"{kind}{NAME_SEPARATOR}") for kind in types)
                return self._up_to(f"({kinds}) {self._string(StringSchema())}")
            case RelationsSchema(relations):
                end = self._string(StringSchema())
                names = " | ".join(_literal(f"{name}{ITEM_SEPARATOR}") for name in relations)
                return self._up_to(f"{self._ended(end)} ({names}) {end}")
            case ListSchema():
                return self._list(schema)
            case ObjectSchema():
                return self._object(schema)
        return self._inner(schema)

    def _up_to(self, row: str) -> str:
        name = self._named("row", row)
        more = f'("; " {name}){{0,{DEFAULT_MAX_ITEMS - 1}}}'
        return f'"{NOTHING}" | {name} {more}'

    def _inner(self, schema: Schema) -> str:
        match schema:
            case StringSchema():
                return self._string(schema)
            case NumberSchema():
                return self._number(schema)
            case ChoiceSchema(words):
                return self._named("CHOICE", " | ".join(_literal(word) for word in words))
            case ListSchema():
                return f'"[" ({self._list(schema)}) "]"'
            case ObjectSchema():
                return f'"[" ({self._object(schema)}) "]"'
            case EntitiesSchema() | RelationsSchema():
                raise AssertionError("entities and relations stand at the top alone")

    def _list(self, schema: ListSchema) -> str:
        try:
            item = self._inner(schema.items) if schema.max_items else ""
        except _NoWordError:
            if schema.min_items:
                raise
            item = ""
        if not item:
            return _literal(EMPTY_LIST)
        least, most = max(0, schema.min_items - 1), schema.max_items - 1
        if not most:
            filled = item
        elif isinstance(schema.items, StringSchema | NumberSchema | ChoiceSchema):
            filled = f"{self._ended(item)}{{{least},{most}}} {item}"
        else:
            filled = f'{item} (" | " {item}){{{least},{most}}}'
        named = self._named("list", filled)
        return named if schema.min_items else f'"[]" | {named}'

    def _object(self, schema: ObjectSchema) -> str:
        """Return rules for "what may follow when nothing is written yet" and "… when something is", field by field."""
        first, later = f'"{NOTHING}"', '""'
        if any(is_required for _, _, is_required in schema.fields):
            first = ""
        for place, (name, field, is_required) in reversed(list(enumerate(schema.fields))):
            try:
                value = f"({self._list(field)})" if isinstance(field, ListSchema) else self._inner(field)
            except _NoWordError:
                if is_required:
                    raise
                continue
            label = _literal(f"{name}{NAME_SEPARATOR}")
            can_begin = not any(required for _, _, required in schema.fields[:place])
            if can_begin:
                here = f"{label} {value} {later}"
                first = here if is_required or not first else f"{here} | {first}"
                first = self._named("first", first)
            here = f"{_literal(FIELD_SEPARATOR)} {label} {value} {later}"
            later = self._named("later", here if is_required else f"{here} | {later}")
        return first

    def _string(self, schema: StringSchema) -> str:
        if not self._can_write(schema):
            raise _NoWordError
        character = CHARACTER.replace(r"\u2047", r"\u{2047}").replace(r"\ufffd", r"\u{fffd}")
        parts = [f"/{character}+( {character}+)*/", f"/[^\\n]{{{schema.min_length},{schema.max_length}}}/"]
        if self._span:  # a run of punctuation alone is nothing that anyone looks for
            parts = [self._span, r"/[^\n]*[\p{L}\p{N}][^\n]*/", *parts]
        return self._named("STRING", " & ".join(parts))

    def _number(self, schema: NumberSchema) -> str:
        kind, pattern = ("INTEGER", INTEGER) if schema.is_integer else ("NUMBER", NUMBER)
        written = f"/{pattern.pattern}/"
        if schema.minimum is None and schema.maximum is None:
            return self._named(kind, written)
        signed = []
        if schema.maximum is None or schema.maximum >= 0:
            signed.append(self._magnitude(max(schema.minimum or Decimal(0), Decimal(0)), schema.maximum))
        if schema.minimum is None or schema.minimum < 0:
            least = Decimal(0) if schema.maximum is None else max(-schema.maximum, Decimal(0))
            magnitude = self._magnitude(least, None if schema.minimum is None else -schema.minimum)
            signed.append(self._named("NEGATIVE", f'"-" {magnitude}'))
        return self._named(kind, f"{written} & ({' | '.join(signed)})")

    def _magnitude(self, least: Decimal, most: Decimal | None) -> str:
        patterns = [at_least(least), *([] if most is None else [at_most(most)])]
        return self._named("MAGNITUDE", " & ".join(f"/{pattern}/" for pattern in patterns))

    def _can_write(self, schema: StringSchema) -> bool:
        """Return whether the text has a run of chunks that may be copied for this string."""
        if not self._span:
            return True
        for start, first in enumerate(self._chunks):
            length, has_word = 0, False
            for chunk in self._chunks[start : start + schema.max_length] if STRING.fullmatch(first) else ():
                length += len(chunk)
                if length > schema.max_length or not (chunk == " " or STRING.fullmatch(chunk)):
                    break
                has_word = has_word or any(letter.isalnum() for letter in chunk)
                if has_word and length >= schema.min_length and chunk != " ":
                    return True
        return False

    def _ended(self, terminal: str) -> str:
        return self._named("ITEM", f'{terminal} "{ITEM_SEPARATOR}"')

    def _named(self, kind: str, body: str) -> str:
        """Return the name of a rule (or, in capitals, terminal) of this body; equal bodies share one."""
        if body not in self._names:
            self._names[body] = f"{kind}_{len(self._names)}"
            self.rules.append(f"{self._names[body]}: {body}")
        return self._names[body]


def _chunks(text: str) -> list[str]:
    """Return the words and signs of a text, which are all of it.

    >>> _chunks("नमस्ते (राम)")
    ['नमस्ते', ' ', '(', 'राम', ')']
    """
    kinds = "".join(map(_kind, text))
    return [text[found.start() : found.end()] for found in _CHUNK.finditer(kinds)]


def _kind(character: str) -> str:
    """Return w for what words are made of, m for a combining mark, j for a joiner, s for a space, o for any other."""
    if character.isalnum() or character == "_":
        return "w"
    if character.isspace():
        return "s"
    if character in _JOINERS:
        return "j"
    return "m" if unicodedata.category(character).startswith("M") else "o"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def fixed_texts(schema: Schema) -> Iterator[str]:
    """Yield every text that a line of this schema may have to hold letter for letter."""
    match schema:
        case ChoiceSchema(words):
            yield from ["".join(sorted(set("".join(words))))] if schema.is_number else words
        case ListSchema(items):
            yield ITEM_SEPARATOR
            if not schema.min_items:
                yield EMPTY_LIST
            if isinstance(items, ListSchema | ObjectSchema):
                yield "[]"
            yield from fixed_texts(items)
        case ObjectSchema(fields):
            if not any(is_required for _, _, is_required in fields):
                yield NOTHING
            if len(fields) > 1:
                yield FIELD_SEPARATOR
            for name, field, _ in fields:
                yield f"{name}{NAME_SEPARATOR}"
                if isinstance(field, ObjectSchema):
                    yield "[]"
                yield from fixed_texts(field)
        case EntitiesSchema(types):
            yield from (NOTHING, FIELD_SEPARATOR)
            yield from (f"{kind}{NAME_SEPARATOR}" for kind in types)
        case RelationsSchema(relations):
            yield from (NOTHING, FIELD_SEPARATOR, ITEM_SEPARATOR, *relations)
        case StringSchema():
            return
        case NumberSchema(is_integer, minimum):
            sign = "-" if minimum is None or minimum < 0 else ""
            yield f"{sign}0123456789" if is_integer else f"{sign}0123456789."

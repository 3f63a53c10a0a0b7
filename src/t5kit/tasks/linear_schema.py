"""What a value written as one line may be: schemas, from JSON's or plain Python's."""

import dataclasses
import decimal
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

from t5kit.errors import RequestError
from t5kit.tasks.linear_references import ANNOTATIONS, without_references

DEFAULT_MAX_CHARACTERS: Final = 300
"""Of a string without maxLength: a model that repeats itself must come to an end."""
DEFAULT_MAX_ITEMS: Final = 64
"""Of a list without maxItems, and of entities and relations."""
# U+2047 is what an unknown token reads like, U+FFFD a byte that is part of no character.
CHARACTER: Final = r"[^;|\[\]\s\x00-\x1f\x7f\u2047\ufffd]"
STRING: Final = re.compile(rf"{CHARACTER}+(?: {CHARACTER}+)*")
INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,12})?")
_IGNORED_KEYWORDS: Final = (*ANNOTATIONS, "additionalProperties")
_JSON_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_MAX_DEPTH: Final = 8
_FINEST: Final = Decimal("1e-12")
_LARGEST: Final = {True: Decimal(10) ** 18, False: Decimal(10) ** 15}
"""What whole numbers, and others, stay below."""


@dataclasses.dataclass(frozen=True, slots=True)
class StringSchema:
    """A text of min_length to max_length characters."""

    min_length: int = 1
    max_length: int = DEFAULT_MAX_CHARACTERS


@dataclasses.dataclass(frozen=True, slots=True)
class NumberSchema:
    """A whole number of at most 18 digits, or one with a point: 15 digits before it, 12 after."""

    is_integer: bool
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    """Both included, and numbers of this form themselves."""

    def holds(self, value: Decimal) -> bool:
        """Say whether a number is between minimum and maximum."""
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    def __str__(self) -> str:
        ends = [f"from {self.minimum:f}"] if self.minimum is not None else []
        ends += [f"up to {self.maximum:f}"] if self.maximum is not None else []
        kind = "whole number of at most 18 digits" if self.is_integer else "number"
        return " ".join([f"a {kind}", *ends])


@dataclasses.dataclass(frozen=True, slots=True)
class ChoiceSchema:
    """One of a few texts; true and false where `is_boolean`, numbers as they are written where `is_number`."""

    words: tuple[str, ...]
    is_boolean: bool = False
    is_number: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ListSchema:
    """min_items to max_items values of one kind."""

    items: "Schema"
    min_items: int = 0
    max_items: int = DEFAULT_MAX_ITEMS


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectSchema:
    """Named fields in order: (name, schema, whether it must be there)."""

    fields: tuple[tuple[str, "Schema", bool], ...]
    nullable: tuple[str, ...] = ()
    """Fields that need not be there, and are None then."""


@dataclasses.dataclass(frozen=True, slots=True)
class EntitiesSchema:
    """Spans of the text, each of one of a few types."""

    types: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class RelationsSchema:
    """Pairs of spans, each in one of a few relations."""

    relations: tuple[str, ...]


Schema: TypeAlias = (
    StringSchema | NumberSchema | ChoiceSchema | ListSchema | ObjectSchema | EntitiesSchema | RelationsSchema
)
SchemaLike: TypeAlias = Mapping[str, Any] | Sequence[Any] | type
"""{"entities": […]}, {"relations": […]}, a JSON schema, or plain Python: {"name": str, "kind": ["cat", "dog"], …}."""


def read_schema(schema: object) -> Schema:
    """Return what a user's schema says.

    A mapping with "entities" or "relations" alone, to a list of names. Or a JSON schema: type object (properties,
    required), array (items, minItems, maxItems), string (minLength, maxLength), integer and number (minimum, maximum,
    exclusiveMinimum, exclusiveMaximum), boolean, or enum of strings or of numbers; local $refs are followed, and a
    field that may be null is None where a line leaves it out. Or a plain mapping from field to str, int, float, bool,
    a list of the texts allowed, [str] for a list of texts, a mapping or a JSON schema again; every field is required
    then, unless it may be null. A Schema is returned as it is.
    Raises: RequestError naming the place and what it may hold.
    """
    if isinstance(
        schema,
        StringSchema | NumberSchema | ChoiceSchema | ListSchema | ObjectSchema | EntitiesSchema | RelationsSchema,
    ):
        return schema
    if isinstance(schema, Mapping) and len(schema) == 1:
        ((word, names),) = schema.items()
        if word in ("entities", "relations") and isinstance(names, list | tuple) and _are_words(names):
            checked = _checked_names(names, f"schema.{word}")
            return EntitiesSchema(checked) if word == "entities" else RelationsSchema(checked)
    if isinstance(schema, Mapping) and set(schema) == {"entities", "relations"}:
        raise RequestError("schema asks for entities and relations; ask for one of them at a time.")
    return _read(_followed(schema), "schema", 0)


def _followed(schema: object) -> object:
    """Return a JSON schema with its references followed, and anything else as it is."""
    return without_references(schema) if isinstance(schema, Mapping) and _is_json_schema(schema, 0) else schema


def _read(schema: object, place: str, depth: int) -> Schema:
    if depth > _MAX_DEPTH:
        raise RequestError(f"{place} is nested more than {_MAX_DEPTH} deep.")
    match schema:
        case type():
            return _read_type(schema, place)
        case Mapping() if _is_json_schema(schema, depth):
            return _read_json_schema(dict(schema), place, depth)
        case Mapping():
            if not schema:
                raise RequestError(f"{place} is empty; name at least one field.")
            names = _checked_names(tuple(schema), place)
            fields = {name: _followed(schema[name]) for name in names}
            return _object_of(fields, names, place, depth)
        case list() | tuple() if _are_words(schema):
            return ChoiceSchema(_checked_words(schema, place))
        case list() | tuple() if len(schema) == 1:
            return ListSchema(_read(_followed(schema[0]), f"{place}[0]", depth + 1))
    raise RequestError(
        f"{place} = {schema!r:.100} is no schema. Give str, int, float, bool, a list of the texts allowed, [a schema] "
        "for a list, a mapping from field to schema, or a JSON schema."
    )


def _is_json_schema(schema: Mapping[Any, Any], depth: int) -> bool:
    """Say whether a mapping is a JSON schema, and no plain one whose fields have such names ("items", "required")."""
    kind = schema.get("type")
    if isinstance(kind, str) or "enum" in schema or "const" in schema:
        return True
    if isinstance(kind, list | tuple) and kind and all(word in _JSON_TYPES for word in kind):
        return True
    if any(isinstance(word, str) and word.startswith("$") for word in schema) or depth > _MAX_DEPTH:
        return True
    properties = schema.get("properties")
    parts = [*properties.values()] if isinstance(properties, Mapping) else []
    parts += [schema.get("items")]
    if any(isinstance(part, Mapping) and (not part or _is_json_schema(part, depth + 1)) for part in parts):
        return True
    ways = [way for word in ("anyOf", "oneOf", "allOf") for way in _as_list(schema.get(word))]
    return any(isinstance(way, Mapping) for way in ways)


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _read_type(kind: type, place: str) -> Schema:
    known: dict[type, Schema] = {
        str: StringSchema(),
        int: NumberSchema(is_integer=True),
        float: NumberSchema(is_integer=False),
        bool: ChoiceSchema(("true", "false"), is_boolean=True),
    }
    if kind not in known:
        raise RequestError(f"{place} is {kind.__name__}, expected str, int, float or bool.")
    return known[kind]


def _read_json_schema(schema: dict[str, Any], place: str, depth: int) -> Schema:
    for keyword in _IGNORED_KEYWORDS:
        schema.pop(keyword, None)
    inferred = "object" if "properties" in schema else "array" if "items" in schema else "string"
    is_choice = "enum" in schema or "const" in schema
    is_typed = "type" in schema
    kind = schema.pop("type", inferred)
    match kind:
        case "string" | "integer" | "number" if is_choice:
            words = [schema.pop("const")] if "const" in schema else schema.pop("enum")
            found: Schema = _read_choice(words, f"{place}.enum", kind=kind if is_typed else "")
        case "string":
            least, most = _bounds(schema, "minLength", "maxLength", DEFAULT_MAX_CHARACTERS, place)
            if not most:
                raise RequestError(f"{place}.maxLength = 0 leaves no text to write. Make the field optional instead.")
            found = StringSchema(max(1, least), most)
        case "integer" | "number":
            found = _read_number(schema, place, is_integer=kind == "integer")
        case "boolean":
            found = ChoiceSchema(("true", "false"), is_boolean=True)
        case "array":
            least, most = _bounds(schema, "minItems", "maxItems", DEFAULT_MAX_ITEMS, place)
            if "items" not in schema:
                raise RequestError(f"{place} is an array without items; say what they are.")
            if any(isinstance(each, Mapping) for each in _as_list(schema["items"])):
                raise RequestError(
                    f"{place}.items has a schema for each place, which a line of text does not tell apart. Give one "
                    "schema for all, or an object with a field for each."
                )
            found = ListSchema(_read(schema.pop("items"), f"{place}.items", depth + 1), least, most)
        case "object":
            found = _read_object(schema, place, depth)
        case list() | tuple():
            raise RequestError(
                f"{place}.type = {kind!r:.60} names several types, which a line of text does not tell apart. Name one; "
                "null may stand beside it in a field alone."
            )
        case _:
            raise RequestError(f"{place}.type = {kind!r:.60} must be one of: {', '.join(_JSON_TYPES[:-1])}.")
    if schema:
        raise RequestError(
            f"{place} holds {', '.join(sorted(map(repr, schema)))}, which cannot be asked of a line of text. "
            "(Where the vocabulary has braces, generate(json_schema=…) takes more.)"
        )
    return found


def _read_object(schema: dict[str, Any], place: str, depth: int) -> ObjectSchema:
    properties, required = schema.pop("properties", None), schema.pop("required", [])
    if not isinstance(properties, Mapping) or not properties:
        raise RequestError(f"{place} is an object without properties; name at least one.")
    _checked_names(tuple(properties), f"{place}.properties")
    if not isinstance(required, list | tuple) or not all(
        isinstance(name, str) and name in properties for name in required
    ):
        raise RequestError(f"{place}.required = {required!r:.100} must be a list of names among its properties.")
    return _object_of(dict(properties), tuple(required), place, depth)


def _object_of(fields: Mapping[str, object], required: Sequence[str], place: str, depth: int) -> ObjectSchema:
    read, nullable = [], []
    for name, schema in fields.items():
        rest = _without_null(schema)
        if rest is not schema:
            nullable.append(name)
        is_required = name in required and rest is schema
        read.append((name, _read(rest, f"{place}.{name}", depth + 1), is_required))
    return ObjectSchema(tuple(read), tuple(nullable))


def _without_null(schema: object) -> object:
    """Return what a field may be beside null; the very same schema if null is not among it, or all there is."""
    if not isinstance(schema, Mapping):
        return schema
    kinds, values = _as_list(schema.get("type")), _as_list(schema.get("enum"))
    may_be_null = "null" in kinds and len(kinds) == 2
    has_null = None in values and len(values) > 1
    if may_be_null and (has_null or "enum" not in schema):  # both must allow it
        schema = {**schema, "type": next((kind for kind in kinds if kind != "null"), "null")}
    if has_null and (may_be_null or "type" not in schema):
        schema = {**schema, "enum": [value for value in values if value is not None]}
    for word in ("anyOf", "oneOf"):
        ways = _as_list(schema.get(word))
        others = [way for way in ways if not (isinstance(way, Mapping) and way.get("type") == "null")]
        if len(ways) == 2 and len(others) == 1 and isinstance(others[0], Mapping):
            beside = {name: part for name, part in schema.items() if name not in (word, *ANNOTATIONS)}
            schema = {**beside, **others[0]}
    return schema


def _read_choice(values: object, place: str, *, kind: str = "") -> ChoiceSchema:
    """kind: the type that the values must have, if one is named."""
    are_numbers = isinstance(values, list | tuple) and bool(values) and all(_is_number(value) for value in values)
    if not isinstance(values, list | tuple) or not (are_numbers or _are_words(values)):
        raise RequestError(f"{place} = {values!r:.100} must be a list of texts, or of numbers.")
    is_of_kind = are_numbers == (kind != "string") and not (kind == "integer" and not all(map(_is_whole, values)))
    if kind and not is_of_kind:
        raise RequestError(f"{place} = {values!r:.100} holds what is no {kind}, which its type asks for.")
    if not are_numbers:
        return ChoiceSchema(_checked_words(values, place))
    words = [format(Decimal(json.dumps(value)), "f") for value in values]
    for value, word in zip(values, words, strict=True):
        if not NUMBER.fullmatch(word):
            raise RequestError(
                f"{place} names {value!r:.60}: expected numbers of at most 15 digits before the point, 12 after it."
            )
    return ChoiceSchema(_checked_words(words, place), is_number=True)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_number(schema: dict[str, Any], place: str, *, is_integer: bool) -> NumberSchema:
    """Return the numbers between the bounds of a JSON schema, which are taken out of it."""
    least = [_end(schema, word, place, is_integer, decimal.ROUND_CEILING) for word in ("minimum", "exclusiveMinimum")]
    most = [_end(schema, word, place, is_integer, decimal.ROUND_FLOOR) for word in ("maximum", "exclusiveMaximum")]
    minimum = max((end for end in least if end is not None), default=None)
    maximum = min((end for end in most if end is not None), default=None)
    found = NumberSchema(is_integer, minimum, maximum)
    if minimum is not None and maximum is not None and minimum > maximum:
        kind = "whole number" if is_integer else "number of at most 12 digits behind the point"
        raise RequestError(f"{place} leaves no {kind} between its minimum and its maximum.")
    return found


def _end(schema: dict[str, Any], word: str, place: str, is_integer: bool, rounding: str) -> Decimal | None:
    """Return the outermost number that a bound lets through and a line can write; None where there is no bound."""
    if word not in schema:
        return None
    value = schema.pop(word)
    largest = _LARGEST[is_integer]
    says = (
        f"{place}.{word} = {value!r:.60} must be a number between -10^{largest.adjusted()} and 10^{largest.adjusted()}."
    )
    if not _is_number(value) or value != value or not abs(value) < largest:  # Decimal compares with no NaN
        raise RequestError(says)
    is_low, is_excluded = rounding == decimal.ROUND_CEILING, word.startswith("exclusive")
    exact = Decimal(str(value))
    # Numerics: a line's number becomes a float, so the next one inwards is what an excluded bound begins at.
    if is_excluded and not is_integer:
        exact = Decimal(math.nextafter(float(value), math.inf if is_low else -math.inf))
    end = exact.quantize(Decimal(1) if is_integer else _FINEST, rounding=rounding)
    if is_excluded and is_integer and end == exact:
        end += 1 if is_low else -1
    if abs(end) >= largest:
        raise RequestError(f"{says} It leaves none.")
    return end.normalize() + 0  # no negative zero


def _bounds(schema: dict[str, Any], least_word: str, most_word: str, default: int, place: str) -> tuple[int, int]:
    least = schema.pop(least_word, 0)
    most = schema.pop(most_word, max(default, least) if isinstance(least, int) else default)
    for word, value in ((least_word, least), (most_word, most)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100_000:
            raise RequestError(f"{place}.{word} = {value!r:.60} must be an integer in [0, 100000].")
    if least > most:
        raise RequestError(f"{place}.{least_word} = {least} must not be above {most_word} = {most}.")
    return least, most


def _are_words(values: Sequence[object]) -> bool:
    return len(values) > 0 and all(isinstance(value, str) for value in values)


def _checked_names(names: Sequence[object], place: str) -> tuple[str, ...]:
    """Return names that a colon can follow."""
    for name in names:
        if isinstance(name, str) and ":" in name:
            raise RequestError(f"{place} names {name!r:.80}: a colon ends a name in a line, so it can hold none.")
    return _checked_words(names, place)


def _checked_words(words: Sequence[object], place: str) -> tuple[str, ...]:
    """Return names or allowed texts that can stand in a line."""
    seen: set[str] = set()
    for word in words:
        if not isinstance(word, str) or not STRING.fullmatch(word):
            raise RequestError(
                f"{place} names {word!r:.80}: expected a text without ; | [ ] and line breaks, with single spaces "
                "between words and none around it."
            )
        if word in seen:
            raise RequestError(f"{place} names {word!r} twice.")
        seen.add(word)
    return tuple(str(word) for word in words)


def outline(schema: Schema) -> str:
    """Return what is asked for in a few words, for a prompt.

    >>> outline(read_schema({"name": str, "tags": [str]}))
    'name, tags'
    """
    match schema:
        case EntitiesSchema(types):
            return ", ".join(types)
        case RelationsSchema(relations):
            return ", ".join(relations)
        case ObjectSchema(fields):
            return ", ".join(name for name, _, _ in fields)
        case ListSchema(items):
            return outline(items)
        case ChoiceSchema(words):
            return "number" if schema.is_number else " or ".join(words)
        case NumberSchema():
            return "number"
        case StringSchema():
            return "text"

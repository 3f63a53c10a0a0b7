"""Records, entities and relations as one line that T5's vocabulary can write: no braces, no quotes, no line breaks.

    {"name": "Ada", "born": 1815, "fields": ["logic", "music"]}   name: Ada; born: 1815; fields: logic | music
    {"entities": [{"type": "person", "text": "Ada"}, …]}          person: Ada; place: London
    {"relations": [{"head": "Ada", "relation": "lived in", "tail": "London"}]}   Ada | lived in | London
    [{"name": "Ada"}, {"name": "Bob"}]                            [name: Ada] | [name: Bob]

Fields stand in the schema's order, the optional ones may be absent (and are None where the schema allows null).
Objects inside others, and objects and lists inside lists, stand in square brackets. `[]` is an empty list; `none` an
object without fields, or no entity or relation at all. Strings hold no `; | [ ]`, and one space between words, so that
every line can be read back in one way alone: `parse(linearize(value)) == value`. A line is what a model is trained to
write; the grammar of a schema lets any model write nothing else.
"""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from t5kit.errors import DataError
from t5kit.tasks.linear_schema import (
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

EMPTY_LIST: Final = "[]"
NOTHING: Final = "none"
FIELD_SEPARATOR: Final = "; "
ITEM_SEPARATOR: Final = " | "
NAME_SEPARATOR: Final = ": "


# Values to lines


def linearize(value: object, schema: object) -> str:
    """Return the line that stands for a value. Raises: DataError naming the place where it does not fit the schema."""
    return _write(value, read_schema(schema), "value")


def _write(value: Any, schema: Schema, place: str) -> str:
    match schema:
        case StringSchema():
            fits = isinstance(value, str) and bool(STRING.fullmatch(value))
            _check(fits, place, value, "a text without ; | [ ] and line breaks, single spaces between words")
            expected = f"a text of {schema.min_length} to {schema.max_length} characters"
            _check(schema.min_length <= len(value) <= schema.max_length, place, value, expected)
            return str(value)
        case NumberSchema():
            return _write_number(value, schema, place)
        case ChoiceSchema():
            return _write_choice(value, schema, place)
        case ListSchema():
            expected = f"a list of {schema.min_items} to {schema.max_items}"
            fits = isinstance(value, list | tuple) and schema.min_items <= len(value) <= schema.max_items
            _check(fits, place, value, expected)
            items = [_write_inner(item, schema.items, f"{place}[{n}]") for n, item in enumerate(value)]
            return ITEM_SEPARATOR.join(items) or EMPTY_LIST
        case ObjectSchema():
            _check(isinstance(value, Mapping), place, value, "an object")
            names = [name for name, _, _ in schema.fields]
            _check(set(value) <= set(names), place, value, f"no fields but {', '.join(names)}")
            pieces = []
            for name, field, is_required in schema.fields:
                if name in value and not (value[name] is None and name in schema.nullable):
                    text = _write_field(value[name], field, f"{place}.{name}")
                    pieces.append(f"{name}{NAME_SEPARATOR}{text}")
                else:
                    _check(not is_required, place, value, f"the field {name!r}")
            return FIELD_SEPARATOR.join(pieces) or NOTHING
        case EntitiesSchema(types):
            pieces = []
            for n, entity in enumerate(_rows(value, "entities", ("type", "text"), place)):
                _check(entity["type"] in types, f"{place}[{n}].type", entity["type"], f"one of: {', '.join(types)}")
                pieces.append(f"{entity['type']}{NAME_SEPARATOR}{_write(entity['text'], StringSchema(), place)}")
            return FIELD_SEPARATOR.join(pieces) or NOTHING
        case RelationsSchema(relations):
            pieces = []
            for n, row in enumerate(_rows(value, "relations", ("head", "relation", "tail"), place)):
                expected = f"one of: {', '.join(relations)}"
                _check(row["relation"] in relations, f"{place}[{n}].relation", row["relation"], expected)
                ends = [_write(row[end], StringSchema(), f"{place}[{n}].{end}") for end in ("head", "tail")]
                pieces.append(ITEM_SEPARATOR.join([ends[0], row["relation"], ends[1]]))
            return FIELD_SEPARATOR.join(pieces) or NOTHING


def _write_field(value: object, schema: Schema, place: str) -> str:
    """Return a field's value; a list needs no brackets there."""
    return _write(value, schema, place) if isinstance(schema, ListSchema) else _write_inner(value, schema, place)


def _write_inner(value: object, schema: Schema, place: str) -> str:
    text = _write(value, schema, place)
    return f"[{text}]" if isinstance(schema, ListSchema | ObjectSchema) else text


def _write_choice(value: Any, schema: ChoiceSchema, place: str) -> str:
    word = value
    if schema.is_boolean:
        word = str(value).lower() if isinstance(value, bool) else None
    elif schema.is_number:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        word = next((word for word in schema.words if is_number and json.loads(word) == value), None)
    _check(word in schema.words, place, value, _one_of(schema.words))
    return str(word)


def _write_number(value: Any, schema: NumberSchema, place: str) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 10**18  # NaN is not
    if schema.is_integer:
        fits = is_number and value == int(value) and schema.holds(Decimal(int(value)))
        _check(fits, place, value, str(schema))
        return str(int(value))
    text = str(value) if is_number else ""
    if isinstance(value, float) and not NUMBER.fullmatch(text):
        text = f"{value:.12f}".rstrip("0").rstrip(".")
    is_exact = is_number and bool(NUMBER.fullmatch(text)) and float(text) == value
    _check(is_exact, place, value, "a number that 15 digits before the point and 12 after it write exactly")
    _check(schema.holds(Decimal(text)), place, value, str(schema))
    return text


def _rows(value: Any, word: str, keys: tuple[str, ...], place: str) -> list[dict[str, Any]]:
    expected = f"{{{word!r}: [{{{', '.join(keys)}}}, …]}}"
    _check(isinstance(value, Mapping) and set(value) == {word}, place, value, expected)
    rows = value[word]
    fits = isinstance(rows, list | tuple) and len(rows) <= DEFAULT_MAX_ITEMS
    _check(fits and all(isinstance(row, Mapping) and set(row) == set(keys) for row in rows), place, value, expected)
    return [dict(row) for row in rows]


def _check(fits: bool, place: str, value: object, expected: str) -> None:
    if not fits:
        raise DataError(f"{place} = {_shown(value)} does not fit its schema: expected {expected}.")


def _one_of(words: Sequence[str]) -> str:
    return f"one of: {', '.join(words[:20])}{', …' if len(words) > 20 else ''}"


def _shown(value: object) -> str:
    try:
        return f"{value!r:.100}"
    except ValueError:  # an integer of more digits than Python writes
        return f"a {type(value).__name__}"


# Lines to values


def parse(line: str, schema: object) -> Any:
    """Return the value that a line stands for. Raises: DataError saying what is wrong with it."""
    return _parse(line, read_schema(schema), line)


def _parse(text: str, schema: Schema, line: str) -> Any:
    match schema:
        case StringSchema():
            fits = bool(STRING.fullmatch(text)) and schema.min_length <= len(text) <= schema.max_length
            return text if fits else _refuse(line, text, f"{schema.min_length} to {schema.max_length} characters")
        case NumberSchema(is_integer):
            pattern = INTEGER if is_integer else NUMBER
            fits = bool(pattern.fullmatch(text)) and schema.holds(Decimal(text))
            return json.loads(text) if fits else _refuse(line, text, str(schema))
        case ChoiceSchema(words, is_boolean):
            if text not in words:
                return _refuse(line, text, _one_of(words))
            if schema.is_number:
                return json.loads(text)
            return text == "true" if is_boolean else text
        case ListSchema():
            parts = [] if text == EMPTY_LIST else _split(text, ITEM_SEPARATOR)
            if not schema.min_items <= len(parts) <= schema.max_items:
                return _refuse(line, text, f"{schema.min_items} to {schema.max_items} items")
            return [_parse_inner(part, schema.items, line) for part in parts]
        case ObjectSchema():
            return _parse_object(text, schema, line)
        case EntitiesSchema(types):
            entities = []
            for part in _rows_of(text, line):
                kind, _, span = part.partition(NAME_SEPARATOR)
                if kind not in types:
                    return _refuse(line, part, f"a type ({', '.join(types)}), a colon and a text")
                entities.append({"type": kind, "text": _parse(span, StringSchema(), line)})
            return {"entities": entities}
        case RelationsSchema(relations):
            rows = []
            for part in _rows_of(text, line):
                pieces = part.split(ITEM_SEPARATOR)
                if len(pieces) != 3 or pieces[1] not in relations:
                    return _refuse(line, part, f"text | relation ({', '.join(relations)}) | text")
                head, tail = (_parse(piece, StringSchema(), line) for piece in (pieces[0], pieces[2]))
                rows.append({"head": head, "relation": pieces[1], "tail": tail})
            return {"relations": rows}


def _parse_object(text: str, schema: ObjectSchema, line: str) -> dict[str, Any]:
    parts = [] if text == NOTHING else _split(text, FIELD_SEPARATOR)
    value: dict[str, Any] = {}
    rest = iter(parts)
    part = next(rest, None)
    for name, field, is_required in schema.fields:
        label = f"{name}{NAME_SEPARATOR}"
        if part is not None and part.startswith(label):
            inner = part[len(label) :]
            is_list = isinstance(field, ListSchema)
            value[name] = _parse(inner, field, line) if is_list else _parse_inner(inner, field, line)
            part = next(rest, None)
        elif is_required:
            _refuse(line, text, f"the field {name!r}")
        elif name in schema.nullable:
            value[name] = None
    if part is not None:
        _refuse(line, part, f"only the fields {', '.join(name for name, _, _ in schema.fields)}, in this order")
    return value


def _parse_inner(text: str, schema: Schema, line: str) -> Any:
    if not isinstance(schema, ListSchema | ObjectSchema):
        return _parse(text, schema, line)
    if not (text.startswith("[") and text.endswith("]")):
        _refuse(line, text, "square brackets around it")
    return _parse(text[1:-1], schema, line)


def _rows_of(text: str, line: str) -> list[str]:
    rows = [] if text == NOTHING else text.split(FIELD_SEPARATOR)
    if len(rows) > DEFAULT_MAX_ITEMS:
        _refuse(line, text, f"at most {DEFAULT_MAX_ITEMS} of them")
    return rows


def _split(text: str, separator: str) -> list[str]:
    """Return the parts between separators that stand outside all brackets."""
    parts, start, depth, place = [], 0, 0, 0
    while place < len(text):
        if text[place] == "[":
            depth += 1
        elif text[place] == "]":
            depth -= 1
        elif not depth and text.startswith(separator, place):
            parts.append(text[start:place])
            place += len(separator)
            start = place
            continue
        place += 1
    return [*parts, text[start:]]


def _refuse(line: str, part: str, expected: str) -> Any:
    where = "" if part == line else f" in {line!r:.200}"
    raise DataError(f"{part!r:.100}{where} is no line of this schema: expected {expected}.")


def parse_beginning(line: str, schema: object) -> Any | None:
    """Return the value of the longest beginning of a line, cut between items or fields, that is whole; None if none is.

    For answers that were cut: "person: Ada; place: Lon" gives the person.
    """
    checked = read_schema(schema)
    ends = [match.start() for match in re.finditer(r"; | \| ", line)]
    for end in reversed(ends):
        try:
            return _parse(line[:end], checked, line[:end])
        except DataError:
            continue
    return None

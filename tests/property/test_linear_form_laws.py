"""Values as lines: every value comes back from its line, and a schema's grammar writes its lines and nothing else."""

import json
import random
import re
import unicodedata
from typing import Any

import hypothesis
import jsonschema
import numpy as np
import pytest
from hypothesis import strategies as st

from t5kit import DataError, Model, RequestError
from t5kit.decoding import Grammar, GrammarCompiler
from t5kit.tasks.linear_form import linearize, parse, parse_beginning
from t5kit.tasks.linear_grammar import linear_grammar
from t5kit.tasks.linear_schema import read_schema
from t5kit.text import ByteTokenizer

TOKENIZER = ByteTokenizer()
COMPILER = GrammarCompiler(TOKENIZER, vocab_size=384)
WORDS = st.lists(st.sampled_from(["a", "b c", "né", "none", "true", "x:y", "7", "(z)", "日本"]), min_size=1, max_size=3)
TEXTS = WORDS.map(" ".join)
NAMES = st.lists(st.sampled_from(["name", "a b", "none", "né", "x"]), min_size=1, max_size=3, unique=True)


def scalars() -> st.SearchStrategy[tuple[dict[str, Any], Any]]:
    """Give (JSON schema, a value of it)."""
    chosen = st.lists(TEXTS, min_size=1, max_size=3, unique=True)
    return st.one_of(
        TEXTS.map(lambda text: ({"type": "string", "minLength": 1, "maxLength": 40}, text)),
        st.integers(-(10**18) + 1, 10**18 - 1).map(lambda number: ({"type": "integer"}, number)),
        st.decimals(-(10**6), 10**6, places=3).map(lambda number: ({"type": "number"}, float(number))),
        st.booleans().map(lambda fact: ({"type": "boolean"}, fact)),
        chosen.flatmap(lambda words: st.sampled_from(words).map(lambda word: ({"enum": words}, word))),
        st.lists(st.sampled_from([-7, 0, 1, 12, 120, 1.5, 1e-5, -2.5e-7]), min_size=1, max_size=3, unique=True).flatmap(
            lambda numbers: st.sampled_from(numbers).map(lambda number: ({"enum": numbers}, number))
        ),
        bounded(st.integers(-(10**18) + 1, 10**18 - 1) | st.integers(-30, 130), "integer"),
        bounded(DECIMALS, "number"),
    )


DECIMALS = st.one_of(st.decimals(-(10**6), 10**6, places=3), st.decimals(-2, 2, places=2), st.integers(-12, 12)).map(
    float
)


def bounded(numbers: st.SearchStrategy[Any], kind: str) -> st.SearchStrategy[tuple[dict[str, Any], Any]]:
    """Give a schema with some bounds that a number keeps, and the number."""

    def made(parts: tuple[Any, Any, Any, int]) -> tuple[dict[str, Any], Any]:
        least, number, most = sorted(parts[:3])
        bounds = {"minimum": least, "maximum": most}
        if parts[3] & 1 and least < number:
            bounds["exclusiveMinimum"] = bounds.pop("minimum")
        if parts[3] & 2 and number < most:
            bounds["exclusiveMaximum"] = bounds.pop("maximum")
        if parts[3] >= 12:  # one side alone
            bounds.popitem()
        return {"type": kind, **bounds}, number

    return st.tuples(numbers, numbers, numbers, st.integers(0, 15)).map(made)


def lists_of(inner: st.SearchStrategy[tuple[dict[str, Any], Any]]) -> st.SearchStrategy[tuple[dict[str, Any], Any]]:
    def repeated(pair: tuple[dict[str, Any], Any]) -> st.SearchStrategy[tuple[dict[str, Any], Any]]:
        def made(bounds: tuple[int, int, int]) -> tuple[dict[str, Any], Any]:
            least, count, most = sorted(bounds)
            return {"type": "array", "items": pair[0], "minItems": least, "maxItems": most}, [pair[1]] * count

        return st.tuples(*[st.integers(0, 3)] * 3).map(made)

    return inner.flatmap(repeated)


def objects_of(inner: st.SearchStrategy[tuple[dict[str, Any], Any]]) -> st.SearchStrategy[tuple[dict[str, Any], Any]]:
    def joined(names: list[str]) -> st.SearchStrategy[tuple[dict[str, Any], Any]]:
        rows = st.tuples(*[st.tuples(inner, st.booleans(), st.booleans()) for _ in names])

        def made(fields: tuple[Any, ...]) -> tuple[dict[str, Any], Any]:
            properties = {name: pair[0] for name, (pair, _, _) in zip(names, fields, strict=True)}
            required = [name for name, (_, is_required, _) in zip(names, fields, strict=True) if is_required]
            value = {
                name: pair[1]
                for name, (pair, is_required, is_there) in zip(names, fields, strict=True)
                if is_required or is_there
            }
            schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
            return schema, value

        return rows.map(made)

    return NAMES.flatmap(joined)


PAIRS = st.recursive(scalars(), lambda inner: lists_of(inner) | objects_of(inner), max_leaves=4)


def permitted(grammar: str, line: str) -> bool | str:
    constraint = COMPILER(Grammar("lark", grammar))
    ids = TOKENIZER.encode(line)
    for place, token in enumerate(ids):
        if not constraint.allowed(ids[:place])[token]:
            return f"not permitted after {TOKENIZER.decode(ids[:place])!r}: {TOKENIZER.decode(ids[place:])!r}"
    return True


def walk(grammar: str, generator: random.Random, *, most: int = 400) -> str | None:
    """Return a line drawn from what the grammar permits, preferring its ends; None if it came to none."""
    constraint = COMPILER(Grammar("lark", grammar))
    signs = {int(token) for token in TOKENIZER.encode("; |[]:n0a", add_eos=False)}
    ids: list[int] = []
    while len(ids) < most:
        allowed = np.flatnonzero(constraint.allowed(ids)).tolist()
        assert allowed, TOKENIZER.decode(ids)
        if TOKENIZER.eos_id in allowed and generator.random() < 0.3:
            return TOKENIZER.decode(ids)
        structural = [token for token in allowed if token in signs]
        ascii_ones = [token for token in allowed if token < 131 and token != TOKENIZER.eos_id]
        if not ascii_ones and allowed == [TOKENIZER.eos_id]:
            return TOKENIZER.decode(ids)
        choices = structural if structural and generator.random() < 0.6 else ascii_ones or allowed
        ids.append(generator.choice([token for token in choices if token != TOKENIZER.eos_id] or allowed))
    return None


@hypothesis.settings(max_examples=80)
@hypothesis.given(pair=PAIRS)
def test_a_value_comes_back_from_its_line(pair: tuple[dict[str, Any], Any]) -> None:
    schema, value = pair
    jsonschema.validate(value, schema)
    line = linearize(value, schema)
    assert parse(line, schema) == value
    assert not set('{}\n"\\') & set(line)


@hypothesis.settings(max_examples=30)
@hypothesis.given(pair=PAIRS)
def test_the_grammar_permits_every_values_line(pair: tuple[dict[str, Any], Any]) -> None:
    schema, value = pair
    assert permitted(linear_grammar(schema), linearize(value, schema)) is True


@hypothesis.settings(max_examples=25)
@hypothesis.given(pair=PAIRS, seed=st.integers(0, 2**32))
def test_whatever_the_grammar_permits_is_a_valid_value(pair: tuple[dict[str, Any], Any], seed: int) -> None:
    schema, _ = pair
    line = walk(linear_grammar(schema), random.Random(seed))
    hypothesis.assume(line is not None)
    if line is not None:
        value = parse(line, schema)
        jsonschema.validate(json.loads(json.dumps(value)), schema)
        assert parse(linearize(value, schema), schema) == value


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": {"enum": ["a", "a b", "a b c"]}}, ["a", "a b c", "a b", "a"]),
        ({"x": ["a", "a b"], "y": ["none", "none of it"]}, {"x": "a", "y": "none"}),
        ({"relations": ["is", "is in"]}, {"relations": [{"head": "none", "relation": "is", "tail": "a b"}]}),
        ({"entities": ["a", "a b"]}, {"entities": [{"type": "a b", "text": "a"}, {"type": "a", "text": "none"}]}),
        ([[[int]]], [[[1, 20]], [[], [3]], []]),
        ({"a": [{"b": [str]}], "c": {"d": [float]}}, {"a": [{"b": []}, {"b": ["x", "y z"]}], "c": {"d": [0.5, -2]}}),
    ],
)
def test_words_that_begin_alike_and_nested_lists_are_told_apart(schema: Any, value: Any) -> None:
    line = linearize(value, schema)
    assert parse(line, schema) == value
    assert permitted(linear_grammar(schema), line) is True


# As pydantic's model_json_schema() writes a model with a nested one, an enum, Optional fields and defaults.
PYDANTIC = {
    "$defs": {
        "Place": {
            "properties": {
                "city": {"title": "City", "type": "string"},
                "zip": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Zip"},
            },
            "required": ["city"],
            "title": "Place",
            "type": "object",
        },
        "Kind": {"enum": ["cat", "dog"], "title": "Kind", "type": "string"},
    },
    "properties": {
        "name": {"examples": ["Ada"], "title": "Name", "type": "string"},
        "age": {"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "Age"},
        "kind": {"$ref": "#/$defs/Kind", "default": "cat", "description": "What it is."},
        "home": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}], "default": None},
        "seen": {"items": {"$ref": "#/$defs/Place"}, "title": "Seen", "type": "array"},
        "stars": {"enum": [1, 2, 3], "title": "Stars", "type": "integer"},
        "legs": {"default": 4, "maximum": 8, "minimum": 0, "title": "Legs", "type": "integer"},
        "first": {"allOf": [{"$ref": "#/$defs/Place"}], "title": "First"},
    },
    "required": ["name", "age", "seen", "stars"],
    "title": "Animal",
    "type": "object",
}


def test_a_pydantic_models_schema_is_read_and_its_values_come_back() -> None:
    whole = {
        "name": "Rex",
        "age": 7,
        "kind": "dog",
        "home": {"city": "Rome", "zip": "00100"},
        "seen": [{"city": "Bonn", "zip": None}],
        "stars": 2,
        "legs": 3,
        "first": {"city": "Ulm", "zip": None},
    }
    line = linearize(whole, PYDANTIC)
    assert line == (
        "name: Rex; age: 7; kind: dog; home: [city: Rome; zip: 00100]; seen: [city: Bonn]; stars: 2; legs: 3; "
        "first: [city: Ulm]"
    )
    few = {"name": "Rex", "age": None, "home": None, "seen": [], "stars": 1}
    assert linearize(few, PYDANTIC) == "name: Rex; seen: []; stars: 1"
    for value in (whole, few):
        jsonschema.validate(value, PYDANTIC)
        assert parse(linearize(value, PYDANTIC), PYDANTIC) == value
        assert permitted(linear_grammar(PYDANTIC), linearize(value, PYDANTIC)) is True
    assert parse(line, {"pet": PYDANTIC}["pet"]) == parse(line, read_schema(PYDANTIC)) == whole
    inside = {"pets": [PYDANTIC]}
    assert parse(linearize({"pets": [whole, few]}, inside), inside) == {"pets": [whole, few]}


@hypothesis.settings(max_examples=25)
@hypothesis.given(seed=st.integers(0, 2**32))
def test_what_the_grammar_of_a_pydantic_model_permits_is_a_valid_value(seed: int) -> None:
    line = walk(linear_grammar(PYDANTIC), random.Random(seed))
    if line is not None:
        jsonschema.validate(parse(line, PYDANTIC), PYDANTIC)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"]},
        {"enum": ["x", None]},
        {"enum": ["x", None], "type": ["string", "null"]},
        {"oneOf": [{"type": "null"}, {"type": "string"}]},
        {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}], "default": None, "title": "A"},
    ],
)
def test_a_field_that_may_be_null_is_none_where_it_is_left_out(schema: dict[str, Any]) -> None:
    for record in ({"type": "object", "properties": {"a": schema}, "required": ["a"]}, {"a": schema}):
        assert linearize({"a": None}, record) == linearize({}, record) == "none"
        assert parse("none", record) == {"a": None}
        assert parse(linearize({"a": "x"}, record), record) == {"a": "x"}


def test_names_of_keywords_are_names_among_properties() -> None:
    names = ["default", "$ref", "allOf", "enum", "examples", "definitions"]
    schema = {"type": "object", "properties": {name: {"type": "boolean"} for name in names}, "required": names}
    value = dict.fromkeys(names, True)
    assert parse(linearize(value, schema), schema) == value


SOURCES = [
    "Ada  Lovelace (née Byron), born in London;\nmet Charles | Babbage [1833]. 日本",
    "नमस्ते राम; दिल्ली में रहते हैं",
    "มหาวิทยาลัย ที่ กรุงเทพ",
    "می\u200cخواهم کتاب\u200cها",
    "e\u0301te\u0301 a\u0308hnlich \u2764\ufe0f ക്\u200dഷ x_1",
]


def is_of_a_word(character: str) -> bool:
    is_mark_or_joiner = unicodedata.category(character)[0] == "M" or character in "\u200c\u200d"
    return character.isalnum() or character == "_" or is_mark_or_joiner


def is_a_border(text: str, place: int) -> bool:
    return not (0 < place < len(text) and is_of_a_word(text[place - 1]) and is_of_a_word(text[place]))


@pytest.mark.parametrize("source", SOURCES)
@hypothesis.settings(max_examples=15)
@hypothesis.given(seed=st.integers(0, 2**32))
def test_copied_spans_are_runs_of_the_texts_words(source: str, seed: int) -> None:
    for schema in ({"entities": ["person", "a place"]}, {"relations": ["met", "born in"]}):
        line = walk(linear_grammar(schema, copied_from=source), random.Random(seed))
        if line is None:
            continue
        value = parse(line, schema)
        spaced = " ".join(source.split())
        for row in next(iter(value.values())):
            for word in ("text", "head", "tail"):
                span = row.get(word)
                if span is None:
                    continue
                assert span in spaced and any(letter.isalnum() for letter in span)
                assert not set(";|[]") & set(span)
                ends = [match.span() for match in re.finditer(re.escape(span), spaced)]
                assert any(is_a_border(spaced, start) and is_a_border(spaced, end) for start, end in ends), span


def test_lines_read_as_people_write_them() -> None:
    assert linearize(
        {"name": "Ada", "born": 1815, "fields": ["logic", "music"]}, {"name": str, "born": int, "fields": [str]}
    ) == ("name: Ada; born: 1815; fields: logic | music")
    entities = {"entities": [{"type": "person", "text": "Ada"}, {"type": "place", "text": "London"}]}
    assert linearize(entities, {"entities": ["person", "place"]}) == "person: Ada; place: London"
    relations = {"relations": [{"head": "Ada", "relation": "lived in", "tail": "London"}]}
    assert linearize(relations, {"relations": ["lived in"]}) == "Ada | lived in | London"
    assert linearize([{"name": "Ada"}, {"name": "Bob"}], [{"name": str}]) == "[name: Ada] | [name: Bob]"
    assert linearize({"entities": []}, {"entities": ["x"]}) == "none"
    assert parse("none", {"relations": ["x"]}) == {"relations": []}


DOUBLING: dict[str, Any] = {"0": {"type": "boolean"}} | {
    str(level): {
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{level - 1}"} for name in ("a", "b", "c")},
    }
    for level in range(1, 13)
}
"""Each definition names the one before three times."""


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "is empty"),
        (set, "expected str, int"),
        (3, "is no schema"),
        ({"a": None}, r"schema\.a = None is no schema"),
        ({"a:b": str}, "a colon ends a name"),
        ({"entities": ["a;b"]}, "without ; "),
        ({"entities": ["a", "a"]}, "'a' twice"),
        ({"type": "null"}, "must be one of: object, array"),
        ({"type": "string", "pattern": "a"}, "'pattern', which cannot be asked"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "must not be above"),
        ({"type": "string", "maxLength": 0}, "leaves no text"),
        ({"type": "integer", "minimum": 3, "exclusiveMaximum": 3}, "leaves no whole number between"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "leaves no number of at most 12 digits"),
        ({"type": "integer", "minimum": "0"}, r"minimum = '0' must be a number between -10\^18"),
        ({"type": "number", "exclusiveMinimum": True}, "exclusiveMinimum = True must be a number"),
        ({"type": "number", "maximum": 1e15}, r"maximum = 1000000000000000.0 must be a number between -10\^15"),
        ({"type": "number", "maximum": float("nan")}, "maximum = nan must be a number"),
        ({"type": "integer", "minimum": 10**400}, "must be a number between"),
        ({"type": "number", "exclusiveMinimum": 999999999999999.9}, "It leaves none"),
        ({"type": "number", "multipleOf": 2}, "'multipleOf', which cannot be asked"),
        ({"type": "array"}, "without items"),
        ({"type": "object"}, "without properties"),
        ({"type": "object", "properties": {"a": str}, "required": ["b"]}, "among its properties"),
        ({"type": "integer", "enum": ["1"]}, "no integer, which its type asks for"),
        ({"type": "integer", "enum": [1, 1.5]}, "no integer, which its type asks for"),
        ({"a": {"type": ["string", "null"], "enum": ["a"]}}, "names several types"),
        ({"a": {"type": "string", "enum": ["a", None]}}, "must be a list of texts"),
        ({"enum": [1, "a"]}, "must be a list of texts, or of numbers"),
        ({"enum": [True]}, "must be a list of texts, or of numbers"),
        ({"enum": [1e-30]}, "15 digits before the point"),
        ({"$ref": "#/$defs/a", "$defs": {}}, "has no 'a' there"),
        ({"$ref": "other.json"}, "which is not in it"),
        ({"type": "array", "items": {"$ref": "#"}}, "it has no end"),
        ({"type": "array", "items": [{"type": "string"}]}, "has a schema for each place"),
        ({"who": {"type": "array", "items": [{"type": "string"}] * 2}}, "has a schema for each place"),
        (
            {"$ref": "#/$defs/a", "type": "array", "$defs": {"a": {"type": "string"}}},
            "beside a \\$ref that says it too",
        ),
        ({"$ref": "#/$defs/12", "$defs": DOUBLING}, "more than 10,000 parts"),
        ([[[[[[[[[[[str]]]]]]]]]]], "nested more than"),
    ],
)
def test_a_schema_that_no_line_can_hold_is_named(schema: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_schema(schema)


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        ({"a": "x; y"}, {"a": str}, r"value\.a = 'x; y'"),
        ({"a": "x"}, {"a": int}, "a whole number"),
        ({"a": True}, {"a": int}, "a whole number"),
        ({"a": float("inf")}, {"a": int}, "a whole number"),
        ({"a": 1.5}, {"a": int}, "a whole number"),
        ({"a": 10**5000}, {"a": int}, "a whole number"),
        ({"a": 10**5000}, {"a": float}, "write exactly"),
        ({"a": "1"}, {"a": float}, "write exactly"),
        ({"a": float("nan")}, {"a": float}, "write exactly"),
        ({"a": 1e-30}, {"a": float}, "write exactly"),
        ({"a": 1.5, "b": 2}, {"a": float}, "no fields but a"),
        ({}, {"a": str}, "the field 'a'"),
        (["a"], {"a": str}, "an object"),
        ({"entities": [{"type": "x", "text": "a"}]}, {"entities": ["y"]}, "one of: y"),
        ({"entities": [{"type": "y"}]}, {"entities": ["y"]}, "type, text"),
        ({"relations": 1}, {"relations": ["y"]}, "head, relation, tail"),
    ],
)
def test_a_value_that_does_not_fit_is_named(value: Any, schema: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        linearize(value, schema)


@pytest.mark.parametrize(
    ("line", "schema"),
    [
        ("", {"a": str}),
        ("a:x", {"a": str}),
        ("b: x; a: y", {"a": str, "b": str}),
        ("a: x; c: y", {"a": str}),
        ("a: x", [{"a": str}]),
        ("[a: x", [{"a": str}]),
        ("a | b | c | d", {"type": "array", "items": str, "maxItems": 3}),
        ("person Ada", {"entities": ["person"]}),
        ("Ada | knows", {"relations": ["knows"]}),
        ("01", int),
        ("yes", bool),
    ],
)
def test_a_line_of_another_form_is_refused(line: str, schema: Any) -> None:
    with pytest.raises(DataError, match="is no line of this schema"):
        parse(line, schema)


def test_the_whole_beginning_of_a_cut_line_is_kept() -> None:
    assert parse_beginning("person: Ada; place: Lon", {"entities": ["person", "place"]}) == {
        "entities": [{"type": "person", "text": "Ada"}]
    }
    assert parse_beginning("[a: x; b: y] | [a: z; b", [{"a": str, "b": str}]) == [{"a": "x", "b": "y"}]
    assert parse_beginning("a: x; b: y", {"a": str, "b": str, "c": str}) is None
    assert parse_beginning("person: A", {"entities": ["person"]}) is None


# Through a model

SCHEMAS: list[Any] = [
    {"entities": ["person", "place"]},
    {"relations": ["met", "born in"]},
    {"name": str, "age": int, "kind": ["cat", "dog"], "is_wild": bool, "weight": float},
    [{"name": str}],
    {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
            "owner": {"type": "object", "properties": {"id": {"type": "integer"}}},
        },
    },
]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"temperature": 1.5, "seed": 3}])
@pytest.mark.parametrize("is_copied", [True, False])
def test_what_a_model_extracts_is_always_of_the_schema(model: Model, is_copied: bool, options: dict[str, Any]) -> None:
    texts = ["Ada met Bob", "(London), 1815; [x]"]
    num_complete = 0
    for schema in SCHEMAS:
        for found in model.extract(texts, schema, is_copied=is_copied, max_new_tokens=60, **options):
            num_complete += found.is_complete
            if found.value is not None:
                assert parse(linearize(found.value, schema), schema) == found.value
            if found.is_complete:
                is_written_so = linearize(found.value, schema) == found.line
                assert is_written_so or "weight" in schema  # a number can be written in several ways
                assert parse(found.line, schema) == found.value
    assert num_complete


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"a": {"anyOf": [{"type": "string"}, {"type": "boolean"}]}}, "'anyOf', which cannot be asked"),
        ({"type": ["integer", "null"]}, "names several types"),
        ({"type": "object", "properties": {"a": {"type": ["string", "integer", "null"]}}}, "names several types"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "null may stand beside it in a field alone"),
        (
            {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}},
            "'anyOf', which",
        ),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": [["a"]]}, "must be a list of names"),
        ({"type": "string", 5: 1, "x": 2}, "'x', 5, which cannot be asked"),
        ({"entities": ["person"], "relations": ["met"]}, "one of them at a time"),
    ],
)
def test_a_json_schema_that_cannot_be_asked_is_no_plain_one(schema: Any, says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        read_schema(schema)


def test_one_way_of_several_words_for_it_is_that_way() -> None:
    for word in ("anyOf", "oneOf", "allOf"):
        assert read_schema({"a": {word: [{"type": "integer", "minimum": 1}], "title": "A"}}) == read_schema(
            {"a": {"type": "integer", "minimum": 1}}
        )
    assert read_schema({"type": ["string"], "maxLength": 3}) == read_schema({"type": "string", "maxLength": 3})
    definitions = {"Point[float]": {"type": "number"}, "a/b~c": {"type": "boolean"}}
    for reference, kind in (("Point%5Bfloat%5D", "number"), ("a~1b~0c", "boolean")):
        assert read_schema({"$ref": f"#/$defs/{reference}", "$defs": definitions}) == read_schema({"type": kind})


def test_a_json_schema_may_leave_its_type_to_its_keywords_and_a_plain_one_has_any_names() -> None:
    whole = {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}}}}
    without = {"properties": {"tags": {"items": {"type": "string"}}}}
    assert read_schema(without) == read_schema(whole)
    plain = read_schema({"items": [str], "required": bool, "type": ["cat", "dog"], "properties": {"colour": str}})
    assert [name for name, _, _ in plain.fields] == ["items", "required", "type", "properties"]  # type: ignore[union-attr]


def test_extract_of_one_text_and_of_many_agree(model: Model) -> None:
    texts = ["Ada met Bob", "", "London"]
    many = model.extract(texts, SCHEMAS[0], max_new_tokens=40)
    assert [model.extract(text, SCHEMAS[0], max_new_tokens=40).line for text in texts] == [each.line for each in many]
    assert many[1].value == {"entities": []}, "nothing can be copied from an empty text"
    assert model.extract("; [] ?!", [{"a": str}]).value == []
    optional = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}}
    assert "a" not in model.extract("…", optional, max_new_tokens=40).value
    with pytest.raises(DataError, match="no word to copy"):
        model.extract(["a", "…"], {"a": str})
    short = {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 5}, "maxItems": 1}
    assert model.extract("(London)", short).value == [], "words are copied whole"
    assert model.extract("(Rome)", short | {"minItems": 1}).value in (["Rome"], ["(Rome"], ["Rome)"])
    assert model.extract([], SCHEMAS[0]) == []


def test_a_text_that_nothing_can_be_taken_of_is_named_by_its_place(model: Model) -> None:
    with pytest.raises(DataError, match="Text 1: The text holds no word to copy"):
        model.extract(["a b", "", "c d"], {"name": str})


def test_fields_are_asked_one_by_one_and_put_together(model: Model) -> None:
    schema = {"name": {"type": "string", "maxLength": 5}, "kind": ["cat", "dog"], "tags": [bool], "at": {"x": bool}}
    texts = ["Ada met Bob", "(Rome)"]
    found = model.extract(texts, schema, method="fields", max_new_tokens=60)
    for text, each in zip(texts, found, strict=True):
        assert each.is_complete and list(each.value) == list(schema)
        assert parse(linearize(each.value, schema), schema) == each.value
        prompt = f"Read the text and answer the question. Text: {text} Question: What is the kind?"
        written = model.generate(prompt, allowed_outputs=["cat", "dog"])
        assert each.value["kind"] == written and f"kind: {written}" in each.line
    alone = model.extract(texts[1], schema, method="fields", max_new_tokens=60)
    assert alone.value == found[1].value and alone.score == pytest.approx(found[1].score, abs=1e-3)
    cut = model.extract(texts, {"a": str, "b": bool}, method="fields", is_copied=False, max_new_tokens=6)
    assert all(each.is_complete or each.value is None for each in cut)
    nullable = {"a": {"type": ["string", "null"]}, "b": bool}
    assert model.extract("…", nullable, method="fields", max_new_tokens=40).value["a"] is None
    assert model.extract("…", nullable, max_new_tokens=40).value["a"] is None
    with pytest.raises(RequestError, match="is none"):
        model.extract("a", SCHEMAS[0], method="fields")
    with pytest.raises(RequestError, match="line, fields"):
        model.extract("a", schema, method="words")  # type: ignore[call-overload]
    with pytest.raises(RequestError, match=r"\{text\} and \{field\}"):
        model.extract("a", schema, method="fields", prompt="{text}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "a"}, "extract takes no regex"),
        ({"num_return_sequences": 2, "num_beams": 2}, "one answer a text"),
        ({"prompt": "x"}, "must hold {text}"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_extract_names_a_wrong_option(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.extract("a", SCHEMAS[0], **options)


@pytest.mark.weights
def test_flan_t5_small_fills_a_schema_with_words_of_the_text(test_files: Any) -> None:
    text = "Ada Lovelace was born in London in 1815; she worked with Charles Babbage {1833}."
    with Model.from_pretrained(test_files / "flan-t5-small") as model:
        found = model.extract(text, {"name": str, "job": ["poet", "smith"]}, num_beams=4, max_new_tokens=64)
        assert found.is_complete and found.value["name"] in text and found.value["job"] in ("poet", "smith")
        asked = model.extract(text, {"place": str, "year": str}, method="fields")
        assert asked.value == {"place": "London", "year": "1815"}
        with pytest.raises(RequestError, match="cannot write"):
            model.extract(text, {"{x}": str})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from t5kit.checkpoint import write_folder
    from t5kit.testing import TINY_CONFIGS
    from t5kit.testing.answers import tensors_that_end

    config = TINY_CONFIGS["byt5"]
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_folder(path, config, tensors_that_end(config), save_tokenizer=ByteTokenizer().save)
    with Model.from_pretrained(path, engine="native", weights="float32", threads=1) as model:
        yield model

"""Grammars permit exactly the texts they describe, in every way of cutting them into tokens."""

import dataclasses
import functools
import json
import random
import re
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import numpy as np
import pytest
import tokenizers
from hypothesis import strategies as st

from t5kit import Model, RequestError
from t5kit.config import T5Config
from t5kit.decoding import Constraint, Grammar, GrammarCompiler
from t5kit.errors import DependencyError
from t5kit.text import ByteTokenizer, SentencePieceTokenizer, Tokenizer, train_tokenizer
from t5kit.text.detokenizer import LeadingSpace
from t5kit.text.json_tokenizer import JsonTokenizer
from t5kit.text.sentencepiece_format import Piece, PieceKind, append_pieces
from t5kit.text.tokenizer_config import TokenizerConfig

REGEXES = [
    r"[0-9]{4}|unknown",
    r"(yes|no)( (yes|no))*",
    r"[a-e ]{0,12}",
    r"-?(0|[1-9][0-9]*)",
    r"é+ [à-ü]{2}",
    r"a/b\.c",
    r"",
    r"(yes| no)",
    r"[a-e ]{3}",
    r"a  b ?",
    r"^(ab|cab)$",
    r"\A-?[0-9]+\Z",
    r"^yes|no$",
]
LOOSE_REGEXES = [r".{3}", r"[^0-9]{2,4}", r"(?s).{0,3}", r"\s[a-z]+", r" {2}a|b", r"(?s) ?.{2} ?"]
"""Of texts most of which a vocabulary cannot write, or cannot begin with."""
KINDS = ["bytes", "pieces", "pieces and bytes", "tokens"]
"""The last: tokenizer.json's decoding, which drops one space alone."""
WORDS = "yes no unknown 0 1 2 3 4 5 6 7 8 9 18 1843 - a b c d e ab bed cab a/b.c é à ü éà bead deed . /".split()


@functools.cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "tokens":
        return without_sentencepiece(tokenizer_of("pieces and bytes"))
    lines = [" ".join(np.random.Generator(np.random.Philox(n)).choice(WORDS, 12)) for n in range(400)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        corpus.write_text("\n".join(lines), encoding="utf-8")
        return train_tokenizer(
            [corpus],
            Path(folder) / "vocabulary",
            vocab_size=60 if kind == "pieces" else 320,
            byte_fallback=kind == "pieces and bytes",
            num_sentinels=3,
            character_coverage=1.0,
            num_threads=1,
        )


def without_sentencepiece(pieces: Tokenizer) -> JsonTokenizer:
    """Return the same vocabulary as tokenizer.json decodes it, and a token that begins with a space of its own."""
    with tempfile.TemporaryDirectory() as folder:
        pieces.save(Path(folder))
        library = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    library.add_tokens([tokenizers.AddedToken(" cab", normalized=False)])
    return JsonTokenizer(
        library.to_str().encode(),
        config=TokenizerConfig(
            pad_token=pieces.id_to_piece(pieces.pad_id),
            eos_token=pieces.id_to_piece(pieces.eos_id),
            unk_token=pieces.id_to_piece(pieces.unk_id),
        ),
    )


@functools.cache
def constraint_of(kind: str, grammar: Grammar) -> Constraint:
    tokenizer = tokenizer_of(kind)
    return GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size + 7)(grammar)


def permits(constraint: Constraint, ids: list[int], eos_id: int) -> bool:
    """Return whether `ids` and then EOS are allowed, one by one."""
    return all(constraint.allowed(ids[:place])[token] for place, token in enumerate([*ids, eos_id]))


@functools.cache
def spelt(kind: str) -> list[tuple[int, bytes]]:
    tokenizer = tokenizer_of(kind)
    written = [(token, tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
    never = {tokenizer.unk_id, tokenizer.eos_id}
    if tokenizer.leading_space is not LeadingSpace.KEEP:
        never |= {token for token, text in written if text[:1] == b" " and tokenizer.decode([token])[:1] == " "}
    return [(token, text) for token, text in written if text and token not in never]


def random_cut(kind: str, text: str, generator: random.Random) -> list[int] | None:
    """Return a way of writing `text` in tokens, of all there are; None if it led nowhere."""
    tokenizer = tokenizer_of(kind)
    rest = text.encode()
    if tokenizer.leading_space is not LeadingSpace.KEEP:
        rest = b" " + rest
    ids: list[int] = []
    while rest:
        fitting = [token for token, written in spelt(kind) if rest.startswith(written)]
        if not fitting:
            return None
        ids.append(generator.choice(fitting))
        rest = rest[len(tokenizer.token_bytes(ids[-1])) :]
    return ids if tokenizer.decode(ids) == text else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regex", REGEXES)
@hypothesis.settings(max_examples=12)
@hypothesis.given(data=st.data(), seed=st.integers(0, 2**32))
def test_a_text_is_permitted_in_every_way_of_cutting_it(kind: str, regex: str, data: st.DataObject, seed: int) -> None:
    text = data.draw(st.from_regex(regex, fullmatch=True))
    ids = random_cut(kind, text, random.Random(seed))
    if ids is None and kind == "pieces" and not text.isascii():
        return  # this vocabulary cannot write it
    hypothesis.assume(ids is not None)
    assert ids is not None and permits(constraint_of(kind, Grammar("regex", regex)), ids, tokenizer_of(kind).eos_id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regex", REGEXES + LOOSE_REGEXES)
@hypothesis.settings(max_examples=12)
@hypothesis.given(seed=st.integers(0, 2**32))
def test_what_is_permitted_to_the_end_is_of_the_form(kind: str, regex: str, seed: int) -> None:
    tokenizer, generator = tokenizer_of(kind), random.Random(seed)
    if kind == "pieces" and regex == r"\s[a-z]+":  # the only whitespace it has is the space
        with pytest.raises(RequestError, match="no text that begins so"):
            constraint_of(kind, Grammar("regex", regex))
        return
    constraint = constraint_of(kind, Grammar("regex", regex))
    ids: list[int] = []
    for _ in range(20):
        allowed = np.flatnonzero(constraint.allowed(ids))
        assert np.array_equal(allowed, np.flatnonzero(constraint.allowed(ids))), "another answer when asked again"
        assert allowed.max(initial=0) < tokenizer.vocab_size, "a row that is no token"
        if not len(allowed):
            return  # the vocabulary cannot write what must come next
        if tokenizer.eos_id in allowed and generator.random() < 0.3:
            assert re.fullmatch(regex, tokenizer.decode(ids)), ids
            return
        going_on = [token for token in allowed.tolist() if token != tokenizer.eos_id]
        if not going_on:
            assert re.fullmatch(regex, tokenizer.decode(ids)), ids
            return
        ids.append(generator.choice(going_on))


def test_spaces_that_decoding_drops_are_no_part_of_the_match() -> None:
    def refused(regex: str) -> list[str]:
        kinds = []
        for kind in KINDS:
            try:
                constraint_of(kind, Grammar("regex", regex))
            except RequestError as error:
                kinds.append(kind if "no text that begins so" in str(error) else str(error))
        return kinds

    assert refused(" a") == refused(" {6}a") == ["pieces", "pieces and bytes"]
    assert refused("\u2764") == ["pieces"]
    assert refused("ü|\u2764") == refused(" ?a") == []


def test_a_piece_that_keeps_a_space_does_not_begin_a_text() -> None:
    pieces = tokenizer_of("pieces")
    with tempfile.TemporaryDirectory() as folder:
        pieces.save(Path(folder))
        model = (Path(folder) / "spiece.model").read_bytes()
    tokenizer = SentencePieceTokenizer(append_pieces(model, [Piece("▁▁", 0.0, PieceKind.USER_DEFINED)]))
    double, a = tokenizer.vocab_size - 1, int(tokenizer.encode("a")[0])
    assert tokenizer.decode([double, a]) == "  a" and tokenizer.decode([a, double]) == "a  "
    compiler = GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size)
    assert permits(compiler(Grammar("regex", "a *")), [a, double], tokenizer.eos_id)
    assert not compiler(Grammar("regex", "a")).allowed([])[double]
    assert not compiler(Grammar("regex", "a")).allowed([double]).any()


KEYS = ["a", "b c", "né", 'a "quoted" key', "back\\\\slash"]
ENUM_VALUES = ["yes", "no", "", "né", 'say "yes"', 0, -7, 18.5, True, None]


def leaves() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-120, 120), st.integers(0, 1000))
    return st.one_of(
        st.tuples(st.integers(0, 1), st.integers(1, 4)).map(
            lambda ends: {"type": "string", "minLength": ends[0], "maxLength": ends[1]}
        ),
        bounds.map(lambda ends: {"type": "integer", "minimum": ends[0], "maximum": ends[0] + ends[1]}),
        st.sampled_from([{"type": "integer"}, {"type": "boolean"}, {"type": "null"}]),
        st.lists(st.sampled_from(ENUM_VALUES), min_size=1, max_size=4, unique_by=repr).map(
            lambda values: {"enum": values}
        ),
    )


def around(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Give schemas of arrays and objects of the inner ones."""

    def as_object(fields: dict[str, tuple[dict[str, Any], bool]]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in fields.items()},
            "required": [name for name, (_, is_required) in fields.items() if is_required],
            "additionalProperties": False,
        }

    arrays = st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda made: {"type": "array", "items": made[0], "minItems": made[1], "maxItems": made[1] + made[2]}
    )
    fields = st.dictionaries(st.sampled_from(KEYS), st.tuples(inner, st.booleans()), max_size=3)
    return st.one_of(arrays, fields.map(as_object))


SCHEMAS = st.one_of(leaves(), around(leaves()), around(st.one_of(leaves(), around(leaves()))))


@pytest.mark.parametrize("kind", ["bytes", "pieces and bytes"])
@hypothesis.settings(max_examples=80)
@hypothesis.given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_json_that_is_permitted_to_the_end_is_valid(kind: str, schema: dict[str, Any], seed: int) -> None:
    tokenizer, generator = tokenizer_of(kind), random.Random(seed)
    constraint = GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size + 7)(
        Grammar("json_schema", json.dumps(schema))
    )
    ids: list[int] = []
    for _ in range(300):
        allowed = np.flatnonzero(constraint.allowed(ids)).tolist()
        assert allowed, f"nothing may follow {tokenizer.decode(ids)!r}"
        if tokenizer.eos_id in allowed and (len(allowed) == 1 or generator.random() < 0.5):
            break
        ids.append(generator.choice([token for token in allowed if token != tokenizer.eos_id]))
    else:
        return  # endless digits
    jsonschema.validate(json.loads(tokenizer.decode(ids)), schema)


def test_a_prefix_that_is_not_permitted_permits_nothing() -> None:
    constraint = constraint_of("bytes", Grammar("regex", "ab|ac"))
    ids = ByteTokenizer().encode("xa", add_eos=False)
    assert not constraint.allowed(ids).any()
    done = ByteTokenizer().encode("ab")
    assert not constraint.allowed(done).any(), "nothing follows EOS"
    assert np.flatnonzero(constraint.allowed(done[:-1])).tolist() == [1]


def test_states_that_were_forgotten_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5kit.decoding.grammar._MAX_STATES", 2)
    constraint = GrammarCompiler(ByteTokenizer(), vocab_size=384)(Grammar("regex", "[ab]{6}"))
    texts = ["abab", "ba", "bbbb", "aaa", "abab", "aaaaaa", ""]
    for text in texts:
        expected = [1] if len(text) == 6 else [100, 101]
        assert np.flatnonzero(constraint.allowed(ByteTokenizer().encode(text, add_eos=False))).tolist() == expected


# Through a model

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"temperature": 2.0, "seed": 5}, {"speculate": 4}])
def test_json_answers_are_valid_or_cut(model: Model, options: dict[str, Any]) -> None:
    texts = [f"text {number}" for number in range(6)]
    found = model.generate(texts, json_schema=SCHEMA, max_new_tokens=160, details=True, **options)
    assert any(answer.finish_reason == "eos" for answer in found)
    for answer in found:
        if answer.finish_reason == "eos":
            jsonschema.validate(json.loads(answer.text), SCHEMA)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"temperature": 1.0, "seed": 5}, {"top_k": 5, "seed": 2}])
def test_an_answer_that_is_valid_already_is_not_changed(model: Model, options: dict[str, Any]) -> None:
    texts = [f"text {number}" for number in range(4)]
    beyond_ascii = [2, *range(131, 384)]  # a byte alone is no text, and no grammar permits it
    free = model.generate(texts, max_new_tokens=12, details=True, suppress_tokens=beyond_ascii, **options)
    for text, before in zip(texts, free, strict=True):
        if not options and before.finish_reason == "eos":  # greedy: the best token stays the best of fewer
            regex = re.escape(before.text) + "|[0-9]{3}"
            assert model.generate(text, suppress_tokens=beyond_ascii, regex=regex) == before.text
    everything = model.generate(
        texts, max_new_tokens=12, details=True, suppress_tokens=beyond_ascii, regex="(?s).*", **options
    )
    assert [answer.token_ids for answer in everything] == [answer.token_ids for answer in free]
    assert any(answer.finish_reason == "eos" for answer in free)


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"temperature": 1.5, "seed": 1}])
def test_regex_answers_match(model: Model, options: dict[str, Any]) -> None:
    texts = [f"text {number}" for number in range(6)]
    for regex in (r"[0-9]{4}|unknown", r"(yes|no)( (yes|no)){0,3}", r"[à-ü]{2}"):
        for answer in model.generate(texts, regex=regex, max_new_tokens=24, **options):
            assert re.fullmatch(regex, answer), answer


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"temperature": 1.5, "seed": 1}])
def test_answers_match_where_decoding_drops_spaces(pieces_model: Model, options: dict[str, Any]) -> None:
    texts = [f"text {number}" for number in range(4)]
    num_complete = 0
    for regex in (r".{3}", r"(yes| no)", r"\s[a-z]{1,3}", r"^[a-e ]{2,4}$", r"(?s) ?.{2} ?"):
        for answer in pieces_model.generate(texts, regex=regex, max_new_tokens=24, details=True, **options):
            num_complete += answer.finish_reason == "eos"
            assert answer.finish_reason != "eos" or re.fullmatch(regex, answer.text), (regex, answer)
    assert num_complete
    with pytest.raises(RequestError, match="spaces before the first word are dropped"):
        pieces_model.generate("a", regex=" a", **options)


def test_requests_with_and_without_a_grammar_run_side_by_side(model: Model) -> None:
    together = [model.generate("a", regex="[0-9]{3}"), model.generate("a", max_new_tokens=5)]
    assert re.fullmatch("[0-9]{3}", together[0])
    assert together[1] == model.generate("a", max_new_tokens=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "("}, "unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": r"\bword"}, r"\\b and \\B are not supported"),
        ({"regex": "a^b"}, "leave them away"),
        ({"regex": "(?m)^a$"}, "leave them away"),
        ({"regex": 3}, "must be text"),
        ({"regex": "a", "json_schema": {}}, "one of the two"),
        ({"regex": "a", "allowed_outputs": ["a"]}, "drop one of the two"),
        ({"regex": "a", "forced_eos": True}, "drop one of the two"),
        ({"json_schema": "{"}, "no JSON"),
        ({"json_schema": "[]"}, "expected a JSON object"),
        ({"json_schema": {"type": "thing"}}, "thing"),
        ({"json_schema": {"type": {1}}}, "cannot be written as JSON"),
        ({"json_schema": 5}, "mapping or JSON text"),
    ],
)
def test_a_wrong_form_is_named_before_any_work(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.generate([], **options)


def test_json_that_a_vocabulary_cannot_write_is_refused_with_the_signs(tmp_path: Any) -> None:
    tokenizer = tokenizer_of("pieces")
    assert isinstance(tokenizer, SentencePieceTokenizer)
    compiler = GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size)
    with pytest.raises(RequestError, match=r"cannot write \{ \} \" :"):
        compiler.check(Grammar("json_schema", json.dumps({"type": "object", "required": ["a"]})))
    compiler.check(Grammar("json_schema", json.dumps({"type": "integer"})))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(DependencyError, match=r"t5kit\[constrain\]"):
        GrammarCompiler(ByteTokenizer(), vocab_size=384).check(Grammar("regex", "a"))


@pytest.fixture(scope="module")
def pieces_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from t5kit.checkpoint import write_folder
    from t5kit.testing import TINY_CONFIGS
    from t5kit.testing.answers import tensors_that_end

    tokenizer = tokenizer_of("pieces and bytes")
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], vocab_size=tokenizer.vocab_size)
    path = tmp_path_factory.mktemp("models") / "pieces"
    write_folder(path, config, tensors_that_end(config), save_tokenizer=tokenizer.save)
    with Model.from_pretrained(path, engine="native", weights="float32", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from t5kit.checkpoint import write_folder
    from t5kit.testing import TINY_CONFIGS
    from t5kit.testing.answers import tensors_that_end

    config: T5Config = TINY_CONFIGS["byt5"]
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_folder(path, config, tensors_that_end(config), save_tokenizer=ByteTokenizer().save)
    with Model.from_pretrained(path, engine="native", weights="float32", threads=1) as model:
        yield model

"""Prompts that are written in characters by a vocabulary of pieces."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.api.prompts import Prompt
from t5kit.api.run_parts import open_vocabulary
from t5kit.errors import ConfigError, TokenizerError
from t5kit.tasks.example_sources import encode_pairs
from t5kit.tasks.task import TextPair
from t5kit.text import CharacterRule, SentencePieceTokenizer, load_tokenizer
from t5kit.text.config import VocabularyConfig
from t5kit.text.sentencepiece_format import ModelFacts, Piece, PieceKind, build_model

LETTERS = [Piece("\u2581", -2.0), *(Piece(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz: ")]
WORDS = [Piece(f"\u2581{word}", -1.0) for word in ("spell", "say", "the", "cat", "it")] + [Piece("at", -1.0)]
BYTES = [Piece(f"<0x{byte:02X}>", 0.0, PieceKind.BYTE) for byte in range(256)]
SPECIAL = [
    Piece("<pad>", 0.0, PieceKind.CONTROL),
    Piece("</s>", 0.0, PieceKind.CONTROL),
    Piece("<unk>", 0.0, PieceKind.UNKNOWN),
]
RULES = (CharacterRule("spell: ", in_targets=True), CharacterRule("spell it: "), CharacterRule("say: "))


def model(*, has_space: bool = True) -> bytes:
    letters = LETTERS if has_space else LETTERS[1:]
    facts = ModelFacts(has_byte_fallback=True)
    return build_model([*SPECIAL, *BYTES, *letters, *WORDS], facts, pad_id=0, eos_id=1, unk_id=2)


@pytest.fixture
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(model(), character_rules=RULES)


def pieces(tokenizer: SentencePieceTokenizer, ids: np.ndarray) -> str:
    return " ".join(tokenizer.id_to_piece(int(token)).replace("\u2581", "_") for token in ids)


def test_what_follows_the_prefix_is_written_in_characters(tokenizer: SentencePieceTokenizer) -> None:
    assert pieces(tokenizer, tokenizer.encode("spell: the cat")) == "_spell : _ t h e _ c a t </s>"
    assert pieces(tokenizer, tokenizer.encode("the cat")) == "_the _cat </s>"


def test_a_batch_mixes_prompts_with_and_without_a_rule(tokenizer: SentencePieceTokenizer) -> None:
    texts = ["the cat", "spell: cat", "cat", "say: the", ""]
    for ids, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_targets_follow_the_rule_of_their_prompt(tokenizer: SentencePieceTokenizer) -> None:
    targets = tokenizer.encode_targets(["cat"] * 3, ["spell: kat", "say: kat", "kat"])
    assert [pieces(tokenizer, ids) for ids in targets] == ["_ c a t </s>", "_cat </s>", "_cat </s>"]


def test_the_longest_prefix_decides(tokenizer: SentencePieceTokenizer) -> None:
    assert pieces(tokenizer, tokenizer.encode_targets(["cat"], ["spell it: kat"])[0]) == "_cat </s>"


def test_characters_without_a_piece_are_bytes(tokenizer: SentencePieceTokenizer) -> None:
    ids = tokenizer.encode("spell: \u00e9a")
    assert pieces(tokenizer, ids) == "_spell : _ <0xC3> <0xA9> a </s>"
    assert tokenizer.decode(ids) == "spell: \u00e9a"


@given(st.text(alphabet="abct \u00e9", max_size=20))
def test_decoding_needs_no_rule(text: str) -> None:
    plain, ruled = SentencePieceTokenizer(model()), SentencePieceTokenizer(model(), character_rules=RULES)
    prompt = f"spell: {text}"
    assert plain.decode(ruled.encode(prompt)) == plain.decode(plain.encode(prompt))
    assert plain.decode(ruled.encode_targets([text], [prompt])[0]) == plain.decode(plain.encode(text))


def test_rules_are_saved_with_the_vocabulary(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    np.testing.assert_array_equal(loaded.encode("spell: the"), tokenizer.encode("spell: the"))
    (tmp_path / "spiece.model").unlink()
    with pytest.raises(TokenizerError, match=r"character rules, which need a SentencePiece model"):
        load_tokenizer(tmp_path)  # a vocabulary with bytes has no T5-shaped tokenizer.json


def test_examples_are_written_by_the_rules(tokenizer: SentencePieceTokenizer) -> None:
    (example,) = encode_pairs(
        [TextPair(prompt="spell: cta", target="cat", references=("cat",), place="here")], tokenizer, []
    )
    assert pieces(tokenizer, example.target_ids) == "_ c a t </s>"


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ("spell: ", "expected a list"),
        (["spell: "], r"\[0\] is 'spell: '; expected an object"),
        ([{"prefix": " "}], "expected the beginning of a prompt"),
        ([{"prefix": "a", "in_targets": 1}], "expected true or false"),
        ([{"prefix": "a", "other": 1}], "expected an object of prefix and in_targets"),
    ],
)
def test_broken_rules_are_named(plain: object, said: str, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"t5kit_character_rules": plain}), "utf-8")
    with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json: .*{said}"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_cannot_write_a_space_has_no_rules() -> None:
    with pytest.raises(TokenizerError, match="no piece for a space alone"):
        SentencePieceTokenizer(model(has_space=False), character_rules=RULES)


def test_a_recipe_adds_rules_to_a_vocabulary(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    config = VocabularyConfig(source="folder", path=str(tmp_path), characters=("say: ",))
    opened = open_vocabulary(config, [], None, seed=0)
    (target,) = opened.encode_targets(["cat"], ["say: it"])
    assert pieces(tokenizer, target) == "_ c a t </s>"  # the recipe's rule in place of the folder's
    assert pieces(tokenizer, opened.encode("spell: cat")) == "_spell : _ c a t </s>"  # the folder's own


@pytest.mark.parametrize("source", ["bytes", "symbols"])
def test_rules_are_refused_where_every_token_is_a_character(source: Any) -> None:
    with pytest.raises(ConfigError, match=r"vocabulary\.characters has no effect with vocabulary\.source"):
        VocabularyConfig(source=source, characters=("spell: ",))


def test_the_same_prefix_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="different beginnings"):
        VocabularyConfig(characters=("spell: ",), characters_in_prompts=("spell: ",))


def test_a_text_is_cut_where_its_prompt_is_written_in_characters(tokenizer: SentencePieceTokenizer) -> None:
    prompt = Prompt("spell: {text}", ("text",))
    words = " ".join(["the cat"] * 20)  # 40 pieces, 160 characters
    cut = prompt.cut({"text": words}, cut_field="text", tokenizer=tokenizer, max_tokens=40)
    assert 20 <= len(tokenizer.encode(prompt.render(cut))) <= 40
    assert words.startswith(cut["text"]) and cut["text"] != words

"""Tokens as people read them: pieces and the words that they make."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t5kit.text import ByteTokenizer
from t5kit.text.words import readable_pieces, words_of

TOKENIZER = ByteTokenizer()


def texts(text: str) -> list[str]:
    return [word.text for word in words_of(TOKENIZER, TOKENIZER.encode(text))]


def test_words_begin_at_spaces_and_eos_stands_alone() -> None:
    assert texts("The cat, sat.") == ["The", "cat,", "sat.", "</s>"]
    assert texts("  two  spaces ") == ["two", "spaces", "␣", "</s>"]
    assert texts("") == ["</s>"]


def test_scripts_without_spaces_are_cut_at_their_characters_and_none_is_cut_in_half() -> None:
    assert texts("日本 war schön") == ["日", "本", "war", "schön", "</s>"]
    assert texts("a日b") == ["a", "日", "b", "</s>"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_words_cover_every_token_once_in_order(text: str) -> None:
    ids = TOKENIZER.encode(text)
    words = words_of(TOKENIZER, ids)
    covered = [place for word in words for place in range(word.start, word.end)]
    assert covered == list(range(len(ids)))
    assert all(word.text for word in words)


@given(st.text(st.characters(max_codepoint=127, min_codepoint=32), max_size=30))
def test_pieces_spell_the_text(text: str) -> None:
    assert "".join(readable_pieces(TOKENIZER, TOKENIZER.encode(text, add_eos=False))) == text


def test_half_a_character_and_control_tokens_are_named() -> None:
    assert readable_pieces(TOKENIZER, TOKENIZER.encode("ü")) == ["<0xC3>", "<0xBC>", "</s>"]
    assert readable_pieces(TOKENIZER, np.array([TOKENIZER.pad_id, TOKENIZER.unk_id])) == ["<pad>", "<unk>"]

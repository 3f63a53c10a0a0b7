"""ByT5's bytes, and its two kinds of sentinels."""

from pathlib import Path

import numpy as np
import pytest

from t5kit.errors import RequestError
from t5kit.text import ByteSentinels, ByteTokenizer, load_tokenizer


def test_byte_b_has_the_id_b_plus_3_and_eos_ends_the_text() -> None:
    ids = ByteTokenizer().encode("hé")
    assert ids.dtype == np.int32
    assert ids.tolist() == [ord("h") + 3, 0xC3 + 3, 0xA9 + 3, 1]
    assert ByteTokenizer().encode("", add_eos=False).tolist() == []


def test_trained_sentinels_are_the_ids_of_the_highest_bytes() -> None:
    tokenizer = ByteTokenizer()
    assert [tokenizer.sentinel_id(i) for i in range(3)] == [258, 257, 256]  # seqio, and transformers' ByT5 page
    assert tokenizer.vocab_size == 259
    assert tokenizer.decode(tokenizer.encode("a<extra_id_0>")) == "a<extra_id_0>"
    assert tokenizer.decode([258, 100, 257]) == "a"


def test_text_sentinels_are_the_rows_behind_the_bytes() -> None:
    tokenizer = ByteTokenizer(sentinels=ByteSentinels.TEXT)
    assert tokenizer.vocab_size == 384
    assert [tokenizer.sentinel_id(i) for i in (0, 1, 124)] == [259, 260, 383]
    ids = tokenizer.encode("é<extra_id_0><extra_id_124><extra_id_125>")
    assert ids[:4].tolist() == [0xC3 + 3, 0xA9 + 3, 259, 383]
    assert tokenizer.decode(ids) == "é<extra_id_0><extra_id_124><extra_id_125>"
    assert tokenizer.token_bytes(259) == b"<extra_id_0>"


def test_no_id_writes_anything_but_bytes_and_text_sentinels() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode([0, 1, 2, 300, 2**31 - 1, -100]) == ""
    assert tokenizer.decode([0xC3 + 3, 0, 0xA9 + 3, 1]) == "é"  # seqio drops special ids before it reads UTF-8
    assert tokenizer.decode([0xC3 + 3, 100]) == "a"
    assert [tokenizer.id_to_piece(i) for i in (0, 1, 2, 3, 68, 999)] == "<pad> </s> <unk> <0x00> <0x41> <unk>".split()


def test_more_sentinels_than_there_are_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="0 to 99"):
        ByteTokenizer().sentinel_id(100)
    with pytest.raises(RequestError):
        ByteTokenizer().sentinel_id(-1)


@pytest.mark.parametrize("sentinels", list(ByteSentinels))
def test_a_saved_folder_gives_the_same_tokenizer(tmp_path: Path, sentinels: ByteSentinels) -> None:
    ByteTokenizer(sentinels=sentinels).save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, ByteTokenizer)
    assert loaded.sentinels is sentinels

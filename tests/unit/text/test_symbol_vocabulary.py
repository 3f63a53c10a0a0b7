"""Letters and phonemes as tokens."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.errors import DataError
from t5kit.text import load_tokenizer
from t5kit.text.symbol_vocabulary import MAX_SYMBOLS, symbol_tokenizer


def test_a_letter_of_a_prompt_and_a_word_of_a_target_are_one_token() -> None:
    tokenizer = symbol_tokenizer(["cat"], ["K AE T"], num_sentinels=0)
    assert [tokenizer.id_to_piece(int(i)) for i in tokenizer.encode("tact")] == ["▁", "t", "a", "c", "t", "</s>"]
    assert [tokenizer.id_to_piece(int(i)) for i in tokenizer.encode("AE K T")] == ["▁AE", "▁K", "▁T", "</s>"]
    assert tokenizer.vocab_size == 3 + 1 + 3 + 3


def test_the_order_of_the_texts_does_not_matter() -> None:
    prompts, targets = ["cat", "dog", "ox"], ["K AE T", "D AO G"]
    once = symbol_tokenizer(prompts, targets)
    again = symbol_tokenizer(prompts[::-1], targets[::-1])
    pieces = [[each.id_to_piece(i) for i in range(each.vocab_size)] for each in (once, again)]
    assert pieces[0] == pieces[1]


texts = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp", "Cn"]), max_size=12), max_size=6
)


@given(texts, texts)
def test_every_text_of_theirs_can_be_written(prompts: list[str], words: list[str]) -> None:
    words = [word for word in words if word]
    if not any(prompts) and not words:
        return
    tokenizer = symbol_tokenizer(prompts, [" ".join(words)], num_sentinels=3)
    for text in (*prompts, " ".join(words)):
        ids = tokenizer.encode(text)
        assert tokenizer.unk_id not in ids.tolist()
        assert tokenizer.decode(ids) == text.replace("▁", " ").strip()


def test_a_saved_one_is_read_back_whole(tmp_path: Path) -> None:
    for num_sentinels in (0, 5, 100):
        folder = tmp_path / str(num_sentinels)
        folder.mkdir()
        tokenizer = symbol_tokenizer(["cat", "o'neil"], ["K AE T", "OW N IY L"], num_sentinels=num_sentinels)
        tokenizer.save(folder)
        loaded = load_tokenizer(folder)
        assert (loaded.vocab_size, loaded.num_sentinels) == (tokenizer.vocab_size, num_sentinels)
        for text in ("cat", "K IY L", "o'neil <extra_id_1> cat", "xyz"):
            assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_running_text_is_refused() -> None:
    with pytest.raises(DataError, match="more than 50,000 different words"):
        symbol_tokenizer(["a"], [" ".join(map(str, range(MAX_SYMBOLS + 1)))])
    with pytest.raises(DataError, match="there is no text"):
        symbol_tokenizer([], [" "])

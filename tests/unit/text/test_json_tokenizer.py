"""tokenizer.json as it stands, and tokenizer.json of T5's shape read back into its SentencePiece model."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer

from t5kit.errors import RequestError, TokenizerError
from t5kit.text import JsonTokenizer, SentencePieceTokenizer, load_tokenizer
from t5kit.text.tokenizer_config import TokenizerConfig


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    """GPT-2's kind (CodeT5): bytes as letters."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<unk>", "<extra_id_1>", "<extra_id_0>"]
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["def f(x):\n    return x\n", "for i in range(10): print(i)"] * 20, trainer)
    return tokenizer


def test_byte_level_files_give_every_text_back(byte_level: Tokenizer) -> None:
    tokenizer = JsonTokenizer(byte_level.to_str().encode())
    for text in ("", "  def f(x):\n\treturn é😀\n", "<extra_id_0>x <extra_id_1>", "\x00\u2581"):
        ids = tokenizer.encode(text)
        assert ids[-1] == tokenizer.eos_id == 1
        assert tokenizer.decode(ids) == text
        assert ids[:-1].tolist() == byte_level.encode(text, add_special_tokens=False).ids
    assert (tokenizer.num_sentinels, tokenizer.sentinel_id(0), tokenizer.sentinel_id(1)) == (2, 4, 3)
    emoji = tokenizer.encode("😀", add_eos=False).tolist()
    assert b"".join(map(tokenizer.token_bytes, emoji)) == "😀".encode()
    assert tokenizer.decode(emoji[:-1]) == "\ufffd"


def test_truncation_and_padding_of_the_file_are_switched_off(byte_level: Tokenizer, tmp_path: Path) -> None:
    cut = Tokenizer.from_str(byte_level.to_str())
    cut.enable_truncation(4)
    cut.enable_padding(length=8)
    tokenizer = JsonTokenizer(cut.to_str().encode())
    text = "return x " * 20
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [len(ids) for ids in tokenizer.encode_batch(["x", text])] == [2, len(tokenizer.encode(text))]
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is saved["padding"] is None
    assert load_tokenizer(tmp_path).encode(text).tolist() == tokenizer.encode(text).tolist()


def test_a_template_in_the_file_adds_no_second_eos(byte_level: Tokenizer) -> None:
    with_template = Tokenizer.from_str(byte_level.to_str())
    with_template.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    ids = JsonTokenizer(with_template.to_str().encode()).encode("x").tolist()
    assert ids.count(1) == 1


def test_ids_that_are_no_token_read_like_unknown(byte_level: Tokenizer) -> None:
    tokenizer = JsonTokenizer(byte_level.to_str().encode())
    assert tokenizer.decode([2, tokenizer.vocab_size, -1, 2**31 - 1]) == " ⁇ " * 4
    assert tokenizer.id_to_piece(tokenizer.vocab_size) == "<unk>"
    with pytest.raises(RequestError):
        tokenizer.encode("\udc00")


def test_special_tokens_are_those_that_the_config_names(byte_level: Tokenizer) -> None:
    renamed = Tokenizer.from_str(byte_level.to_str())
    renamed.add_special_tokens(["[EOS]"])
    document = renamed.to_str().encode()
    assert JsonTokenizer(document, config=TokenizerConfig(eos_token="[EOS]")).eos_id == byte_level.get_vocab_size()
    with pytest.raises(TokenizerError, match=r"'\[PAD\]'.*pad_token"):
        JsonTokenizer(document, config=TokenizerConfig(pad_token="[PAD]"))


def test_a_decoder_of_another_kind_is_refused_with_the_known_ones() -> None:
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    with pytest.raises(TokenizerError, match="ByteLevel"):
        JsonTokenizer(words.to_str().encode())


@pytest.fixture
def t5_shaped(plain: SentencePieceTokenizer, tmp_path: Path) -> dict[str, object]:
    """A tokenizer.json as transformers writes it for T5: sentinels in the vocabulary, spaces not collapsed."""
    plain.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    sentinels = [token for token in document["added_tokens"] if token["content"].startswith("<extra_id_")]
    for token in sentinels:
        token["normalized"] = False
        document["model"]["vocab"].append([token["content"], 0.0])
    steps = document["normalizer"]["normalizers"]
    document["normalizer"] = {"type": "Sequence", "normalizers": [s for s in steps if s["type"] == "Precompiled"]}
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    document["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    return document


def test_t5s_shape_is_read_back_into_the_sentencepiece_model(
    t5_shaped: dict[str, object], plain: SentencePieceTokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "alone.json"
    path.write_text(json.dumps(t5_shaped))
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.vocab_size == plain.vocab_size
    for text in ("", "  ba  ke \n lo ", "<extra_id_0>. ba", "sé e\u0301\u0327 日😀", "ba<extra_id_1> </s>"):
        assert tokenizer.encode(text).tolist() == plain.encode(text).tolist()
        assert tokenizer.decode(tokenizer.encode(text)) == plain.decode(plain.encode(text))
    assert tokenizer.piece_scores()[0] == plain.piece_scores()[0][: -plain.num_sentinels]


def test_a_file_that_puts_no_space_before_the_text_is_run_as_it_stands(
    t5_shaped: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "alone.json"
    t5_shaped["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
    path.write_text(json.dumps(t5_shaped))
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, JsonTokenizer)
    assert not tokenizer.id_to_piece(int(tokenizer.encode("ba")[0])).startswith("▁")


def test_a_file_with_tokens_of_its_own_is_run_as_it_stands(t5_shaped: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "alone.json"
    own = Tokenizer.from_str(json.dumps(t5_shaped))
    own.add_tokens([AddedToken("[SEP]")])
    path.write_text(own.to_str())
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, JsonTokenizer)
    ids = tokenizer.encode("ba [SEP] ke").tolist()
    assert own.token_to_id("[SEP]") in ids
    assert len(tokenizer.encode("ba ke " * 20)) > 4

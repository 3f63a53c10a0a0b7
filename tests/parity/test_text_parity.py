"""Folders that t5kit saves, read by transformers: the same ids, the same special tokens."""

import json
import re
from pathlib import Path

import pytest

from t5kit.text import (
    ByteSentinels,
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)

transformers = pytest.importorskip("transformers")

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "text" / "official_ids.json").read_text(encoding="utf-8"))
TEXTS = [vector["text"] for vector in VECTORS if "repeat" not in vector]
BEYOND_TOKENIZER_JSON = ("marks that pile up", "</s>", "\u2581<extra_id", "ﾞ")
"""Texts with these are the stated limits of tokenizer.json (t5kit.text.json_export)."""
COMPARED = [text for text in TEXTS if not any(part in text for part in BEYOND_TOKENIZER_JSON)]
CONFIG = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 8}


def assert_same(folder: Path, own: Tokenizer, texts: list[str]) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (own.pad_id, own.eos_id, own.unk_id)
    assert len(theirs) == own.vocab_size
    assert [theirs.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(own.num_sentinels)] == [
        own.sentinel_id(i) for i in range(own.num_sentinels)
    ]
    assert theirs.model_max_length > 10**9  # no warning at 512 tokens
    for text in texts:
        assert theirs(text).input_ids == own.encode(text).tolist(), text


@pytest.mark.parametrize("has_model_config", [True, False])
@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("unigram", {}),
        ("unigram", {"keeps_whitespace": True}),
        ("unigram", {"byte_fallback": False}),
        ("bpe", {}),
        ("bpe", {"keeps_whitespace": True}),
    ],
)
def test_auto_tokenizer_gives_the_ids_of_a_trained_vocabulary(
    tmp_path: Path, model_type: str, settings: dict[str, bool], has_model_config: bool
) -> None:
    lines = [text for text in COMPARED if text.isascii() and "<extra_id" not in text]
    (tmp_path / "lines.txt").write_text("\n".join(lines * 5), encoding="utf-8")
    folder = tmp_path / "out"
    own = train_tokenizer(
        [tmp_path / "lines.txt"],
        folder,
        vocab_size=400 if settings.get("byte_fallback", True) else 150,
        model_type=model_type,
        num_sentinels=12,
        num_threads=2,
        **settings,
    )
    if has_model_config:
        (folder / "config.json").write_text(json.dumps(CONFIG))
    assert_same(folder, own, [text for text in COMPARED if not re.search(r"(.)\1{3}", text)])  # runs end in ties
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Thank you <extra_id_0> me to your party <extra_id_1> week."
    assert theirs.decode(own.encode(text, add_eos=False).tolist()) == own.decode(own.encode(text))


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5"])
def test_auto_tokenizer_gives_the_official_ids_of_a_saved_folder(
    test_files: Path, tmp_path: Path, model_type: str
) -> None:
    own = load_tokenizer(test_files / "spiece" / "t5.model")
    own.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": model_type}))
    assert_same(tmp_path, own, COMPARED)


def test_the_class_t5_tokenizer_reads_a_saved_folder_too(test_files: Path, tmp_path: Path) -> None:
    own = load_tokenizer(test_files / "spiece" / "t5.model")
    own.save(tmp_path)
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)
    assert theirs.convert_tokens_to_ids("<extra_id_0>") == own.sentinel_id(0)
    # It cuts sentinels out of words and applies the rules its own way to marks that do not compose; plain text agrees.
    for text in COMPARED:
        if "<extra_id" not in text and text.isascii():
            assert theirs(text).input_ids == own.encode(text).tolist(), text


def test_a_folder_saved_by_transformers_gives_the_official_ids(test_files: Path, tmp_path: Path) -> None:
    official = load_tokenizer(test_files / "spiece" / "t5.model")
    official.save(tmp_path / "ours")
    for name, cls in (("auto", transformers.AutoTokenizer), ("t5", transformers.T5Tokenizer)):
        cls.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / name)
        loaded = load_tokenizer(tmp_path / name)
        assert isinstance(loaded, SentencePieceTokenizer)
        assert (loaded.vocab_size, loaded.sentinel_id(0), loaded.eos_id) == (32100, 32099, 1)
        for text in TEXTS:
            assert loaded.encode(text).tolist() == official.encode(text).tolist()


@pytest.mark.parametrize("sentinels", list(ByteSentinels))
def test_byt5_is_read_by_transformers(tmp_path: Path, sentinels: ByteSentinels) -> None:
    own = ByteTokenizer(sentinels=sentinels)
    own.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)
    assert theirs.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_124>"]) == [259, 383]
    for text in TEXTS:
        if "</s>" in text:  # transformers reads special tokens in texts, and strips the spaces around them
            continue
        if sentinels is ByteSentinels.TEXT or "<extra_id" not in text:
            assert theirs(text).input_ids == own.encode(text).tolist(), text
            assert own.decode(theirs(text).input_ids) == text

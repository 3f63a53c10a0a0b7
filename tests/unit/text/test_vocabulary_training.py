"""Vocabularies trained from text files."""

import gzip
import os
from pathlib import Path

import pytest

from t5kit.errors import ConfigError, DataError
from t5kit.text import SentencePieceTokenizer, load_tokenizer, train_tokenizer

FILLED = {"unigram": 292, "bpe": 300}
"""As many ids as the lines of code below fill."""
FEW = dict(num_sentinels=10, num_threads=2)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_ids_are_laid_out_as_t5s(vocabularies: dict[str, Path], model_type: str) -> None:
    tokenizer = load_tokenizer(vocabularies[f"{model_type}-plain"])
    assert tokenizer.vocab_size == 400
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert [tokenizer.id_to_piece(i) for i in (0, 1, 2, 3, 258)] == ["<pad>", "</s>", "<unk>", "<0x00>", "<0xFF>"]
    assert [tokenizer.sentinel_id(i) for i in range(10)] == list(range(399, 389, -1))


def test_words_of_the_text_get_fewer_ids_than_letters(plain: SentencePieceTokenizer) -> None:
    assert len(plain.encode("ba ke lo mu na ni", add_eos=False)) < len("bakelomunani")
    assert plain.unk_id not in plain.encode("Ω≈ç√ 😀 漢字")
    assert plain.decode(plain.encode("Ω≈ç√  😀\n漢字")) == "Ω≈ç√ 😀 漢字"


def test_without_byte_fallback_other_characters_are_unknown(vocabularies: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(vocabularies["unigram-unknowns"])
    assert tokenizer.encode("ba Ω", add_eos=False).tolist()[-1] == tokenizer.unk_id
    assert tokenizer.decode(tokenizer.encode("ba Ω")) == "ba  ⁇ "


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_line_breaks_and_indentation_become_pieces(tmp_path: Path, model_type: str) -> None:
    path = tmp_path / "code.txt"
    path.write_text("def f(x):\n    return x\n        if x:\n    y = x\n            pass\n" * 50)
    tokenizer = train_tokenizer(
        [path], tmp_path / "out", vocab_size=FILLED[model_type], model_type=model_type, keeps_whitespace=True, **FEW
    )
    pieces = [tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size)]
    assert "\n" in pieces
    assert "▁▁▁▁" in pieces
    assert len(tokenizer.encode("\n        ", add_eos=False)) <= 3


def test_the_same_files_give_the_same_bytes(text_file: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_tokenizer([text_file], tmp_path / name, vocab_size=380, **FEW)
    for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_compressed_and_divided_files_count_as_one_text(text_file: Path, tmp_path: Path) -> None:
    lines = text_file.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "a.txt").write_text("".join(lines[:100]), encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("".join(lines[100:]).encode()))
    whole = train_tokenizer([text_file], tmp_path / "whole", vocab_size=380, **FEW)
    parts = train_tokenizer([tmp_path / "a.txt", tmp_path / "b.txt.gz"], tmp_path / "parts", vocab_size=380, **FEW)
    assert parts.piece_scores() == whole.piece_scores()


def test_the_sample_depends_on_the_seed_alone(text_file: Path, tmp_path: Path) -> None:
    def scores(name: str, seed: int) -> object:
        folder = tmp_path / name
        return train_tokenizer([text_file], folder, vocab_size=330, max_sentences=60, seed=seed, **FEW).piece_scores()

    assert scores("a", 1) == scores("b", 1)
    assert scores("c", 2) != scores("a2", 1)


def test_lines_with_the_trainers_own_signs_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "signs.txt"
    path.write_text("lomu\u2585nara \u2581 kesa\n" * 50, encoding="utf-8")
    tokenizer = train_tokenizer([path], tmp_path / "out", vocab_size=281, **FEW)
    assert {"n", "a", "r"} <= set("".join(tokenizer.piece_scores()[0][259:]))


def test_a_line_of_any_length_is_read(text_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(text_file.read_text(encoding="utf-8").replace("\n", " "), encoding="utf-8")
    one_line = train_tokenizer([path], tmp_path / "out", vocab_size=400, **FEW)
    lines = train_tokenizer([text_file], tmp_path / "lines", vocab_size=400, **FEW)
    assert path.stat().st_size > 10_000
    assert len(set(one_line.piece_scores()[0]) & set(lines.piece_scores()[0])) > 380


def test_a_vocabulary_larger_than_the_text_allows_names_the_largest(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"use at most [0-9]+, or more text") as caught:
        train_tokenizer([text_file], tmp_path / "out", vocab_size=50_000, **FEW)
    most = int(str(caught.value).split("at most ")[1].split(",")[0])
    assert train_tokenizer([text_file], tmp_path / "out", vocab_size=most, **FEW).vocab_size == most
    with pytest.raises(ConfigError, match=f"at most {most}"):
        train_tokenizer([text_file], tmp_path / "more", vocab_size=most + 1, **FEW)


def test_a_vocabulary_too_small_for_the_characters_names_the_smallest(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"use at least [0-9]+, or lower character_coverage") as caught:
        train_tokenizer([text_file], tmp_path / "out", vocab_size=270, character_coverage=1.0, **FEW)
    least = int(str(caught.value).split("at least ")[1].split(",")[0])
    assert train_tokenizer([text_file], tmp_path / "out", vocab_size=least + 1, character_coverage=1.0, **FEW)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "word"}, "unigram, bpe"),
        ({"vocab_size": 269}, "3 special ids, 256 bytes, 10 sentinels and 1 piece need 270"),
        ({"vocab_size": 13, "byte_fallback": False}, "need 14"),
        ({"vocab_size": 400.0}, "vocab_size"),
        ({"num_sentinels": -1}, "num_sentinels"),
        ({"max_sentences": True}, "max_sentences"),
        ({"character_coverage": 0}, "character_coverage"),
        ({"character_coverage": 1.5}, "character_coverage"),
        ({"num_threads": 0}, "num_threads"),
    ],
)
def test_settings_out_of_range_are_refused(
    text_file: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_tokenizer([text_file], tmp_path / "out", **{"vocab_size": 400, **FEW, **settings})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "no text"),
        ("blank.txt", b"\n \n\t\n", "no text"),
        ("latin.txt", b"abc \xe9\xe8 def\n" * 100, r"latin\.txt is not UTF-8"),
        ("cut.gz", gzip.compress(os.urandom(1000).hex().encode())[:-40], r"cut\.gz cannot be read"),
        ("plain.gz", b"not compressed at all\n", r"plain\.gz cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for sampling in ({}, {"max_sentences": 5}):
        with pytest.raises(DataError, match=message):
            train_tokenizer([path], tmp_path / "out", vocab_size=300, **FEW, **sampling)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_the_same_text_in_any_encoding_gives_the_same_bytes(text_file: Path, tmp_path: Path) -> None:
    text = text_file.read_text(encoding="utf-8").encode("cp1252", "replace").decode("cp1252") + "café naïve\n" * 50
    models = []
    for stored, stated in (("utf-8", None), ("utf-8-sig", None), ("cp1252", "cp1252"), ("utf-16", "utf-16")):
        (tmp_path / "text.txt").write_bytes(text.encode(stored))
        trained = train_tokenizer([tmp_path / "text.txt"], tmp_path / stored, vocab_size=500, encoding=stated)
        assert trained.decode(trained.encode("café naïve")) == "café naïve"
        models.append((tmp_path / stored / "spiece.model").read_bytes())
    assert models == [models[0]] * 4


def test_a_text_in_another_encoding_than_stated_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no byte order mark\n" * 50, encoding="utf-8")
    with pytest.raises(DataError, match=r"text\.txt is not UTF-16 .*--encoding"):
        train_tokenizer([tmp_path / "text.txt"], tmp_path / "out", vocab_size=500, encoding="utf-16")


@pytest.mark.parametrize("encoding", ["klingon", "base64", "undefined"])
def test_what_is_no_encoding_of_texts_is_refused(text_file: Path, tmp_path: Path, encoding: str) -> None:
    with pytest.raises(ConfigError, match=f"encoding = '{encoding}' is none of Python's for texts"):
        train_tokenizer([text_file], tmp_path / "out", vocab_size=500, encoding=encoding)


def test_missing_files_and_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.txt is missing"):
        train_tokenizer([tmp_path / "missing.txt"], tmp_path / "out", vocab_size=300)
    with pytest.raises(DataError, match="no file"):
        train_tokenizer([tmp_path], tmp_path / "out", vocab_size=300)
    with pytest.raises(DataError, match="no files"):
        train_tokenizer([], tmp_path / "out", vocab_size=300)


def test_a_folder_that_cannot_be_made_is_told_without_our_own_names(text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"voc cannot be written: Not a directory\. Nothing was changed there\.$"):
        train_tokenizer([text_file], tmp_path / "file" / "voc", vocab_size=400)


def test_the_folder_is_whole_or_as_it_was(text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "added_tokens.json").write_text("{}")
    with pytest.raises(ConfigError, match="not empty"):
        train_tokenizer([text_file], out, vocab_size=380, **FEW)
    with pytest.raises(ConfigError, match="at most"):
        train_tokenizer([text_file], out, vocab_size=50_000, overwrite=True, **FEW)
    assert (out / "added_tokens.json").read_text() == "{}"
    train_tokenizer([text_file], out, vocab_size=380, overwrite=True, **FEW)
    assert sorted(path.name for path in out.iterdir()) == ["spiece.model", "tokenizer.json", "tokenizer_config.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ConfigError, match="is no folder"):
        train_tokenizer([text_file], text_file, vocab_size=380, **FEW)


@pytest.mark.parametrize("other", ["model.safetensors", "config.json", ".git/HEAD", "tokenizer.json/part"])
def test_a_folder_with_more_than_a_vocabulary_is_never_replaced(text_file: Path, tmp_path: Path, other: str) -> None:
    out = tmp_path / "model"
    (out / other).parent.mkdir(parents=True)
    (out / other).write_text("mine")
    (out / "spiece.model").write_text("old")
    with pytest.raises(ConfigError, match=f"more than a vocabulary: '{other.split('/')[0]}'"):
        train_tokenizer([text_file], out, vocab_size=380, overwrite=True, **FEW)
    assert (out / other).read_text() == "mine"
    assert (out / "spiece.model").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

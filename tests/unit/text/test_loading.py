"""Which vocabulary a folder holds, and what is wrong with the others."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from t5kit.errors import TokenizerError
from t5kit.text import ByteTokenizer, JsonTokenizer, SentencePieceTokenizer, load_tokenizer

TEXT = "ba ke <extra_id_0> über <extra_id_1>"


@pytest.fixture
def folder(vocabularies: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(vocabularies["unigram-plain"], tmp_path / "folder"))


def set_config(folder: Path, **values: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_each_file_alone_gives_the_same_ids(folder: Path) -> None:
    both = load_tokenizer(folder)
    assert isinstance(both, SentencePieceTokenizer)
    for name in ("spiece.model", "tokenizer.json"):
        alone = load_tokenizer(folder / name)
        assert alone.encode(TEXT).tolist() == both.encode(TEXT).tolist()
        assert alone.vocab_size == both.vocab_size
    (folder / "tokenizer.json").unlink()
    assert load_tokenizer(folder).encode(TEXT).tolist() == both.encode(TEXT).tolist()


@pytest.mark.parametrize("name", ["sentencepiece.model", "tokenizer.model"])
def test_a_model_is_found_under_its_other_names(folder: Path, name: str) -> None:
    (folder / "spiece.model").rename(folder / name)
    (folder / "tokenizer.json").unlink()
    assert isinstance(load_tokenizer(folder), SentencePieceTokenizer)


def test_tokens_that_only_tokenizer_json_has_are_used(folder: Path) -> None:
    path = folder / "tokenizer.json"
    extended = Tokenizer.from_file(str(path))
    extended.add_tokens([AddedToken("[SEP]")])
    path.write_text(extended.to_str())
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, JsonTokenizer)
    assert extended.token_to_id("[SEP]") in tokenizer.encode("ba [SEP] ke")


def test_two_different_vocabularies_in_one_folder_are_an_error(folder: Path, vocabularies: dict[str, Path]) -> None:
    shutil.copy(vocabularies["bpe-plain"] / "tokenizer.json", folder)
    with pytest.raises(TokenizerError, match=r"spiece\.model and .*tokenizer\.json hold different vocabularies"):
        load_tokenizer(folder)


def test_different_scores_are_an_error(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"][300][1] -= 1.0
    path.write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match="different scores"):
        load_tokenizer(folder)


def test_tokens_added_to_a_lone_model_are_an_error_that_says_what_to_do(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    set_config(folder, added_tokens_decoder={"0": {"content": "<pad>"}, "400": {"content": "[SEP]"}})
    with pytest.raises(TokenizerError, match=r"\[SEP\].*save the tokenizer once"):
        load_tokenizer(folder)
    set_config(folder, added_tokens_decoder={"0": {"content": "<pad>"}, "1": {"content": "</s>"}})
    load_tokenizer(folder)
    (folder / "added_tokens.json").write_text('{"[SEP]": 400}')
    with pytest.raises(TokenizerError, match=r"\[SEP\]"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("config", "num_sentinels"),
    [
        ({}, 100),
        ({"extra_ids": 7}, 7),
        ({"extra_ids": 0}, 0),
        ({"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>", {"content": "<extra_id_2>"}, "[X]"]}, 3),
        ({"extra_special_tokens": ["<extra_id_0>"]}, 1),
    ],
)
def test_a_model_without_sentinels_gets_as_many_as_the_config_says(
    vocabularies: dict[str, Path], tmp_path: Path, config: dict[str, object], num_sentinels: int
) -> None:
    model = bare_model(vocabularies)
    (tmp_path / "spiece.model").write_bytes(model)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.num_sentinels == num_sentinels
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.num_sentinels, again.vocab_size) == (num_sentinels, tokenizer.vocab_size)


def bare_model(vocabularies: dict[str, Path]) -> bytes:
    """Return a model file without the sentinels, which are its last fields."""
    model = (vocabularies["unigram-plain"] / "spiece.model").read_bytes()
    return model[: model.index("▁<extra_id_9>".encode()) - 4]


def test_a_model_with_as_many_rows_as_pieces_gets_no_sentinels(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    model = bare_model(vocabularies)  # T5: MADLAD-400 is like this
    (tmp_path / "spiece.model").write_bytes(model)
    rows = SentencePieceTokenizer(model, num_sentinels=0).vocab_size
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": rows}))
    assert load_tokenizer(tmp_path).vocab_size == rows
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": rows + 100}))
    assert load_tokenizer(tmp_path).vocab_size == rows + 100


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}},
        {"config.json": {"tokenizer_class": "ByT5Tokenizer", "vocab_size": 384}},
        {"config.json": {"model_type": "t5", "vocab_size": 384}},
        {"config.json": {"model_type": "byt5"}},
    ],
)
def test_byt5_is_recognised_without_a_vocabulary_file(tmp_path: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert isinstance(load_tokenizer(tmp_path), ByteTokenizer)


def test_a_small_vocabulary_of_384_ids_is_no_byt5(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 384}))
    assert isinstance(load_tokenizer(folder), SentencePieceTokenizer)


def test_a_folder_without_vocabulary_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none of spiece\.model, .*tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="no folder and no file"):
        load_tokenizer(tmp_path / "missing")


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\xff\xfe{", b"[]", b"{", b"[" * 100_000, None])
def test_a_broken_file_is_an_error_that_names_it(folder: Path, name: str, content: bytes | None) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(TokenizerError, match=name.replace(".", r"\.")):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("extra_ids", "many"),
        ("extra_ids", -1),
        ("extra_ids", 10**9),
        ("extra_ids", True),
        ("pad_token", 3),
        ("eos_token", ["</s>"]),
        ("tokenizer_class", {}),
        ("additional_special_tokens", [3]),
        ("added_tokens_decoder", []),
        ("added_tokens_decoder", {"one": "x"}),
        ("added_tokens_decoder", {"-1": "x"}),
    ],
)
def test_a_wrong_type_in_the_config_is_an_error_that_names_the_key(folder: Path, key: str, value: object) -> None:
    set_config(folder, **{key: value})
    if value == []:
        load_tokenizer(folder)  # an empty list of tokens is what some tools write for an empty table
        return
    with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json.*{key}"):
        load_tokenizer(folder)


def test_a_model_that_is_cut_off_anywhere_is_refused(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    model = (vocabularies["unigram-lossless"] / "spiece.model").read_bytes()
    path = tmp_path / "cut.model"
    trailing = model.index(b"<extra_id_9>") - 4  # behind it come whole sentinels: still a whole model
    for length in range(1, trailing, 97):
        path.write_bytes(model[:length])
        with pytest.raises(TokenizerError, match=r"cut\.model"):
            load_tokenizer(path)


@pytest.mark.parametrize(
    "model",
    [
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a piece of 2^63 bytes
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a number of more than 64 bits
        b"\x12\x00\x1a\x00",  # a model without pieces
        b"\x0b",  # a group, which protobuf 2 models do not use
        b"\x0a\x02\x0a\xff\x12\x00\x1a\x00",  # a piece longer than its field
    ],
)
def test_hostile_lengths_are_refused(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "hostile.model"
    path.write_bytes(model)
    with pytest.raises(TokenizerError, match=r"hostile\.model"):
        load_tokenizer(path)

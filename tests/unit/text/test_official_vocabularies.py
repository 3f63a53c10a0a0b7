"""Ids of the real vocabularies of T5 and mT5, frozen (tests/golden/make_text_vectors.py), on tricky texts."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from t5kit.text import JsonTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "text" / "official_ids.json"
VECTORS = json.loads(GOLDEN.read_text(encoding="utf-8"))

FILES = {
    "spiece/t5.model": "t5",
    "spiece/t5-tokenizer.json": "t5",
    "flan-t5-small-onnx/tokenizer.json": "t5",  # carries truncation at 48, and padding
    "spiece/mt5.model": "mt5",
}


PILED_MARKS = (
    "a\u0301\u0327\u0323 q\u0307\u0323 marks that pile up: Z\u0351\u036b\u0343a\u0334\u0321l\u0321g\u0322o\u0320"
)
SPELT_OUT = "The</s> end<pad> of <unk> it <s> <0x41> <0xE2>"
BOUNDARY_BEFORE_SENTINEL = "wide space\u3000<extra_id_5>, \u2581<extra_id_6>"
HALF_WIDTH = "ｶﾞｷﾞｸﾞ ﾊﾟﾋﾟ ﾊﾝｶｸ"
BEYOND_TOKENIZER_JSON = {
    "t5": [PILED_MARKS, SPELT_OUT, BOUNDARY_BEFORE_SENTINEL],
    "mt5": [HALF_WIDTH, PILED_MARKS, SPELT_OUT, BOUNDARY_BEFORE_SENTINEL],
}
"""The texts whose ids the library tokenizers cannot give (limits stated in t5kit.text.json_export)."""


@pytest.fixture(scope="module", params=FILES)
def official(request: pytest.FixtureRequest, test_files: Path) -> tuple[Tokenizer, str]:
    return load_tokenizer(test_files / request.param), FILES[request.param]


def test_ids_are_the_official_ones(official: tuple[Tokenizer, str]) -> None:
    tokenizer, name = official
    short = [vector for vector in VECTORS if "repeat" not in vector]
    assert len(short) > 60
    for vector in short:
        assert tokenizer.encode(vector["text"], add_eos=False).tolist() == vector[name], vector["text"]
    batch = tokenizer.encode_batch([vector["text"] for vector in short])
    assert [ids.tolist() for ids in batch] == [[*vector[name], 1] for vector in short]


def test_ids_of_long_texts_are_the_official_ones(official: tuple[Tokenizer, str]) -> None:
    tokenizer, name = official
    for vector in VECTORS:
        if "repeat" in vector:
            ids = tokenizer.encode(vector["text"] * vector["repeat"], add_eos=False)
            digest = hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()
            assert {"num_ids": len(ids), "sha256": digest} == vector[name], vector["text"]


def test_sizes_and_special_ids_are_the_published_ones(official: tuple[Tokenizer, str]) -> None:
    tokenizer, name = official
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.vocab_size == {"t5": 32100, "mt5": 250100}[name]
    assert tokenizer.num_sentinels == 100
    assert tokenizer.sentinel_id(0) == {"t5": 32099, "mt5": 250099}[name]
    assert tokenizer.sentinel_id(99) == {"t5": 32000, "mt5": 250000}[name]


def test_a_streamed_text_is_the_decoded_text(official: tuple[Tokenizer, str]) -> None:
    tokenizer, name = official
    rng = np.random.default_rng(0)
    rows = [vector[name] for vector in VECTORS if "repeat" not in vector]
    rows += [rng.integers(0, tokenizer.vocab_size + 28, 40).tolist() for _ in range(50)]
    for ids in rows:
        detokenizer = tokenizer.detokenizer()
        assert "".join(map(detokenizer.push, ids)) + detokenizer.finish() == tokenizer.decode(ids)


def test_t5_saved_and_read_back_is_the_official_file(test_files: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(test_files / "spiece" / "t5.model")
    tokenizer.save(tmp_path)
    assert (tmp_path / "spiece.model").read_bytes() == (test_files / "spiece" / "t5.model").read_bytes()
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, SentencePieceTokenizer)
    assert (loaded.vocab_size, loaded.sentinel_id(0)) == (32100, 32099)


def test_the_model_in_a_t5_tokenizer_json_is_the_official_one(test_files: Path) -> None:
    official = load_tokenizer(test_files / "spiece" / "t5.model")
    imported = load_tokenizer(test_files / "flan-t5-small-onnx" / "tokenizer.json")
    assert isinstance(official, SentencePieceTokenizer) and isinstance(imported, SentencePieceTokenizer)
    assert imported.facts == official.facts
    assert imported.piece_scores() == official.piece_scores()


@pytest.mark.parametrize(("path", "name"), [("spiece/t5.model", "t5"), ("spiece/mt5.model", "mt5")])
def test_our_tokenizer_json_gives_the_official_ids_but_where_it_cannot(
    test_files: Path, tmp_path: Path, path: str, name: str
) -> None:
    load_tokenizer(test_files / path).save(tmp_path)
    as_it_stands = JsonTokenizer((tmp_path / "tokenizer.json").read_bytes())
    different = [
        vector["text"]
        for vector in VECTORS
        if "repeat" not in vector and as_it_stands.encode(vector["text"], add_eos=False).tolist() != vector[name]
    ]
    assert different == BEYOND_TOKENIZER_JSON[name]

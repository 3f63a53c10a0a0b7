"""Laws of every vocabulary: streams join, bytes and lossless vocabularies invert, batches equal single texts."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from t5kit.errors import TokenizerError
from t5kit.text import (
    ByteSentinels,
    ByteTokenizer,
    JsonTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)

NUM_SENTINELS = 5
KINDS = ("unigram-plain", "unigram-lossless", "unigram-unknowns", "bpe-plain", "bpe-lossless")

texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("abcdelorstué日 \n\t\u2581\u00a0</>\u0301ﬁ😀\ufffd"),
    ),
    max_size=40,
)
"""Any text, with many characters that vocabularies treat in a way of their own."""

words = st.lists(
    st.sampled_from(
        ["ba", "ke", "lomu", "über", "日", " ", "  ", "\n", ".", "<extra_id_0>", " <extra_id_4>", "<", "q"]
    ),
    max_size=12,
).map("".join)
"""Texts of the vocabulary's own words, spaces and sentinels."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("laws")
    rng = random.Random(0)
    syllables = "ba be bi ka ke lo mu na ni ra re sa sé ta ti über da ne 日 on".split()
    invented = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(150)]
    lines = [" ".join(rng.choices(invented, k=8)) + rng.choice(".!?") for _ in range(300)]
    (root / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    for kind in KINDS:
        model_type, name = kind.split("-")
        train_tokenizer(
            [root / "lines.txt"],
            root / kind,
            vocab_size=110 if name == "unknowns" else 400,
            model_type=model_type,
            byte_fallback=name != "unknowns",
            keeps_whitespace=name == "lossless",
            num_sentinels=NUM_SENTINELS,
            num_threads=2,
        )
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    loaded: dict[str, Tokenizer] = {kind: load_tokenizer(folder) for kind, folder in folders.items()}
    for kind, folder in folders.items():
        loaded[f"json {kind}"] = JsonTokenizer((folder / "tokenizer.json").read_bytes())
    loaded["bytes"] = ByteTokenizer()
    loaded["bytes with text sentinels"] = ByteTokenizer(sentinels=ByteSentinels.TEXT)
    return loaded


def some_ids(tokenizer: Tokenizer, data: st.DataObject) -> list[int]:
    """Draw ids of all sorts: any token, many bytes (the ids from 3 on), special ids, sentinels, what is no token."""
    one = st.one_of(
        st.integers(0, tokenizer.vocab_size - 1),
        st.integers(3, min(258, tokenizer.vocab_size - 1)),
        st.sampled_from([tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.sentinel_id(0)]),
        st.sampled_from([tokenizer.vocab_size, 2**31 - 1, -1, -100]),
        st.sampled_from([byte + 3 for byte in "é日😀".encode()]),
    )
    return data.draw(st.lists(one, max_size=30))


@given(data=st.data())
def test_streamed_pieces_join_to_the_decoded_text(tokenizers: dict[str, Tokenizer], data: st.DataObject) -> None:
    for tokenizer in tokenizers.values():
        ids = some_ids(tokenizer, data)
        detokenizer = tokenizer.detokenizer()
        assert "".join(map(detokenizer.push, ids)) + detokenizer.finish() == tokenizer.decode(ids)
        assert detokenizer.finish() == ""


@given(data=st.data())
def test_decoding_is_the_librarys(
    folders: dict[str, Path], tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    library = sentencepiece.SentencePieceProcessor(model_file=str(folders[kind] / "spiece.model"))
    ids = [i if 0 <= i < library.get_piece_size() else library.unk_id() for i in some_ids(tokenizers[kind], data)]
    assert tokenizers[kind].decode(ids) == library.decode(ids)


@given(text=texts)
def test_bytes_and_lossless_vocabularies_give_every_text_back(tokenizers: dict[str, Tokenizer], text: str) -> None:
    for name in ("bytes", "bytes with text sentinels", "unigram-lossless", "bpe-lossless"):
        tokenizer = tokenizers[name]
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert ids[-1] == tokenizer.eos_id
        assert b"".join(map(tokenizer.token_bytes, ids.tolist())) == text.encode()


@given(text=st.one_of(texts, words))
def test_encoding_what_was_decoded_changes_nothing_more(tokenizers: dict[str, Tokenizer], text: str) -> None:
    for name in ("unigram-plain", "bpe-plain"):
        once = tokenizers[name].decode(tokenizers[name].encode(text))
        assert tokenizers[name].decode(tokenizers[name].encode(once)) == once


@given(batch=st.lists(st.one_of(texts, words), max_size=5))
def test_a_batch_is_its_texts(tokenizers: dict[str, Tokenizer], batch: list[str]) -> None:
    for tokenizer in tokenizers.values():
        for add_eos in (True, False):
            together = [ids.tolist() for ids in tokenizer.encode_batch(batch, add_eos=add_eos)]
            assert together == [tokenizer.encode(text, add_eos=add_eos).tolist() for text in batch]


@given(text=st.one_of(texts, words))
def test_ids_are_tokens_and_no_text_can_end_itself(tokenizers: dict[str, Tokenizer], text: str) -> None:
    for name, tokenizer in tokenizers.items():
        ids = tokenizer.encode(text, add_eos=False)
        assert ids.dtype == "int32"
        assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids.tolist())
        if not name.startswith("json"):
            assert tokenizer.eos_id not in ids
            assert tokenizer.pad_id not in ids


@given(text=words)
def test_tokenizer_json_gives_the_models_ids(tokenizers: dict[str, Tokenizer], text: str) -> None:
    for kind in KINDS:
        own, exported = tokenizers[kind], tokenizers[f"json {kind}"]
        ids, exported_ids = own.encode(text), exported.encode(text)
        if ids.tolist() != exported_ids.tolist():
            # Two cuts of one score: the library tokenizers may take the other one.
            assert isinstance(own, SentencePieceTokenizer)
            scores = own.piece_scores()[1]
            assert sum(scores[i] for i in ids) == pytest.approx(sum(scores[i] for i in exported_ids), abs=1e-4)
            assert own.decode(ids) == own.decode(exported_ids)
        assert exported.decode(ids) == own.decode(ids)


def broken(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield the file cut off, with some bytes changed, and with a part missing."""
    yield data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        changed[rng.randrange(len(data))] = rng.randrange(256)
    yield bytes(changed)
    start = rng.randrange(len(data))
    yield data[:start] + data[start + rng.randint(1, 50) :]


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["unigram-lossless", "bpe-lossless"])
def test_a_broken_file_is_refused_or_still_a_vocabulary(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str
) -> None:
    data = (folders[kind] / name).read_bytes()
    path = tmp_path / name
    refusals = []
    for seed in range(60):
        for content in broken(data, random.Random(seed)):
            path.write_bytes(content)
            try:
                tokenizer = load_tokenizer(path)
                ids = tokenizer.encode(" ba ke\n<extra_id_1> 日😀\u2581")
                tokenizer.encode_batch(["ba", ""])
            except TokenizerError as error:
                refusals.append(str(error))
            else:
                assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids.tolist())
                assert isinstance(tokenizer.decode([*ids.tolist(), 0, 1, 2, 300, -1, 2**31 - 1]), str)
    assert len(refusals) > 60
    assert all(name in refusal for refusal in refusals)

"""SentencePiece vocabularies with T5's sentinels."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from t5kit.errors import RequestError, TokenizerError
from t5kit.text import JsonTokenizer, SentencePieceTokenizer, load_tokenizer
from t5kit.text.sentencepiece_format import (
    Algorithm,
    ModelFacts,
    Piece,
    PieceKind,
    append_pieces,
    build_model,
    read_facts,
    read_pieces,
)
from t5kit.text.sentencepiece_tokenizer import WORD_BOUNDARY

LETTERS = [Piece(WORD_BOUNDARY, -2.0), *(Piece(letter, -3.0 - i) for i, letter in enumerate("abcdehlow<>_xtri0123"))]
SPECIAL = [
    Piece("<pad>", 0.0, PieceKind.CONTROL),
    Piece("</s>", 0.0, PieceKind.CONTROL),
    Piece("<unk>", 0.0, PieceKind.UNKNOWN),
]


def make_model(*pieces: Piece, facts: ModelFacts | None = None) -> bytes:
    return build_model([*SPECIAL, *LETTERS, *pieces], facts or ModelFacts(), pad_id=0, eos_id=1, unk_id=2)


def test_sentinels_are_appended_in_reversed_order() -> None:
    own = SentencePieceTokenizer(make_model(), num_sentinels=0)
    assert (own.num_sentinels, own.vocab_size) == (0, 3 + len(LETTERS))
    tokenizer = SentencePieceTokenizer(make_model())
    assert tokenizer.num_sentinels == 100
    assert tokenizer.vocab_size == own.vocab_size + 100
    assert tokenizer.sentinel_id(0) == tokenizer.vocab_size - 1
    assert tokenizer.sentinel_id(99) == own.vocab_size
    assert not tokenizer.has_own_sentinels
    with pytest.raises(RequestError, match="has none"):
        own.sentinel_id(0)


def test_a_sentinel_takes_its_space_along_and_adds_none() -> None:
    tokenizer = SentencePieceTokenizer(make_model())
    first = tokenizer.sentinel_id(0)
    assert tokenizer.encode("<extra_id_0>a b", add_eos=False).tolist() == [
        first,
        *tokenizer_ids(tokenizer, "a", " ", "b"),
    ]
    assert tokenizer.encode("a <extra_id_0>", add_eos=False).tolist() == [*tokenizer_ids(tokenizer, " ", "a"), first]
    for text in ("<extra_id_0>a b", "a <extra_id_0> b <extra_id_1>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def tokenizer_ids(tokenizer: SentencePieceTokenizer, *texts: str) -> list[int]:
    pieces = {tokenizer.id_to_piece(i): i for i in range(tokenizer.vocab_size)}
    return [pieces[text.replace(" ", WORD_BOUNDARY)] for text in texts]


def test_a_sentinel_glued_to_a_word_is_text_as_in_seqio() -> None:
    tokenizer = SentencePieceTokenizer(make_model())
    assert tokenizer.sentinel_id(0) not in tokenizer.encode("a<extra_id_0>")


def test_sentinels_of_the_model_itself_are_found_and_none_are_added() -> None:
    own = [Piece(f"{WORD_BOUNDARY}<extra_id_{i}>", 0.0, PieceKind.USER_DEFINED) for i in (1, 0)]
    tokenizer = SentencePieceTokenizer(append_pieces(make_model(), own))
    assert tokenizer.num_sentinels == 2
    assert tokenizer.has_own_sentinels
    assert tokenizer.sentinel_id(0) == tokenizer.vocab_size - 1
    assert tokenizer.id_to_piece(tokenizer.sentinel_id(1)) == "<extra_id_1>"


def test_special_tokens_in_a_text_are_text(plain: SentencePieceTokenizer) -> None:
    ids = plain.encode("ba</s> <pad> <unk>", add_eos=False).tolist()
    assert not {plain.pad_id, plain.eos_id, plain.unk_id} & set(ids)
    assert plain.decode(ids) == "ba</s> <pad> <unk>"


def test_padding_and_eos_write_nothing_and_other_ids_read_like_unknown() -> None:
    tokenizer = SentencePieceTokenizer(make_model())
    ids = tokenizer.encode("a b").tolist()
    assert tokenizer.decode([0, *ids, 0, 0]) == "a b"
    for no_token in (tokenizer.vocab_size, 32127, 2**31 - 1, -1, -100):
        assert tokenizer.decode([*ids, no_token]) == "a b ⁇ "
        assert tokenizer.token_bytes(no_token) == " ⁇ ".encode()
        assert tokenizer.id_to_piece(no_token) == "<unk>"


def test_ids_may_come_as_any_row_of_integers(plain: SentencePieceTokenizer) -> None:
    ids = plain.encode("ba ke lo")
    assert ids.dtype == np.int32
    for same in (ids, ids.tolist(), tuple(ids.tolist()), ids.astype(np.int64), list(ids)):
        assert plain.decode(same) == "ba ke lo"
    assert plain.decode([]) == plain.decode(np.array([])) == ""
    for wrong in (ids[None], ids.astype(float), ["1"], 3, [[1]]):
        with pytest.raises(RequestError, match="one row of integers"):
            plain.decode(wrong)


def test_texts_are_encoded_where_a_process_may_have_no_more_threads(
    plain: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list[int] = []

    class FewThreads:
        def encode(self, text: str | list[str], **_: int) -> list[int]:
            if isinstance(text, list):
                lists.append(len(text))
                raise RuntimeError("Resource temporarily unavailable")
            found: list[int] = processor.encode(text)
            return found

    processor = plain._processor
    texts = [f"text {number}" for number in range(40)]
    expected = [plain.encode(text).tolist() for text in texts]
    monkeypatch.setattr(plain, "_processor", FewThreads())
    assert [ids.tolist() for ids in plain.encode_batch(texts)] == expected
    assert [ids.tolist() for ids in plain.encode_batch(texts[:3])] == expected[:3]
    assert lists == [40]  # a few texts ask for none


def test_what_is_no_text_is_a_request_error(plain: SentencePieceTokenizer) -> None:
    for encode in (plain.encode, lambda text: plain.encode_batch(["a", text])):
        with pytest.raises(RequestError, match=r"U\+D800 at character 1"):
            encode("a\ud800")
        for wrong in (b"bytes", None, 3, ["a"]):
            with pytest.raises(RequestError, match="Expected a text"):
                encode(wrong)
    assert plain.encode_batch([]) == []
    with pytest.raises(RequestError, match="got one text"):
        plain.encode_batch("abc")


def test_a_vocabulary_that_keeps_all_text_tells_its_own_space_sign_from_a_space(
    lossless: SentencePieceTokenizer,
) -> None:
    text = "\u2581 a\u2581\u2581b \n\n\t  \u2581"
    assert lossless.decode(lossless.encode(text)) == text
    assert lossless.decode(lossless.encode_batch([text, "b"])[0]) == text


def test_token_bytes_joined_are_the_text_behind_a_space(
    plain: SentencePieceTokenizer, lossless: SentencePieceTokenizer
) -> None:
    text = "ba ke über 日 😀 <extra_id_3>"
    assert b"".join(map(plain.token_bytes, plain.encode(text).tolist())) == (" " + text).encode()
    assert b"".join(map(lossless.token_bytes, lossless.encode(text).tolist())) == text.encode()


def test_the_saved_model_is_the_file_that_was_opened(tmp_path: Path) -> None:
    model = make_model(Piece("he", -1.0))
    SentencePieceTokenizer(model).save(tmp_path)
    assert (tmp_path / "spiece.model").read_bytes() == model
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "spiece.model",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize(
    "name", ["unigram-plain", "unigram-lossless", "unigram-unknowns", "bpe-plain", "bpe-lossless", "bpe-unknowns"]
)
def test_the_saved_tokenizer_json_gives_the_same_ids(vocabularies: dict[str, Path], name: str) -> None:
    tokenizer = load_tokenizer(vocabularies[name])
    as_it_stands = JsonTokenizer((vocabularies[name] / "tokenizer.json").read_bytes())
    texts = [
        "",
        " ",
        "ba ke lo",
        "  über\n日  da ",
        "e\u0301 sé A\u030a",
        "<extra_id_0>. ba <extra_id_9>ti",
        "😀 ﬁ ½\t\x00",
    ]
    for text in texts:
        assert as_it_stands.encode(text).tolist() == tokenizer.encode(text).tolist()
        assert as_it_stands.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert as_it_stands.vocab_size == tokenizer.vocab_size
    assert as_it_stands.sentinel_id(9) == tokenizer.sentinel_id(9)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (make_model(Piece("zz", 0.0, PieceKind.UNUSED)), "unused"),
        (make_model(facts=ModelFacts(treats_whitespace_as_suffix=True)), "behind the words"),
        (make_model(Piece("<extra_id_0>", 0.0, PieceKind.USER_DEFINED), Piece("z", -1.0)), "last ids"),
        (make_model(Piece("<extra_id_0>", 0.0, PieceKind.USER_DEFINED)), "spelt"),
        (make_model(facts=ModelFacts(algorithm=Algorithm.CHAR)), "CHAR"),
    ],
)
def test_what_tokenizer_json_cannot_say_is_not_written_and_warned_of(tmp_path: Path, model: bytes, reason: str) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.warns(UserWarning, match=reason):
        SentencePieceTokenizer(model).save(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    assert load_tokenizer(tmp_path).encode("a b").tolist() == SentencePieceTokenizer(model).encode("a b").tolist()


def test_saving_where_nothing_can_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokenizerError, match="cannot be written"):
        SentencePieceTokenizer(make_model()).save(tmp_path / "file")
    SentencePieceTokenizer(make_model()).save(tmp_path / "new" / "folder")
    assert load_tokenizer(tmp_path / "new" / "folder").num_sentinels == 100


def test_a_model_that_names_no_padding_takes_the_piece_that_its_config_names() -> None:
    # T5: MADLAD-400 has <unk> <s> </s> and pads with <s>.
    pieces = [Piece("<unk>", 0.0, PieceKind.UNKNOWN), Piece("<s>", 0.0, PieceKind.CONTROL)]
    pieces += [Piece("</s>", 0.0, PieceKind.CONTROL), *LETTERS]
    model = build_model(pieces, ModelFacts(), pad_id=-1, eos_id=2, unk_id=0)
    tokenizer = SentencePieceTokenizer(model, num_sentinels=0, pad_piece="<s>")
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)
    assert tokenizer.decode([1, *tokenizer.encode("a"), 1]) == "a"
    with pytest.raises(TokenizerError, match="no padding piece"):
        SentencePieceTokenizer(model, num_sentinels=0)


def test_the_facts_and_pieces_read_are_those_written() -> None:
    facts = ModelFacts(
        algorithm=Algorithm.BPE,
        has_byte_fallback=True,
        unk_surface="?",
        charsmap=b"",
        adds_dummy_prefix=False,
        removes_extra_whitespace=False,
    )
    bytes_pieces = [Piece(f"<0x{byte:02X}>", 0.0, PieceKind.BYTE) for byte in range(256)]
    long_piece = Piece("x" * 200, -5.5)
    model = make_model(*bytes_pieces, long_piece, facts=facts)
    assert read_facts(model, "test") == facts
    assert facts.keeps_all_text
    assert read_pieces(model, "test") == [*SPECIAL, *LETTERS, *bytes_pieces, long_piece]


def test_our_own_reader_agrees_with_the_library(plain: SentencePieceTokenizer, vocabularies: dict[str, Path]) -> None:
    model = (vocabularies["unigram-plain"] / "spiece.model").read_bytes()
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = list(range(library.get_piece_size()))
    pieces = read_pieces(model, "test")
    assert [piece.text for piece in pieces] == library.id_to_piece(ids)
    assert [piece.score for piece in pieces] == library.get_score(ids)
    assert [piece.kind is PieceKind.BYTE for piece in pieces] == library.is_byte(ids)
    assert [piece.kind is PieceKind.CONTROL for piece in pieces] == library.is_control(ids)
    assert plain.facts.adds_dummy_prefix and plain.facts.removes_extra_whitespace and plain.facts.has_byte_fallback


def test_nothing_is_warned_of_when_all_is_written(plain: SentencePieceTokenizer, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.save(tmp_path)

"""Pieces that come out are final; characters wait until they are whole."""

from collections.abc import Iterable

from t5kit.text import Detokenizer
from t5kit.text.detokenizer import ByteDetokenizer, LeadingSpace, PieceDetokenizer, Surface


def pieces_of(detokenizer: Detokenizer, ids: Iterable[int]) -> list[str]:
    return [*map(detokenizer.push, ids), detokenizer.finish()]


def surface(token_id: int) -> Surface:
    """Ids below 256 are bytes, 256 is a control token, 257 the word " a", 258 a space, 259 the letter b."""
    if token_id < 256:
        return Surface(byte=token_id)
    return [Surface(), Surface(" a", has_word_space=True), Surface(" ", has_word_space=True), Surface("b")][
        token_id - 256
    ]


def test_a_character_comes_out_with_its_last_byte() -> None:
    assert pieces_of(PieceDetokenizer(surface, LeadingSpace.KEEP), "aé€".encode()) == ["a", "", "é", "", "", "€", ""]
    stream = ByteDetokenizer(lambda token_id: bytes([token_id]), "ignore")
    assert pieces_of(stream, "aé€".encode()) == ["a", "", "é", "", "", "€", ""]


def test_each_byte_of_no_character_becomes_one_replacement_character() -> None:
    # Python's "replace" would write one for the two bytes of a cut character; SentencePiece writes two.
    assert "".join(pieces_of(PieceDetokenizer(surface, LeadingSpace.KEEP), [0xE2, 0x82, 259])) == "\ufffd\ufffdb"
    assert "".join(pieces_of(PieceDetokenizer(surface, LeadingSpace.KEEP), [0xE2, 0x82])) == "\ufffd\ufffd"


def test_a_control_token_ends_a_row_of_bytes_but_not_a_stream_of_bytes() -> None:
    assert "".join(pieces_of(PieceDetokenizer(surface, LeadingSpace.KEEP), [0xC3, 256, 0xA9])) == "\ufffd\ufffd"
    stream = ByteDetokenizer(lambda token_id: bytes([token_id]) if token_id < 256 else b"", "ignore")
    assert "".join(pieces_of(stream, [0xC3, 256, 0xA9])) == "é"


def test_the_first_space_goes_as_the_vocabulary_says() -> None:
    ids = [256, 258, 257, 258, 259]
    assert "".join(pieces_of(PieceDetokenizer(surface, LeadingSpace.KEEP), ids)) == "  a b"
    assert "".join(pieces_of(PieceDetokenizer(surface, LeadingSpace.DROP_FIRST), ids)) == " a b"
    assert "".join(pieces_of(PieceDetokenizer(surface, LeadingSpace.DROP_ALL), ids)) == "a b"


def test_bytes_keep_their_spaces_and_end_the_beginning() -> None:
    assert "".join(pieces_of(PieceDetokenizer(surface, LeadingSpace.DROP_ALL), [0x20, 257])) == "  a"

"""Ids -> text, one token at a time: what comes out is final, and joined it is the text of all ids."""

import codecs
import dataclasses
import enum
from collections.abc import Callable
from typing import Literal, Protocol

REPLACEMENT_CHARACTER = "\ufffd"
UNKNOWN_SURFACE = " \u2047 "
"""What SentencePiece writes for an unknown token unless the model says otherwise."""


class Detokenizer(Protocol):
    """An incremental `decode`: the pieces of any id sequence, joined, equal `Tokenizer.decode` of the sequence.

    Speed: constant time a token; at most three bytes wait for the rest of their character.
    """

    def push(self, token_id: int) -> str:
        """Return the text that is certain once `token_id` has come, often "" while a character is incomplete."""

    def finish(self) -> str:
        """Return what was held back; the sequence is over."""


class LeadingSpace(enum.Enum):
    """What happens to the space that a vocabulary puts before the first word."""

    KEEP = "keep"
    """Nothing was put there."""
    DROP_FIRST = "drop_first"
    """One space, that of the first piece, is dropped."""
    DROP_ALL = "drop_all"
    """Every piece gives up one leading space until there is text (SentencePiece where it removes extra whitespace)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Surface:
    """What one token writes: `text`, or one raw byte where `byte` >= 0; both empty for control tokens."""

    text: str = ""
    byte: int = -1
    has_word_space: bool = False
    """The text's first space stands for the vocabulary's word boundary, so it may be the one to drop."""


class PieceDetokenizer:
    """SentencePiece's decoding rules, token by token.

    Byte tokens in a row form characters; each byte that is part of none becomes U+FFFD; any other token, a control
    token too, ends the row. Source: sentencepiece_processor.cc, `Decode`.
    """

    def __init__(self, surface: Callable[[int], Surface], leading_space: LeadingSpace) -> None:
        self._surface = surface
        self._leading_space = leading_space
        self._pending = bytearray()
        self._is_at_start = leading_space is not LeadingSpace.KEEP

    def push(self, token_id: int) -> str:
        """Return the text that is certain once `token_id` has come."""
        surface = self._surface(token_id)
        if surface.byte >= 0:
            self._pending.append(surface.byte)
            return self._left_the_start(self._take_bytes(is_end=False))
        before = self._left_the_start(self._take_bytes(is_end=True)) if self._pending else ""
        text = surface.text
        if self._is_at_start and surface.has_word_space:
            text = text[1:]
            self._is_at_start = self._leading_space is LeadingSpace.DROP_ALL
        return before + self._left_the_start(text)

    def finish(self) -> str:
        """Return U+FFFD for each byte that still waited for the rest of its character."""
        return self._take_bytes(is_end=True)

    def _left_the_start(self, text: str) -> str:
        if text:
            self._is_at_start = False
        return text

    def _take_bytes(self, *, is_end: bool) -> str:
        taken = ""
        while self._pending:
            try:
                text, num_consumed = codecs.utf_8_decode(self._pending, "strict", is_end)
            except UnicodeDecodeError as error:
                # One U+FFFD for one byte, as SentencePiece does; Python's "replace" joins the bytes of a cut character.
                taken += self._pending[: error.start].decode("utf-8") + REPLACEMENT_CHARACTER
                del self._pending[: error.start + 1]
            else:
                del self._pending[:num_consumed]
                return taken + text
        return taken


class ByteDetokenizer:
    """One stream of bytes read as UTF-8; tokens without bytes do not interrupt it."""

    def __init__(self, token_bytes: Callable[[int], bytes], errors: Literal["ignore", "replace"]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, token_id: int) -> str:
        """Return the text that is certain once `token_id` has come."""
        return self._decoder.decode(self._token_bytes(token_id))

    def finish(self) -> str:
        """Return what the vocabulary shows for an incomplete last character."""
        return self._decoder.decode(b"", True)

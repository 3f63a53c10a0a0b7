"""Tokens as people read them: each one's text, and the words that several of them make together."""

import dataclasses
from collections.abc import Sequence

from t5kit.text.tokenizer import TokenIds, Tokenizer, as_id_list


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """Tokens that belong together: those from `start` up to, not including, `end`."""

    text: str
    start: int
    end: int


def readable_pieces(tokenizer: Tokenizer, ids: TokenIds) -> list[str]:
    """Return each token's own text, spaces in; the vocabulary's spelling for what writes none or half a character.

    Example: "The cat</s>" -> "The", " cat", "</s>"; a byte of "ü" -> "<0xC3>"
    """
    pieces = []
    for token_id in as_id_list(ids):
        try:
            text = tokenizer.token_bytes(token_id).decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        pieces.append(text or tokenizer.id_to_piece(token_id))
    return pieces


def words_of(tokenizer: Tokenizer, ids: TokenIds) -> list[Word]:
    """Return the words of token ids, which together cover every token once.

    A word begins at a space; every character of a script without spaces (Chinese, Japanese) may begin one where a token
    begins with it; tokens without text (EOS) stand alone.
    """
    ids = as_id_list(ids)
    parts = [tokenizer.token_bytes(token_id) for token_id in ids]
    starts = []
    character = 0  # the first byte of the last character so far
    for place, part in enumerate(parts):
        if place == 0 or _begins_word(parts[place - 1], part, character):
            starts.append(place)
        character = next((byte for byte in reversed(part) if not _is_continuation(byte)), character)
    words = []
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        text = b"".join(parts[start:end]).decode("utf-8", "replace").strip()
        words.append(Word(text or _named(tokenizer, ids[start:end]), start, end))
    return words


def _begins_word(before: bytes, token: bytes, character: int) -> bool:
    if not before or not token:
        return True
    if _is_continuation(token[0]):
        return False  # of a character
    if token[:1].isspace():
        return not before.isspace()
    if before[-1:].isspace():
        return not before.isspace()  # a space that is a token of its own belongs to what follows
    return _is_spaceless(token[0]) or _is_spaceless(character)


def _is_continuation(byte: int) -> bool:
    return 0x80 <= byte < 0xC0


def _is_spaceless(lead: int) -> bool:
    """Say whether a character's first byte is of U+3000 to U+9FFF or beyond the basic plane."""
    return 0xE3 <= lead <= 0xE9 or lead >= 0xF0


def _named(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return how the vocabulary spells tokens that write nothing to see; a space is shown as one."""
    return "".join("␣" if tokenizer.token_bytes(i).isspace() else tokenizer.id_to_piece(i) for i in ids)

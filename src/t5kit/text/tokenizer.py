"""The contract of every vocabulary: text <-> ids, sentinels included."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from t5kit.errors import RequestError
from t5kit.text.detokenizer import Detokenizer, LeadingSpace

SENTINEL_PATTERN = re.compile(r"<extra_id_(0|[1-9][0-9]{0,5})>")
"""A sentinel as it is written in text; group 1 is its index."""

TokenIds = Sequence[int] | np.ndarray
"""Token ids [N], as a list, a tuple or an integer array."""


class Tokenizer(Protocol):
    """One vocabulary. `encode` gives int32 ids [N]; `decode` is its inverse up to the vocabulary's normaliser.

    Raises (every method that takes text): RequestError if it is no `str` or holds a lone surrogate.
    """

    @property
    def vocab_size(self) -> int:
        """Ids the tokenizer knows, sentinels included (T5: 32100). A model may have more rows (T5: 32128)."""

    @property
    def pad_id(self) -> int:
        """Padding."""

    @property
    def eos_id(self) -> int:
        """End of sequence."""

    @property
    def unk_id(self) -> int:
        """What the vocabulary cannot write."""

    @property
    def num_sentinels(self) -> int:
        """Sentinels there are; `sentinel_id` takes an index below this."""

    @property
    def leading_space(self) -> LeadingSpace:
        """What `decode` does to the space before the first word, which `token_bytes` still has."""

    def encode(self, text: str, *, add_eos: bool = True) -> np.ndarray:
        """Return the ids [N] int32 of `text`, with EOS at the end unless `add_eos` is false."""

    def encode_batch(self, texts: Sequence[str], *, add_eos: bool = True) -> list[np.ndarray]:
        """Return `encode` of each text, in order, by the library's own batch call."""

    def encode_targets(self, targets: Sequence[str], prompts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each target, EOS at the end, as the answer to its prompt.

        Only vocabularies with character rules (character_rules.py) look at the prompts.
        """

    def decode(self, ids: TokenIds) -> str:
        """Return the text of `ids`, without padding and EOS, sentinels as `<extra_id_N>`.

        An id that is no token (a model's padding row, a negative label) reads like the unknown token. Never raises
        for an integer.
        """

    def sentinel_id(self, index: int) -> int:
        """Return the id of sentinel `index`; T5's run backwards, so that 0 is the last id of the vocabulary.

        Raises: RequestError if there is no such sentinel.
        """

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that a token adds in the middle of a text; none for padding and EOS."""

    def id_to_piece(self, token_id: int) -> str:
        """Return a token as the vocabulary spells it, for people; an id that is no token reads like the unknown one."""

    def detokenizer(self) -> Detokenizer:
        """Return a fresh incremental `decode`."""

    def save(self, folder: Path) -> None:
        """Write the vocabulary's files into `folder`; `load_tokenizer` and transformers read them."""


def sentinel_text(index: int) -> str:
    """Return how sentinel `index` is written: 0 -> "<extra_id_0>"."""
    return f"<extra_id_{index}>"


def checked_sentinel_index(index: int, num_sentinels: int) -> int:
    """Return `index` as an int, or say which sentinels there are."""
    if not 0 <= index < num_sentinels:
        known = f"0 to {num_sentinels - 1}" if num_sentinels else "none"
        raise RequestError(
            f"Sentinel {index} was asked for; this vocabulary has {known}. Use fewer spans or a vocabulary with more."
        )
    return int(index)


def check_text(text: object) -> None:
    """Raise the RequestError that says why `text` cannot be encoded; return if it can."""
    if not isinstance(text, str):
        raise RequestError(
            f"Expected a text (str), got {type(text).__name__}. Pass a str, or a list of them to a batch call."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The text holds a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}; it is no "
            "valid Unicode. Decode its bytes with errors='replace' first."
        ) from None


def checked_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list.

    Raises: RequestError if it is one text, or holds one that cannot be encoded.
    """
    if isinstance(texts, (str, bytes)):
        raise RequestError("Expected a list of texts, got one text. Put it in a list, or call `encode`.")
    texts = list(texts)
    for text in texts:
        check_text(text)
    return texts


def as_id_list(ids: TokenIds) -> list[int]:
    """Return token ids [N] as Python ints.

    Raises: RequestError if they are not one row of integers.
    """
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise RequestError(f"Token ids must be one row of integers, got an array {ids.shape} of {ids.dtype}.")
        return [int(token_id) for token_id in ids.tolist()]
    try:
        return [token_id.__index__() for token_id in ids]
    except (AttributeError, TypeError):
        raise RequestError(f"Token ids must be one row of integers, got {ids!r:.80}.") from None

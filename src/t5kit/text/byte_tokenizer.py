"""ByT5's vocabulary: every UTF-8 byte is a token, three ids stand before them."""

import enum
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t5kit.text.detokenizer import ByteDetokenizer, LeadingSpace
from t5kit.text.tokenizer import (
    SENTINEL_PATTERN,
    TokenIds,
    as_id_list,
    check_text,
    checked_sentinel_index,
    checked_texts,
    sentinel_text,
)
from t5kit.text.tokenizer_config import write_tokenizer_config

NUM_SPECIAL = 3
"""pad 0, EOS 1, unknown 2; byte b has the id b + 3."""
NUM_BYTES = 256
NUM_TRAINED_SENTINELS = 100
NUM_TEXT_SENTINELS = 125
"""Rows 259 to 383 of a published ByT5 (transformers ByT5Tokenizer, extra_ids=125)."""


class ByteSentinels(enum.StrEnum):
    """Which ids a byte vocabulary's sentinels are; two conventions exist, and they share no id."""

    BYTES = "bytes"
    """ByT5 as it was trained (seqio's ByteVocabulary without extra ids): 258, 257, …, the ids of the highest bytes.
    They have no spelling: `<extra_id_0>` in a text is twelve bytes, and decoding drops them as invalid UTF-8."""
    TEXT = "text"
    """The strings of transformers' ByT5Tokenizer: `<extra_id_0>` is 259, `<extra_id_1>` 260, … 383. No published ByT5
    was trained with these rows; models fine-tuned with them as separators exist."""


class ByteTokenizer:
    """UTF-8 bytes as tokens: "hi" -> [107, 108, 1]. Decoding ignores bytes that form no character, as seqio does."""

    def __init__(self, *, sentinels: ByteSentinels = ByteSentinels.BYTES) -> None:
        self.sentinels = ByteSentinels(sentinels)
        self.leading_space = LeadingSpace.KEEP
        self.pad_id, self.eos_id, self.unk_id = 0, 1, 2
        self.vocab_size = NUM_SPECIAL + NUM_BYTES
        # T5: seqio sets no bound on byte sentinels; beyond 100 they would reach into everyday continuation bytes.
        self.num_sentinels = NUM_TRAINED_SENTINELS
        if self.sentinels is ByteSentinels.TEXT:
            self.vocab_size += NUM_TEXT_SENTINELS
            self.num_sentinels = NUM_TEXT_SENTINELS

    def encode(self, text: str, *, add_eos: bool = True) -> np.ndarray:
        """Return the ids [N] int32 of `text`."""
        check_text(text)
        if self.sentinels is ByteSentinels.TEXT and "<extra_id_" in text:
            ids = self._encode_around_sentinels(text)
        else:
            ids = _byte_ids(text)
        return np.append(ids, np.int32(self.eos_id)) if add_eos else ids

    def encode_batch(self, texts: Sequence[str], *, add_eos: bool = True) -> list[np.ndarray]:
        """Return `encode` of each text, in order."""
        return [self.encode(text, add_eos=add_eos) for text in checked_texts(texts)]

    def encode_targets(self, targets: Sequence[str], prompts: Sequence[str]) -> list[np.ndarray]:
        """Return `encode` of each target, whatever the prompts are."""
        return self.encode_batch(targets)

    def decode(self, ids: TokenIds) -> str:
        """Return the text of `ids`; ids without bytes and bytes that form no character write nothing."""
        return b"".join(map(self.token_bytes, as_id_list(ids))).decode("utf-8", "ignore")

    def sentinel_id(self, index: int) -> int:
        """Return the id of sentinel `index`: 258 - index, or 259 + index for text sentinels."""
        index = checked_sentinel_index(index, self.num_sentinels)
        first_text_id = NUM_SPECIAL + NUM_BYTES
        return first_text_id + index if self.sentinels is ByteSentinels.TEXT else first_text_id - 1 - index

    def token_bytes(self, token_id: int) -> bytes:
        """Return the byte of a token; a text sentinel's spelling; nothing for any other id."""
        byte = token_id - NUM_SPECIAL
        if 0 <= byte < NUM_BYTES:
            return bytes((byte,))
        if byte >= NUM_BYTES and token_id < self.vocab_size:
            return sentinel_text(byte - NUM_BYTES).encode()
        return b""

    def id_to_piece(self, token_id: int) -> str:
        """Return `<0x41>` for byte 0x41, and the names of the other ids."""
        byte = token_id - NUM_SPECIAL
        if 0 <= byte < NUM_BYTES:
            return f"<0x{byte:02X}>"
        if byte >= NUM_BYTES and token_id < self.vocab_size:
            return sentinel_text(byte - NUM_BYTES)
        return {self.pad_id: "<pad>", self.eos_id: "</s>"}.get(token_id, "<unk>")

    def detokenizer(self) -> ByteDetokenizer:
        """Return a fresh incremental `decode`."""
        return ByteDetokenizer(self.token_bytes, "ignore")

    def save(self, folder: Path) -> None:
        """Write tokenizer_config.json, all that a byte vocabulary needs."""
        write_tokenizer_config(
            folder,
            tokenizer_class="ByT5Tokenizer",
            sentinel_texts=[sentinel_text(index) for index in range(NUM_TEXT_SENTINELS)],
            extra={"extra_ids": NUM_TEXT_SENTINELS, "byte_sentinels": self.sentinels.value},
        )

    def _encode_around_sentinels(self, text: str) -> np.ndarray:
        parts: list[np.ndarray] = []
        position = 0
        for match in SENTINEL_PATTERN.finditer(text):
            index = int(match[1])
            if index < self.num_sentinels:
                parts += [_byte_ids(text[position : match.start()]), np.array([self.sentinel_id(index)], np.int32)]
                position = match.end()
        return np.concatenate([*parts, _byte_ids(text[position:])])


def _byte_ids(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) + np.int32(NUM_SPECIAL)

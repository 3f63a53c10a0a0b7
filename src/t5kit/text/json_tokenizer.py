"""tokenizer.json of any other shape, run by the `tokenizers` library as it stands."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from t5kit.errors import TokenizerError
from t5kit.text.detokenizer import (
    UNKNOWN_SURFACE,
    ByteDetokenizer,
    Detokenizer,
    LeadingSpace,
    PieceDetokenizer,
    Surface,
)
from t5kit.text.tokenizer import (
    TokenIds,
    as_id_list,
    check_text,
    checked_sentinel_index,
    checked_texts,
    sentinel_text,
)
from t5kit.text.tokenizer_config import (
    TokenizerConfig,
    parse_json_object,
    refused_by_library,
    write_file,
    write_tokenizer_config,
)

JSON_NAME = "tokenizer.json"
_BOUNDARY = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class JsonTokenizer:
    """A tokenizer.json whose decoder is of SentencePiece's kind (U+2581 for spaces) or of GPT-2's (bytes as letters).

    Truncation and padding that the file carries are switched off: no text is ever cut in silence. Added tokens are
    found in texts where the file says so, as transformers does, `</s>` included. The unknown token and ids that are no
    token are written ` ⁇ `, as everywhere in t5kit.
    """

    def __init__(self, document: bytes, *, config: TokenizerConfig | None = None, source: str = JSON_NAME) -> None:
        """Open the contents of a tokenizer.json; `source` is its name in messages.

        config: names the padding, EOS and unknown tokens.
        Raises: TokenizerError if it is broken, of an unknown kind, or lacks one of the three.
        """
        config = config or TokenizerConfig()
        parsed = parse_json_object(document, source)
        self._source = source
        with refused_by_library(source):
            self._tokenizer = tokenizers.Tokenizer.from_str(document.decode("utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._surface_of, self._own_leading_space = _decoding_rules(parsed.get("decoder"), source)
        self.leading_space = LeadingSpace.KEEP if self._own_leading_space is None else self._own_leading_space
        # An added token that is normalised like text is matched, and written, in its normalised spelling.
        self._is_written_as_spelt = {
            token_id: self._tokenizer.id_to_token(token_id) == token.content
            for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
        }
        self.vocab_size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self.vocab_size > 2**31 - 1:
            raise TokenizerError(f"{source} has a token with the id {self.vocab_size - 1}; ids must be below 2^31 - 1.")
        self.pad_id = self._special_id("pad_token", config.pad_token)
        self.eos_id = self._special_id("eos_token", config.eos_token)
        self.unk_id = self._special_id("unk_token", config.unk_token)
        self._sentinel_ids: list[int] = []
        while (token_id := self._tokenizer.token_to_id(sentinel_text(len(self._sentinel_ids)))) is not None:
            self._sentinel_ids.append(token_id)
        self.num_sentinels = len(self._sentinel_ids)
        self._surfaces: dict[int, Surface] = {}

    def encode(self, text: str, *, add_eos: bool = True) -> np.ndarray:
        """Return the ids [N] int32 of `text`."""
        check_text(text)
        with refused_by_library(self._source):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array([*ids, self.eos_id] if add_eos else ids, dtype=np.int32)

    def encode_batch(self, texts: Sequence[str], *, add_eos: bool = True) -> list[np.ndarray]:
        """Return `encode` of each text, in order; the library works on all cores."""
        texts = checked_texts(texts)
        end = [self.eos_id] if add_eos else []
        with refused_by_library(self._source):
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids + end, dtype=np.int32) for encoding in encodings]

    def encode_targets(self, targets: Sequence[str], prompts: Sequence[str]) -> list[np.ndarray]:
        """Return `encode` of each target, whatever the prompts are."""
        return self.encode_batch(targets)

    def decode(self, ids: TokenIds) -> str:
        """Return the text of `ids`."""
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.push, as_id_list(ids))) + detokenizer.finish()

    def sentinel_id(self, index: int) -> int:
        """Return the id of the token `<extra_id_index>`."""
        return self._sentinel_ids[checked_sentinel_index(index, self.num_sentinels)]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that a token adds in the middle of a text."""
        if self._own_leading_space is None:
            return self._letters_as_bytes(token_id)
        surface = self._surface(token_id)
        return surface.text.encode() if surface.byte < 0 else bytes((surface.byte,))

    def id_to_piece(self, token_id: int) -> str:
        """Return the token as the file spells it; sentinels as `<extra_id_N>`."""
        if token_id in self._sentinel_ids:
            return sentinel_text(self._sentinel_ids.index(token_id))
        text = self._text(token_id)
        return self._text(self.unk_id) or "<unk>" if text is None else text

    def detokenizer(self) -> Detokenizer:
        """Return a fresh incremental `decode`."""
        if self._own_leading_space is None:
            return ByteDetokenizer(self._letters_as_bytes, "replace")
        return PieceDetokenizer(self._surface, self._own_leading_space)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, without truncation and padding, and tokenizer_config.json into `folder`."""
        write_file(folder / JSON_NAME, str(self._tokenizer.to_str()).encode())
        write_tokenizer_config(
            folder,
            tokenizer_class="PreTrainedTokenizerFast",
            pad_token=self.id_to_piece(self.pad_id),
            eos_token=self.id_to_piece(self.eos_id),
            unk_token=self.id_to_piece(self.unk_id),
            sentinel_texts=[sentinel_text(index) for index in range(self.num_sentinels)],
        )

    def _text(self, token_id: int) -> str | None:
        if not 0 <= token_id < self.vocab_size:
            return None
        text: str | None = self._tokenizer.id_to_token(token_id)
        return text

    def _surface(self, token_id: int) -> Surface:
        surface = self._surfaces.get(token_id)
        if surface is None:
            surface = self._new_surface(token_id)
            if 0 <= token_id < self.vocab_size:
                self._surfaces[token_id] = surface
        return surface

    def _new_surface(self, token_id: int) -> Surface:
        text = self._text(token_id)
        if text is None or token_id == self.unk_id:
            return Surface(text=UNKNOWN_SURFACE)
        if token_id in (self.pad_id, self.eos_id):
            return Surface()
        return Surface(text=text) if self._is_written_as_spelt.get(token_id) else self._surface_of(text)

    def _letters_as_bytes(self, token_id: int) -> bytes:
        text = self._text(token_id)
        if text is None or token_id == self.unk_id:
            return UNKNOWN_SURFACE.encode()
        if token_id in (self.pad_id, self.eos_id):
            return b""
        if self._is_written_as_spelt.get(token_id) or not all(letter in _BYTE_OF_LETTER for letter in text):
            return text.encode()
        return bytes(_BYTE_OF_LETTER[letter] for letter in text)

    def _special_id(self, key: str, text: str) -> int:
        token_id = self._tokenizer.token_to_id(text)
        if token_id is None:
            raise TokenizerError(
                f"{self._source} has no token {text!r}. Name its {key.removesuffix('_token')} token in the {key} of "
                "tokenizer_config.json beside it."
            )
        return int(token_id)


def _decoding_rules(decoder: object, source: str) -> tuple[Callable[[str], Surface], LeadingSpace | None]:
    """Return what a token's text writes, and what becomes of the first space; None for bytes as letters."""
    steps: Any = decoder
    if isinstance(decoder, dict):
        steps = decoder.get("decoders") if decoder.get("type") == "Sequence" else [decoder]
    writes_boundary = reads_bytes = False
    leading_space: LeadingSpace | None = LeadingSpace.KEEP
    if not isinstance(steps, list):
        steps = [None]
    for step in steps:
        match step:
            case {"type": "ByteLevel"} if len(steps) == 1:
                return _boundary_text, None
            case {"type": "Metaspace", "replacement": "\u2581"}:
                writes_boundary = True
                # "add_prefix_space" is how files before tokenizers 0.19 say it.
                if step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True) is not False:
                    leading_space = LeadingSpace.DROP_FIRST
            case {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}:
                writes_boundary = True
            case {"type": "Strip", "content": " ", "start": 0 | 1 as start, "stop": 0}:
                leading_space = LeadingSpace.DROP_FIRST if start else leading_space
            case {"type": "ByteFallback"}:
                reads_bytes = True
            case {"type": "Fuse"}:
                pass
            case _:
                kind = step.get("type") if isinstance(step, dict) else step
                raise TokenizerError(
                    f"{source}: its decoder {kind!r:.60} is not understood. Known are those of T5, LLaMA (Metaspace, "
                    "ByteFallback) and GPT-2 (ByteLevel)."
                )
    surface = _boundary_text if writes_boundary else _plain_text
    return (lambda text: _byte_surface(text) or surface(text)) if reads_bytes else surface, leading_space


def _boundary_text(text: str) -> Surface:
    return Surface(text=text.replace(_BOUNDARY, " "), has_word_space=text.startswith(_BOUNDARY))


def _plain_text(text: str) -> Surface:
    return Surface(text=text, has_word_space=text.startswith(" "))


def _byte_surface(text: str) -> Surface | None:
    return Surface(byte=int(text[3:5], 16)) if _BYTE.fullmatch(text) else None


def _byte_letters() -> dict[str, int]:
    """Return GPT-2's letter -> byte: printable Latin-1 stands for itself, other bytes for the letters from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()

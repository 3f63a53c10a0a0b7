"""SentencePiece vocabularies: T5, FLAN, mT5, umT5, MADLAD-400 and our own."""

import contextlib
import itertools
import operator
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import sentencepiece

from t5kit.errors import TokenizerError
from t5kit.text.character_rules import CharacterRule, rule_of, rules_to_json
from t5kit.text.detokenizer import LeadingSpace, PieceDetokenizer, Surface
from t5kit.text.json_export import JsonSource, build_json, why_no_json
from t5kit.text.sentencepiece_format import ModelFacts, Piece, PieceKind, append_pieces, read_facts, read_pieces
from t5kit.text.tokenizer import TokenIds, as_id_list, check_text, checked_sentinel_index, checked_texts, sentinel_text
from t5kit.text.tokenizer_config import write_file, write_tokenizer_config

WORD_BOUNDARY = "\u2581"
"""SentencePiece's sign for a space, in pieces and in normalised text."""
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
MODEL_NAME = "spiece.model"
JSON_NAME = "tokenizer.json"
NUM_SENTINELS = 100
"""T5's own number of sentinels (t5 utils, DEFAULT_EXTRA_IDS)."""
_FEW_TEXTS, _TEXTS_A_THREAD = 16, 256


class SentencePieceTokenizer:
    """A SentencePiece model with T5's sentinels.

    A model without sentinels gets `num_sentinels` of them behind its pieces, in reversed order, so that `<extra_id_0>`
    is the last id. As in seqio they are pieces `▁<extra_id_N>` of their own kind: `<extra_id_0>. Hello` is
    [32099, 5, 8774]. The sign belongs to the sentinel, so a sentinel is one only at the beginning of the text or
    behind a space; in `x<extra_id_0>` it is plain text (transformers reads a sentinel there). Where a model puts no
    space before the text, its sentinels are `<extra_id_N>` and are found anywhere.

    `</s>`, `<pad>` and `<unk>` in a text are plain text, as in SentencePiece: no input can end itself.
    Decoding follows SentencePiece too: unknown is written ` ⁇ `, and so is an id that is no token (seqio turns it into
    the unknown id); control tokens write nothing; each byte that is part of no character becomes U+FFFD.
    A vocabulary that keeps all text (see `ModelFacts.keeps_all_text`) writes the character U+2581 as bytes, because the
    library would read it back as a space.
    """

    def __init__(
        self,
        model: bytes,
        *,
        num_sentinels: int = NUM_SENTINELS,
        source: str = MODEL_NAME,
        pad_piece: str = "<pad>",
        eos_piece: str = "</s>",
        character_rules: Sequence[CharacterRule] = (),
    ) -> None:
        """Open the model file `model`; `source` is its name in messages.

        num_sentinels: how many to append if the model has none of its own. pad_piece, eos_piece: their spelling, for
        models that do not say which of their pieces these are. character_rules: prompts that are written in
        characters; they need a model that marks the beginning of words.
        Raises: TokenizerError if it is no whole SentencePiece model, lacks a padding, EOS or unknown piece, or cannot
        write words in characters where rules ask for it.
        """
        self._source = source
        self._model = model
        self.facts: ModelFacts = read_facts(model, source)
        if self.facts.has_denormalizer:
            raise TokenizerError(f"{source} rewrites text after decoding (a denormalizer), which cannot be streamed.")
        own = _open(model, source) if sentinel_text(0).encode() in model else None
        self.has_own_sentinels = own is not None and bool(_find_sentinels(own))
        """The sentinels stand in the model file itself."""
        if own is None or not self.has_own_sentinels:
            prefix = WORD_BOUNDARY if self.facts.adds_dummy_prefix else ""
            texts = [prefix + sentinel_text(index) for index in reversed(range(num_sentinels))]
            own = _open(append_pieces(model, [Piece(text, 0.0, PieceKind.USER_DEFINED) for text in texts]), source)
        self._processor = own
        self._sentinel_ids = _find_sentinels(self._processor)
        self._sentinel_index = {token_id: index for index, token_id in enumerate(self._sentinel_ids)}
        self.num_sentinels = len(self._sentinel_ids)
        self.vocab_size: int = self._processor.get_piece_size()
        self.unk_id: int = self._processor.unk_id()
        self.pad_id = self._special_id("padding", self._processor.pad_id(), pad_piece)
        self.eos_id = self._special_id("EOS", self._processor.eos_id(), eos_piece)
        self._surfaces: dict[int, Surface] = {}
        self.character_rules = tuple(character_rules)
        self._character_ids: dict[str, list[int]] = {}
        if self.character_rules and self._processor.piece_to_id(WORD_BOUNDARY) == self.unk_id:
            raise TokenizerError(
                f"{source} has no piece for a space alone, so its words cannot be written in characters."
            )

    def with_character_rules(self, rules: Sequence[CharacterRule]) -> Self:
        """Return this vocabulary with these rules, and its own ones for other prefixes.

        Raises: TokenizerError if it cannot write words in characters.
        """
        prefixes = {rule.prefix for rule in rules}
        return type(self)(
            self._model,
            num_sentinels=self.num_sentinels,
            source=self._source,
            pad_piece=self.id_to_piece(self.pad_id),
            eos_piece=self.id_to_piece(self.eos_id),
            character_rules=(*rules, *(rule for rule in self.character_rules if rule.prefix not in prefixes)),
        )

    def encode(self, text: str, *, add_eos: bool = True) -> np.ndarray:
        """Return the ids [N] int32 of `text`."""
        check_text(text)
        ids = self._encode(text)
        if add_eos:
            ids.append(self.eos_id)
        return np.array(ids, dtype=np.int32)

    def encode_batch(self, texts: Sequence[str], *, add_eos: bool = True) -> list[np.ndarray]:
        """Return `encode` of each text, in order; the library works on all cores where they are many."""
        texts = checked_texts(texts)
        if self.facts.keeps_all_text and any(WORD_BOUNDARY in text for text in texts):
            return [self.encode(text, add_eos=add_eos) for text in texts]
        by_rule = [rule_of(text, self.character_rules) is not None for text in texts]
        pieces = iter(self._encode_each(list(itertools.compress(texts, map(operator.not_, by_rule)))))
        end = [self.eos_id] if add_eos else []
        return [
            np.array((self._encode(text) if has_rule else next(pieces)) + end, dtype=np.int32)
            for text, has_rule in zip(texts, by_rule, strict=True)
        ]

    def _encode_each(self, texts: list[str]) -> list[list[int]]:
        """Speed: a list costs the library new threads, 150 us: as much as some fifteen texts of 80 tokens.

        Without them it also goes on where a process may have no more threads. Several only where there is work for
        them: the library ends the process if it is given some of them and not all.
        """
        if len(texts) > _FEW_TEXTS:
            num_processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            num_threads = min(num_processors, -(-len(texts) // _TEXTS_A_THREAD))
            with contextlib.suppress(RuntimeError):  # no thread to be had
                found: list[list[int]] = self._processor.encode(texts, num_threads=num_threads)
                return found
        return [self._processor.encode(text) for text in texts]

    def encode_targets(self, targets: Sequence[str], prompts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each target, EOS at the end: in characters where the rule of its prompt says so."""
        encoded = self.encode_batch(targets)
        for number, (target, prompt) in enumerate(zip(targets, prompts, strict=True)):
            rule = rule_of(prompt, self.character_rules)
            if rule is not None and rule.in_targets:
                encoded[number] = np.array([*self._encode_characters(target), self.eos_id], dtype=np.int32)
        return encoded

    def decode(self, ids: TokenIds) -> str:
        """Return the text of `ids`."""
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.push, as_id_list(ids))) + detokenizer.finish()

    def sentinel_id(self, index: int) -> int:
        """Return the id of sentinel `index`; for T5, 32099 - index."""
        return self._sentinel_ids[checked_sentinel_index(index, self.num_sentinels)]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that a token adds in the middle of a text."""
        surface = self._surface(token_id)
        return surface.text.encode() if surface.byte < 0 else bytes((surface.byte,))

    def id_to_piece(self, token_id: int) -> str:
        """Return the piece as the model spells it; sentinels as `<extra_id_N>`."""
        if token_id in self._sentinel_index:
            return sentinel_text(self._sentinel_index[token_id])
        return str(self._processor.id_to_piece(token_id if 0 <= token_id < self.vocab_size else self.unk_id))

    @property
    def leading_space(self) -> LeadingSpace:
        """What `decode` does to the space before the first word."""
        if self.facts.removes_extra_whitespace:
            return LeadingSpace.DROP_ALL
        return LeadingSpace.DROP_FIRST if self.facts.adds_dummy_prefix else LeadingSpace.KEEP

    def detokenizer(self) -> PieceDetokenizer:
        """Return a fresh incremental `decode`."""
        return PieceDetokenizer(self._surface, self.leading_space)

    def save(self, folder: Path) -> None:
        """Write spiece.model, tokenizer.json and tokenizer_config.json into `folder`.

        spiece.model is the file this was opened from, byte for byte. tokenizer.json gives the same ids but where
        `json_export` says it cannot; a model that it cannot express at all gets none, and a warning says why.
        transformers' AutoTokenizer reads tokenizer.json as it stands (the class in tokenizer_config.json tells it to).
        """
        write_file(folder / MODEL_NAME, self._model)
        source = self._json_source()
        reason = why_no_json(source)
        document = ""
        if not reason:
            try:
                document = build_json(source)
            except TokenizerError as error:
                reason = str(error).removesuffix(".")
        if reason:
            (folder / JSON_NAME).unlink(missing_ok=True)
            warnings.warn(f"{folder} gets no {JSON_NAME}: {reason}. Its {MODEL_NAME} is whole.", stacklevel=2)
        else:
            write_file(folder / JSON_NAME, document.encode())
        write_tokenizer_config(
            folder,
            # T5Tokenizer of transformers 5 would take tokenizer.json apart and put it together in its own way.
            tokenizer_class="T5Tokenizer" if reason else "PreTrainedTokenizerFast",
            pad_token=self.id_to_piece(self.pad_id),
            eos_token=self.id_to_piece(self.eos_id),
            unk_token=self.id_to_piece(self.unk_id),
            sentinel_texts=[sentinel_text(index) for index in range(self.num_sentinels)],
            extra={
                "extra_ids": 0 if self.has_own_sentinels else self.num_sentinels,
                **rules_to_json(self.character_rules),
            },
        )

    def piece_scores(self) -> tuple[list[str], list[float]]:
        """Return the spelling and the score of every piece but appended sentinels, in the order of the ids."""
        ids = list(range(self.vocab_size if self.has_own_sentinels else self.vocab_size - self.num_sentinels))
        return self._processor.id_to_piece(ids), self._processor.get_score(ids)

    def _json_source(self) -> JsonSource:
        return JsonSource(
            pieces=read_pieces(self._processor.serialized_model_proto(), self._source),
            facts=self.facts,
            pad_id=self.pad_id,
            eos_id=self.eos_id,
            unk_id=self.unk_id,
            sentinel_ids=tuple(self._sentinel_ids),
            normalize=self._processor.normalize,
        )

    def _encode(self, text: str) -> list[int]:
        rule = rule_of(text, self.character_rules)
        if rule is not None:
            rest = text.removeprefix(rule.prefix)
            return self._encode_pieces(rule.prefix) + self._encode_characters(rest)
        return self._encode_pieces(text)

    def _encode_characters(self, text: str) -> list[int]:
        """Return the id of every character of the normalised text, or the ids of its bytes."""
        ids: list[int] = []
        for character in self._processor.normalize(text):
            if character not in self._character_ids:
                piece = self._processor.piece_to_id(character)
                self._character_ids[character] = (
                    [piece]
                    if piece != self.unk_id or not self.facts.has_byte_fallback
                    else [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in character.encode()]
                )
            ids += self._character_ids[character]
        return ids

    def _encode_pieces(self, text: str) -> list[int]:
        if not (self.facts.keeps_all_text and WORD_BOUNDARY in text):
            return list(self._processor.encode(text))
        ids: list[int] = []
        boundary = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in WORD_BOUNDARY.encode()]
        for part in text.split(WORD_BOUNDARY):
            ids += self._processor.encode(part) + boundary
        return ids[: -len(boundary)]

    def _surface(self, token_id: int) -> Surface:
        surface = self._surfaces.get(token_id)
        if surface is None:
            surface = self._new_surface(token_id)
            if 0 <= token_id < self.vocab_size:  # the rest are endless
                self._surfaces[token_id] = surface
        return surface

    def _new_surface(self, token_id: int) -> Surface:
        if not 0 <= token_id < self.vocab_size or token_id == self.unk_id:
            return Surface(text=self.facts.unk_surface)
        if token_id in (self.pad_id, self.eos_id) or self._processor.is_control(token_id):
            return Surface()
        piece = self._processor.id_to_piece(token_id)
        if self._processor.is_byte(token_id):
            return Surface(byte=int(piece[3:5], 16))  # spelt <0xE2>, as _open has checked
        return Surface(text=piece.replace(WORD_BOUNDARY, " "), has_word_space=piece.startswith(WORD_BOUNDARY))

    def _special_id(self, role: str, token_id: int, piece: str) -> int:
        if token_id < 0:
            token_id = self._processor.piece_to_id(piece)
        if token_id < 0 or token_id == self.unk_id:
            raise TokenizerError(
                f"{self._source} has no {role} piece: it names none, and there is no piece {piece!r}. Name it in "
                "tokenizer_config.json (pad_token, eos_token)."
            )
        return token_id


def _find_sentinels(processor: sentencepiece.SentencePieceProcessor) -> list[int]:
    """Return the ids of the sentinels by index, spelt with or without the word boundary."""
    for prefix in (WORD_BOUNDARY, ""):
        found = (processor.piece_to_id(prefix + sentinel_text(index)) for index in itertools.count())
        if ids := list(itertools.takewhile(lambda token_id: token_id != processor.unk_id(), found)):
            return ids
    return []


def _open(model: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        num_pieces = processor.get_piece_size()
        ids = list(range(num_pieces))
        pieces = processor.id_to_piece(ids)  # decodes them all: a piece may be no UTF-8
    except (OSError, RuntimeError, ValueError) as error:
        raise TokenizerError(f"{source} is no SentencePiece model that can be read: {error}. Fetch it again.") from None
    for token_id in itertools.compress(ids, processor.is_byte(ids)):
        if not _BYTE_PIECE.fullmatch(pieces[token_id]):
            raise TokenizerError(f"{source}: piece {token_id} is a byte, but is spelt {pieces[token_id]!r:.40}.")
    if not 0 <= processor.unk_id() < num_pieces:
        raise TokenizerError(f"{source} has no unknown piece; every SentencePiece model needs one.")
    return processor

"""tokenizer.json read back into the SentencePiece model it was made from.

A T5 tokenizer.json holds the pieces, the scores and the compiled normalisation rules of the official spiece.model, so
that model can be rebuilt, and with it the official ids. Running such a file as it stands gives other ids in places
(`json_export` lists them; older files also leave out the collapsing of spaces, and put a space behind sentinels), and
takes ten times as long.
"""

import base64
import binascii
import dataclasses
import math
import re
from typing import Any

from t5kit.errors import TokenizerError
from t5kit.text.json_export import ENDS_PATTERN, MARKS_PATTERN
from t5kit.text.sentencepiece_format import ModelFacts, Piece, PieceKind, build_model
from t5kit.text.tokenizer import SENTINEL_PATTERN
from t5kit.text.tokenizer_config import TokenizerConfig

_BOUNDARY = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_WHITESPACE_STEPS = ("NFC", "Replace", "Strip", "Prepend")
"""Normalisers that only prepare or repeat what the compiled rules and the model's whitespace rules do."""
_KNOWN_PATTERNS = (" ", " {2,}", ENDS_PATTERN, MARKS_PATTERN)


@dataclasses.dataclass(frozen=True)
class ImportedModel:
    """A rebuilt model file, and the sentinels that stand behind its pieces in tokenizer.json."""

    model: bytes
    num_sentinels: int


def import_sentencepiece(document: dict[str, Any], config: TokenizerConfig, source: str) -> ImportedModel | None:
    """Return the SentencePiece model in a tokenizer.json, or None if the file is no rendering of one.

    Only a file of T5's own shape is taken: a Unigram model, compiled rules, words that begin with U+2581, and no added
    tokens but padding, EOS, unknown and sentinels.
    Raises: TokenizerError if it has that shape, but its contents are broken.
    """
    model = document.get("model")
    charsmap = _charsmap(document.get("normalizer"), source)
    if not isinstance(model, dict) or charsmap is None or not _cuts_words(document):
        return None
    vocab = model.get("vocab")
    if model.get("type", "Unigram") != "Unigram" or not isinstance(vocab, list):
        return None
    special = (config.pad_token, config.eos_token, config.unk_token)
    entries = _entries(vocab, source)
    added = _added_tokens(document, source)
    for token_id, text in sorted(added.items()):
        if token_id == len(entries):
            entries.append((text, 0.0))
        elif token_id > len(entries) or entries[token_id][0] != text:
            return None
        if text not in special and not SENTINEL_PATTERN.fullmatch(text):
            return None
    num_sentinels = _count_sentinels(entries)
    entries = entries[: len(entries) - num_sentinels]
    ids = {text: token_id for token_id, (text, _) in enumerate(entries)}
    if any(text not in ids for text in special) or model.get("unk_id") != ids[config.unk_token]:
        return None
    has_byte_fallback = model.get("byte_fallback") is True
    return ImportedModel(
        build_model(
            [Piece(text, score, _kind(text, special, has_byte_fallback)) for text, score in entries],
            ModelFacts(charsmap=charsmap, has_byte_fallback=has_byte_fallback),
            pad_id=ids[config.pad_token],
            eos_id=ids[config.eos_token],
            unk_id=ids[config.unk_token],
        ),
        num_sentinels,
    )


def _charsmap(normalizer: object, source: str) -> bytes | None:
    steps = _steps(normalizer, "normalizers")
    compiled = [step for step in steps if step.get("type") == "Precompiled"]
    others = [step for step in steps if step.get("type") != "Precompiled"]
    if len(compiled) != 1 or not all(step.get("type") in _WHITESPACE_STEPS for step in others):
        return None
    patterns = [step.get("pattern") for step in others if step.get("type") == "Replace"]
    if not all(isinstance(p, dict) and (p.get("Regex") or p.get("String")) in _KNOWN_PATTERNS for p in patterns):
        return None
    try:
        return base64.b64decode(compiled[0].get("precompiled_charsmap") or "", validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise TokenizerError(f"{source}: its precompiled_charsmap is no base64 text: {error}.") from None


def _cuts_words(document: dict[str, Any]) -> bool:
    """Return whether words are cut before U+2581, and one is put before the text."""
    steps = _steps(document.get("pre_tokenizer"), "pretokenizers")
    match [step for step in steps if step.get("type") != "WhitespaceSplit"]:
        case [{"type": "Metaspace", "replacement": "\u2581"} as metaspace]:
            # "add_prefix_space" is how files before tokenizers 0.19 say it.
            adds_prefix = metaspace.get("prepend_scheme", "always") != "never"
            adds_prefix = adds_prefix and metaspace.get("add_prefix_space", True) is not False
            normalizers = _steps(document.get("normalizer"), "normalizers")
            return adds_prefix or {"type": "Prepend", "prepend": _BOUNDARY} in normalizers
        case _:
            return False


def _steps(component: object, key: str) -> list[dict[str, Any]]:
    if not isinstance(component, dict):
        return []
    steps = component.get(key) if component.get("type") == "Sequence" else [component]
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _entries(vocab: list[object], source: str) -> list[tuple[str, float]]:
    entries = []
    for token_id, entry in enumerate(vocab):
        match entry:
            case [str(text), float() | int() as score] if text and math.isfinite(score) and abs(score) < 1e30:
                entries.append((text, float(score)))
            case _:
                raise TokenizerError(
                    f"{source}: entry {token_id} of its vocabulary is {entry!r:.60}, expected [piece, score]."
                )
    return entries


def _added_tokens(document: dict[str, Any], source: str) -> dict[int, str]:
    added = {}
    tokens = document.get("added_tokens") or []
    if not isinstance(tokens, list):
        raise TokenizerError(f"{source}: added_tokens is a {type(tokens).__name__}, expected a list.")
    for token in tokens:
        match token:
            case {"id": int(token_id), "content": str(text)} if text:
                added[token_id] = text
            case _:
                raise TokenizerError(
                    f"{source}: added_tokens holds {token!r:.60}, expected an object with id and content."
                )
    return added


def _count_sentinels(entries: list[tuple[str, float]]) -> int:
    """Return how many of the last entries are sentinels in T5's order: … <extra_id_1>, <extra_id_0>."""
    count = 0
    while count < len(entries) and entries[-1 - count][0] == f"<extra_id_{count}>":
        count += 1
    return count


def _kind(text: str, special: tuple[str, str, str], has_byte_fallback: bool) -> PieceKind:
    if text == special[2]:
        return PieceKind.UNKNOWN
    if text in special:
        return PieceKind.CONTROL
    if has_byte_fallback and _BYTE.fullmatch(text):
        return PieceKind.BYTE
    return PieceKind.USER_DEFINED if SENTINEL_PATTERN.fullmatch(text.removeprefix(_BOUNDARY)) else PieceKind.NORMAL

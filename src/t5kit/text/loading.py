"""A folder's vocabulary, whatever files describe it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from t5kit.errors import TokenizerError
from t5kit.text.byte_tokenizer import ByteSentinels, ByteTokenizer
from t5kit.text.json_import import import_sentencepiece
from t5kit.text.json_tokenizer import JSON_NAME, JsonTokenizer
from t5kit.text.sentencepiece_tokenizer import MODEL_NAME, NUM_SENTINELS, SentencePieceTokenizer
from t5kit.text.tokenizer import SENTINEL_PATTERN, Tokenizer
from t5kit.text.tokenizer_config import (
    CONFIG_NAME,
    TokenizerConfig,
    parse_json_object,
    read_file,
    read_json_object,
    read_tokenizer_config,
)

MODEL_NAMES = (MODEL_NAME, "sentencepiece.model", "tokenizer.model")
"""Names of a SentencePiece model: transformers' for T5, seqio's, and the one newer tools write."""
_BYT5_ROWS = 384
_BOUNDARY = "\u2581"


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the vocabulary in `folder` (a model folder, or one vocabulary file: *.model or *.json).

    What decides, in this order:
    1. tokenizer_config.json or config.json names ByT5Tokenizer, or there is no vocabulary file and config.json
       describes a model with ByT5's 384 rows: bytes.
    2. A SentencePiece model alone: it. Tokens that were added to it by other files are an error, for only
       tokenizer.json says how a text is cut around them.
    3. tokenizer.json alone: the SentencePiece model in it where it has T5's shape, else the file as it stands.
    4. Both: they must hold the same pieces and scores, or it is an error. The model is used then, unless
       tokenizer.json has added tokens that the model lacks; those count, so the file is used as it stands.

    A SentencePiece model without sentinels gets as many as tokenizer_config.json says, 100 if it says nothing, and
    none if the model's config.json has no rows for them.
    Raises: TokenizerError naming the file that is missing, broken, or at odds with another.
    """
    path = Path(folder)
    if path.is_file():
        return _load_file(path)
    if not path.is_dir():
        raise TokenizerError(f"{path} is no folder and no file; there is no vocabulary to load.")
    config = read_tokenizer_config(path)
    model_config = read_json_object(path / "config.json") or {}
    model_path = next((path / name for name in MODEL_NAMES if (path / name).exists()), None)
    json_path = path / JSON_NAME
    has_json = json_path.exists()
    if _is_byt5(config, model_config, has_vocabulary=has_json or model_path is not None):
        return ByteTokenizer(sentinels=_byte_sentinels(config, path))
    if model_path is None:
        if has_json:
            return _load_json(json_path, config)
        names = ", ".join((*MODEL_NAMES, JSON_NAME))
        raise TokenizerError(f"{path} has no vocabulary: none of {names} is there, and nothing says that it is a ByT5.")
    tokenizer = _load_model(model_path, config, model_config)
    if not has_json:
        _check_no_added_tokens(tokenizer, config, model_path)
        return tokenizer
    parsed = parse_json_object(read_file(json_path), str(json_path))
    if _check_same_vocabulary(tokenizer, parsed, model_path, json_path):
        return tokenizer
    return _load_json(json_path, config)


def _load_file(path: Path) -> Tokenizer:
    if path.suffix == ".json":
        return _load_json(path, TokenizerConfig())
    return SentencePieceTokenizer(read_file(path), source=str(path))


def _load_json(path: Path, config: TokenizerConfig) -> Tokenizer:
    document = read_file(path)
    imported = import_sentencepiece(parse_json_object(document, str(path)), config, str(path))
    if imported is not None:
        return SentencePieceTokenizer(
            imported.model,
            num_sentinels=imported.num_sentinels,
            source=str(path),
            character_rules=config.character_rules,
        )
    if config.character_rules:
        raise TokenizerError(
            f"{path}: {CONFIG_NAME} beside it has character rules, which need a SentencePiece model, or a {JSON_NAME} "
            "of T5's shape."
        )
    return JsonTokenizer(document, config=config, source=str(path))


def _load_model(path: Path, config: TokenizerConfig, model_config: dict[str, Any]) -> SentencePieceTokenizer:
    model = read_file(path)

    def opened(num_sentinels: int) -> SentencePieceTokenizer:
        return SentencePieceTokenizer(
            model,
            num_sentinels=num_sentinels,
            source=str(path),
            pad_piece=config.pad_token,
            eos_piece=config.eos_token,
            character_rules=config.character_rules,
        )

    tokenizer = opened(NUM_SENTINELS if config.num_sentinels is None else config.num_sentinels)
    rows = model_config.get("vocab_size")
    # T5: MADLAD-400 has exactly as many rows as pieces; a sentinel there would be an id without an embedding.
    if isinstance(rows, int) and tokenizer.vocab_size > rows and not tokenizer.has_own_sentinels:
        return opened(0)
    return tokenizer


def _is_byt5(config: TokenizerConfig, model_config: dict[str, Any], *, has_vocabulary: bool) -> bool:
    if "ByT5Tokenizer" in (config.tokenizer_class, model_config.get("tokenizer_class")):
        return True
    if has_vocabulary or config.tokenizer_class:
        return False
    return model_config.get("model_type") == "byt5" or model_config.get("vocab_size") == _BYT5_ROWS


def _byte_sentinels(config: TokenizerConfig, folder: Path) -> ByteSentinels:
    try:
        return ByteSentinels(config.byte_sentinels or ByteSentinels.BYTES)
    except ValueError:
        known = ", ".join(ByteSentinels)
        raise TokenizerError(
            f"{folder / CONFIG_NAME}: byte_sentinels = {config.byte_sentinels!r} must be one of: {known}."
        ) from None


def _check_no_added_tokens(tokenizer: SentencePieceTokenizer, config: TokenizerConfig, path: Path) -> None:
    unknown = [text for token_id, text in config.added_tokens.items() if not _has_token(tokenizer, token_id, text)]
    if unknown:
        raise TokenizerError(
            f"{path} lacks tokens that the files beside it add: {json.dumps(sorted(unknown)[:5], ensure_ascii=False)}. "
            f"Only a {JSON_NAME} says how texts are cut around them: save the tokenizer once with transformers 5, "
            "which writes one."
        )


def _check_same_vocabulary(
    tokenizer: SentencePieceTokenizer, document: dict[str, Any], model_path: Path, json_path: Path
) -> bool:
    """Return whether the model knows every token of tokenizer.json.

    Raises: TokenizerError if the two disagree about a piece, its id or its score.
    """
    model = document.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    match vocab:
        case list():
            entries = [entry if isinstance(entry, list) and len(entry) == 2 else ["", 0.0] for entry in vocab]
        case dict():
            texts_by_id = {token_id: text for text, token_id in vocab.items() if isinstance(token_id, int)}
            entries = [[texts_by_id.get(token_id), None] for token_id in range(len(vocab))]
        case _:
            raise TokenizerError(f"{json_path} has no vocabulary. Remove it, or fetch it again.")
    pieces, own_scores = tokenizer.piece_scores()
    texts = [_plain(text) for text, _ in entries]
    own = [_plain(piece) for piece in pieces]
    added = document.get("added_tokens")
    extra = [
        token
        for token in (added if isinstance(added, list) else [])
        if not isinstance(token, dict) or not _has_token(tokenizer, token.get("id"), token.get("content"))
    ]
    num_compared = min(len(own), tokenizer.vocab_size - tokenizer.num_sentinels)
    if texts[:num_compared] != own[:num_compared] or (len(texts) > tokenizer.vocab_size and not extra):
        raise TokenizerError(
            f"{model_path} and {json_path} hold different vocabularies ({len(own)} and {len(texts)} pieces). Remove "
            "the one that does not belong to the model."
        )
    scores = np.array([score if isinstance(score, (int, float)) else 0.0 for _, score in entries[:num_compared]])
    if isinstance(vocab, list) and not np.allclose(scores, own_scores[:num_compared], rtol=1e-5, atol=1e-5):
        raise TokenizerError(
            f"{model_path} and {json_path} give the same pieces different scores. Remove the one that does not belong "
            "to the model."
        )
    return not extra


def _has_token(tokenizer: SentencePieceTokenizer, token_id: object, text: object) -> bool:
    if not isinstance(token_id, int) or not isinstance(text, str) or not 0 <= token_id < tokenizer.vocab_size:
        return False
    return _plain(tokenizer.id_to_piece(token_id)) == _plain(text)


def _plain(text: object) -> str:
    """Return a piece's spelling without what differs between the two formats: U+2581 or a space, one on sentinels."""
    spelling = text.replace(_BOUNDARY, " ") if isinstance(text, str) else ""
    return spelling.strip() if "<extra_id_" in spelling and SENTINEL_PATTERN.fullmatch(spelling.strip()) else spelling

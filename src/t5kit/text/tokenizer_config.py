"""tokenizer_config.json and its neighbours: what the files around a vocabulary say about it, and writing them."""

import contextlib
import dataclasses
import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from t5kit.errors import TokenizerError
from t5kit.text.character_rules import CONFIG_KEY, CharacterRule, rules_from_json
from t5kit.text.tokenizer import SENTINEL_PATTERN

T = TypeVar("T")

CONFIG_NAME = "tokenizer_config.json"
MAX_FILE_BYTES = 512 * 2**20
"""The largest published vocabulary file has 17 MB; beyond this a file is not read at all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What tokenizer_config.json says, checked; the defaults are T5's."""

    tokenizer_class: str = ""
    """Class of transformers, without its ending "Fast"; "" where the file does not say."""
    pad_token: str = "<pad>"
    eos_token: str = "</s>"
    unk_token: str = "<unk>"
    num_sentinels: int | None = None
    """`extra_ids`, or the sentinels among the additional special tokens; None where the file names none."""
    added_tokens: dict[int, str] = dataclasses.field(default_factory=dict)
    """Tokens added to the vocabulary, by id."""
    byte_sentinels: str = ""
    """t5kit's own key: which of ByT5's two kinds of sentinels are meant."""
    character_rules: tuple[CharacterRule, ...] = ()
    """t5kit's own key: prompts that are written in characters."""


def read_tokenizer_config(folder: Path) -> TokenizerConfig:
    """Return what the folder's tokenizer_config.json (and added_tokens.json) say; the defaults where there is none.

    Raises: TokenizerError naming the file and the key whose value has the wrong type.
    """
    path = folder / CONFIG_NAME
    found = read_json_object(path) or {}
    facts: dict[str, Any] = {}
    for key in ("pad_token", "eos_token", "unk_token"):
        if found.get(key) is not None:
            facts[key] = _token_text(found[key], path, key)
    for key in ("tokenizer_class", "byte_sentinels"):
        if found.get(key) is not None:
            facts[key] = _checked(found[key], str, path, key).removesuffix("Fast")
    extra_ids = found.get("extra_ids")
    if extra_ids is not None:
        extra_ids = _checked(extra_ids, int, path, "extra_ids")
        if not 0 <= extra_ids <= 100_000:
            raise TokenizerError(f"{path}: extra_ids = {extra_ids} must be between 0 and 100000; T5 has 100.")
    listed = [
        _token_text(token, path, key)
        for key in ("additional_special_tokens", "extra_special_tokens")
        if isinstance(found.get(key), list)
        for token in found[key]
    ]
    num_listed = sum(bool(SENTINEL_PATTERN.fullmatch(token)) for token in set(listed))
    facts["num_sentinels"] = extra_ids if extra_ids is not None else num_listed or None
    facts["added_tokens"] = _added_tokens(folder, found)
    if found.get(CONFIG_KEY) is not None:
        facts["character_rules"] = rules_from_json(found[CONFIG_KEY], path)
    return TokenizerConfig(**facts)


def write_tokenizer_config(
    folder: Path,
    *,
    tokenizer_class: str,
    sentinel_texts: Sequence[str],
    pad_token: str = "<pad>",
    eos_token: str = "</s>",
    unk_token: str = "<unk>",
    extra: dict[str, object] | None = None,
) -> None:
    """Write tokenizer_config.json as transformers reads it."""
    config = {
        "tokenizer_class": tokenizer_class,
        "pad_token": pad_token,
        "eos_token": eos_token,
        "unk_token": unk_token,
        "additional_special_tokens": list(sentinel_texts),
        # transformers would otherwise rewrite " ." and " n't" in what it decodes.
        "clean_up_tokenization_spaces": False,
        **(extra or {}),
    }
    write_file(folder / CONFIG_NAME, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file under another name and rename it into place, so that it is whole or as it was.

    Raises: TokenizerError if the disk or the permissions do not allow it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be written: {error.strerror or error}.") from error


def read_file(path: Path) -> bytes:
    """Return a vocabulary file's bytes.

    Raises: TokenizerError if it is missing, no file, empty, too large or unreadable.
    """
    try:
        if not path.is_file():
            raise TokenizerError(
                f"{path} is {'no file' if path.exists() else 'missing'}; a vocabulary file should be there."
            )
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise TokenizerError(
                f"{path} has {size:,} bytes; no vocabulary is that large ({MAX_FILE_BYTES:,} at most)."
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise TokenizerError(f"{str(path)!r} cannot be read: {error}.") from error
    if not data:
        raise TokenizerError(f"{path} is empty. Fetch it again.")
    return data


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if there is no such file.

    Raises: TokenizerError if there is something that is not a readable file with one JSON object.
    """
    try:
        if not path.exists():
            return None
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{str(path)!r} cannot be read: {error}.") from error
    return parse_json_object(read_file(path), str(path))


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Return the JSON object in `data`; `source` is its name in messages."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{source} is no valid JSON: {error}. Fetch it again.") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{source} holds a JSON {type(value).__name__}, expected an object.")
    return value


@contextlib.contextmanager
def refused_by_library(source: str) -> Iterator[None]:
    """Turn whatever the `tokenizers` library raises, a panic included, into a TokenizerError about `source`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic in the library is no Exception
        raise TokenizerError(f"{source} cannot be used by the library tokenizers: {error!s:.200}.") from None


def _added_tokens(folder: Path, config: dict[str, Any]) -> dict[int, str]:
    path = folder / CONFIG_NAME
    added: dict[int, str] = {}
    for key, token in _checked(config.get("added_tokens_decoder") or {}, dict, path, "added_tokens_decoder").items():
        if not key.isascii() or not key.isdigit() or len(key) > 10:
            raise TokenizerError(f"{path}: added_tokens_decoder has the key {key!r:.40}, expected a token id.")
        added[int(key)] = _token_text(token, path, "added_tokens_decoder")
    path = folder / "added_tokens.json"
    for text, token_id in (read_json_object(path) or {}).items():
        added[_checked(token_id, int, path, text)] = text
    return added


def _token_text(token: object, path: Path, key: str) -> str:
    if isinstance(token, dict):  # an AddedToken of transformers
        token = token.get("content")
    return _checked(token, str, path, key)


def _checked(value: object, expected: type[T], path: Path, key: str) -> T:
    if not isinstance(value, expected) or isinstance(value, bool):
        raise TokenizerError(f"{path}: {key!r:.60} is {value!r:.60}, expected {expected.__name__}.")
    return value

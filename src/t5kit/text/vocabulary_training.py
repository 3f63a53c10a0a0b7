"""Training a new vocabulary from text files."""

import codecs
import contextlib
import gzip
import io
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import sentencepiece

from t5kit.errors import ConfigError, DataError
from t5kit.text.character_rules import CharacterRule
from t5kit.text.sentencepiece_format import Piece, PieceKind, append_pieces
from t5kit.text.sentencepiece_tokenizer import NUM_SENTINELS, WORD_BOUNDARY, SentencePieceTokenizer
from t5kit.text.tokenizer import sentinel_text

MODEL_TYPES = ("unigram", "bpe")
NUM_THREADS = 16
"""SentencePiece's own default. A fixed number, not the machine's: sums over threads differ in their last digit."""
TOKENIZER_FILES = frozenset(
    ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
)
"""What a folder may hold that is overwritten; anything else, such as weights, is not ours to delete."""
_NUM_SPECIAL = 3
_NUM_BYTES = 256
_MAX_LINE_CHARACTERS = 4096
"""Longer lines are read in parts of this length: the trainer's search for seed pieces takes time quadratic in the
length of a periodic line (300,000 characters: 146 s; in parts of 4,000: 0.5 s)."""
_FIXED_SETTINGS: dict[str, Any] = dict(
    pad_id=0, eos_id=1, unk_id=2, bos_id=-1, max_sentence_length=2**30, minloglevel=2
)
_T5_NORMALISER: dict[str, Any] = dict(normalization_rule_name="nmt_nfkc")
_KEEPING_WHITESPACE: dict[str, Any] = dict(
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    add_dummy_prefix=False,
    allow_whitespace_only_pieces=True,
    required_chars="\n",
)
_UNKNOWN_CHARACTER = "\u2585"
"""SentencePiece's trainer drops every line that holds its own sign for rare characters."""


def train_tokenizer(
    files: Sequence[Path | str],
    out_folder: Path | str,
    *,
    vocab_size: int,
    model_type: str = "unigram",
    byte_fallback: bool = True,
    num_sentinels: int = NUM_SENTINELS,
    keeps_whitespace: bool = False,
    character_coverage: float = 0.9995,
    max_sentences: int = 0,
    seed: int = 0,
    num_threads: int | None = None,
    character_rules: Sequence[CharacterRule] = (),
    encoding: str | None = None,
    overwrite: bool = False,
) -> SentencePieceTokenizer:
    """Train a vocabulary, write it as a folder that is whole or absent, and return it.

    files: texts, one passage a line; names that end in .gz are decompressed. encoding: theirs, such as cp1252; None:
    UTF-8. vocab_size: ids in all, counting padding 0, EOS 1, unknown 2, the 256 bytes of `byte_fallback` (characters
    without a piece are written as bytes instead of unknown) and the sentinels, which are the last ids, `<extra_id_0>`
    the very last.
    keeps_whitespace: nothing is normalised, and line breaks and repeated spaces are pieces; with byte_fallback,
    decoding then gives every text back exactly. Otherwise T5's normaliser (nmt_nfkc) makes every run of whitespace one
    space. character_coverage: share of the text's characters that get pieces of their own, in (0, 1].
    max_sentences: passages to train on, drawn with `seed` from all; 0 for all. Files are read as a stream, but
    SentencePiece keeps what it trains on in memory. The same files, settings and num_threads give the same bytes.
    character_rules: prompts that are written in characters; not with keeps_whitespace, whose words have no beginning.
    overwrite: a folder that holds nothing but TOKENIZER_FILES may be replaced; one that holds anything else never is.
    Raises: ConfigError for settings out of range, a folder that is not empty (see overwrite), and a vocab_size that
    this text cannot fill or that cannot hold its characters, with the bound; DataError for files that cannot be read
    or hold no text.
    """
    paths = _checked_files(files)
    _check_settings(
        vocab_size, model_type, byte_fallback, num_sentinels, character_coverage, max_sentences, num_threads
    )
    target = Path(out_folder)
    _check_target(target, overwrite=overwrite)
    passages = _Passages(paths, keeps_whitespace=keeps_whitespace, encoding=_checked_encoding(encoding))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_sample(passages, max_sentences, seed) if max_sentences else passages),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size - num_sentinels,
            byte_fallback=byte_fallback,
            character_coverage=character_coverage,
            num_threads=num_threads or NUM_THREADS,
            **_FIXED_SETTINGS,
            **(_KEEPING_WHITESPACE if keeps_whitespace else _T5_NORMALISER),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise passages.error or _explained(str(error), vocab_size, num_sentinels) from None
    if passages.error:
        raise passages.error
    boundary = "" if keeps_whitespace else WORD_BOUNDARY
    sentinels = [
        Piece(boundary + sentinel_text(index), 0.0, PieceKind.USER_DEFINED) for index in reversed(range(num_sentinels))
    ]
    tokenizer = SentencePieceTokenizer(
        append_pieces(model.getvalue(), sentinels), num_sentinels=0, character_rules=character_rules
    )
    with _whole_folder(target, overwrite=overwrite) as folder:
        tokenizer.save(folder)
    return tokenizer


class _Passages:
    """The passages of all files, one at a time.

    SentencePiece turns an exception of its iterator into text, so the iteration ends early instead and the error waits
    in `error`.
    """

    def __init__(self, paths: Sequence[Path], *, keeps_whitespace: bool, encoding: str) -> None:
        self._paths = paths
        self._encoding = encoding
        self._keeps_whitespace = keeps_whitespace
        self.error: DataError | None = None

    def __iter__(self) -> Iterator[str]:
        for path in self._paths:
            try:
                yield from self._passages_of(path)
            except (OSError, EOFError, zlib.error) as error:
                self.error = DataError(f"{path} cannot be read: {error}.")
            except UnicodeError as error:
                stated = self._encoding.removesuffix("-sig").upper()
                reason = str(error)
                if isinstance(error, UnicodeDecodeError):
                    reason = f"{error.reason} near byte {error.start} of a block"
                self.error = DataError(
                    f"{path} is not {stated} ({reason}). State what it is with encoding= (--encoding cp1252), or "
                    "convert it."
                )
            if self.error:
                return

    def _passages_of(self, path: Path) -> Iterator[str]:
        with _opened(path, self._encoding) as file:
            while line := file.readline(_MAX_LINE_CHARACTERS):
                line = line.replace(_UNKNOWN_CHARACTER, " ").replace(WORD_BOUNDARY, " ")
                if not self._keeps_whitespace:
                    line = line.strip()
                if line and not line.isspace():
                    yield line


def _opened(path: Path, encoding: str) -> TextIO:
    # newline="\n": a carriage return is a character of the passage, not its end.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline="\n")
    return path.open(encoding=encoding, newline="\n")


def _checked_encoding(encoding: str | None) -> str:
    """Return Python's name of an encoding; UTF-8's takes a byte order mark for what it is."""
    try:
        name = codecs.lookup(encoding or "utf-8").name
        "".encode(name)
    except (LookupError, UnicodeError) as error:
        raise ConfigError(
            f"encoding = {encoding!r} is none of Python's for texts; expected one such as cp1252 or latin-1."
        ) from error
    return "utf-8-sig" if name == "utf-8" else name


def _sample(passages: _Passages, size: int, seed: int) -> list[str]:
    """Return `size` passages, each with the same chance, in one reading (Vitter 1985, algorithm R)."""
    rng = np.random.Generator(np.random.Philox(seed))
    sample: list[str] = []
    for number, passage in enumerate(passages):
        if number < size:
            sample.append(passage)
        elif (place := int(rng.integers(number + 1))) < size:
            sample[place] = passage
    if passages.error:
        raise passages.error
    return sample


def _explained(message: str, vocab_size: int, num_sentinels: int) -> ConfigError | DataError:
    if match := re.search(r"Vocabulary size too high .* value <= ([0-9]+)", message):
        most = int(match[1]) + num_sentinels
        return ConfigError(f"vocab_size = {vocab_size} is too large for this text: use at most {most}, or more text.")
    if match := re.search(r"smaller than required_chars\. [0-9]+ vs ([0-9]+)", message):
        least = int(match[1]) + num_sentinels
        return ConfigError(
            f"vocab_size = {vocab_size} cannot hold the characters of this text: use at least {least}, or lower "
            "character_coverage."
        )
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return DataError("There is no text to train on: every line of the files is empty.")
    return DataError(f"SentencePiece cannot train on this text: {message}")


def _checked_files(files: Sequence[Path | str]) -> list[Path]:
    if isinstance(files, (str, Path)):
        files = [files]
    paths = [Path(path) for path in files]
    if not paths:
        raise DataError("There are no files to train on. Name at least one text file.")
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is {'no file' if path.exists() else 'missing'}; a text file was expected.")
    return paths


def _check_settings(
    vocab_size: int,
    model_type: str,
    byte_fallback: bool,
    num_sentinels: int,
    character_coverage: float,
    max_sentences: int,
    num_threads: int | None,
) -> None:
    if model_type not in MODEL_TYPES:
        raise ConfigError(f"model_type = {model_type!r} must be one of: {', '.join(MODEL_TYPES)}.")
    integers = {"vocab_size": vocab_size, "num_sentinels": num_sentinels, "max_sentences": max_sentences}
    for name, value in integers.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise ConfigError(f"{name} = {value!r} must be an integer from 0 to 2^31 - 1.")
    if num_threads is not None and (not isinstance(num_threads, int) or not 1 <= num_threads <= 1024):
        raise ConfigError(f"num_threads = {num_threads!r} must be an integer from 1 to 1024.")
    if not isinstance(character_coverage, (int, float)) or not 0 < character_coverage <= 1:
        raise ConfigError(f"character_coverage = {character_coverage!r} must be above 0 and at most 1, usually 0.9995.")
    least = _NUM_SPECIAL + (_NUM_BYTES if byte_fallback else 0) + num_sentinels + 1
    if vocab_size < least:
        parts = f"3 special ids, {'256 bytes, ' if byte_fallback else ''}{num_sentinels} sentinels and 1 piece"
        raise ConfigError(f"vocab_size = {vocab_size} is too small: {parts} need {least}.")


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} exists and is no folder. Choose another name for the vocabulary.")
    if not target.is_dir():
        return
    present = sorted(target.iterdir())
    if present and not overwrite:
        raise ConfigError(f"{target} exists and is not empty. Choose another folder, or allow overwriting it.")
    others = [path.name for path in present if path.name not in TOKENIZER_FILES or not path.is_file()]
    if others:
        raise ConfigError(
            f"{target} holds more than a vocabulary: {others[0]!r} ({len(others)} such in all) would be lost. "
            "Overwriting replaces the whole folder, so choose another one."
        )


@contextlib.contextmanager
def _whole_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a fresh folder beside `target` that takes its place when the block ends well, and vanishes otherwise."""
    target = target.absolute()
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
    replaced = fresh.with_suffix(".replaced")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        _check_target(target, overwrite=overwrite)
        if target.exists():
            target.rename(replaced)
        fresh.rename(target)
    except OSError as error:
        if replaced.exists():
            replaced.rename(target)
        said = error.strerror or str(error)  # not the error itself: it names our temporary folder
        raise ConfigError(f"{target} cannot be written: {said}. Nothing was changed there.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)

"""What a recipe's sections stand for, up to the model's weights: the start, the vocabulary, the architecture."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from t5kit.checkpoint import CheckpointFolder, open_folder, resolve
from t5kit.checkpoint.atomic import atomic_folder
from t5kit.config import Head, T5Config
from t5kit.data.vocabulary import make_vocabulary
from t5kit.errors import ConfigError, TokenizerError
from t5kit.model.config import ModelConfig
from t5kit.recipe import RunConfig
from t5kit.tasks.configured import OpenedTask
from t5kit.text import ByteTokenizer, CharacterRule, SentencePieceTokenizer, Tokenizer, load_tokenizer
from t5kit.text.config import MADE_SOURCES, VocabularyConfig

VOCABULARY_FOLDER = "vocabulary"
"""Where a run folder keeps the vocabulary that it made."""


@dataclasses.dataclass(frozen=True, eq=False)
class RunParts:
    """What a run trains, before anything weighs."""

    start: CheckpointFolder | None
    """The folder whose weights training goes on from; None for fresh ones."""
    tokenizer: Tokenizer
    architecture: T5Config


def open_parts(config: RunConfig, tasks: Sequence[OpenedTask], *, kept: Path | None = None) -> RunParts:
    """Return what a recipe trains; kept is the vocabulary that the run has made already, where there is one.

    Raises: ConfigError where sizes contradict each other; what opening a model folder, a vocabulary or data raises.
    """
    start = open_start(config.model)
    tokenizer = open_vocabulary(config.vocabulary, tasks, start, seed=config.training.seed, kept=kept)
    return join_parts(config, start, tokenizer)


def join_parts(config: RunConfig, start: CheckpointFolder | None, tokenizer: Tokenizer) -> RunParts:
    """Return start and vocabulary with the architecture that fits both. Raises: ConfigError, TokenizerError"""
    if start is None:
        architecture = config.model.fresh(
            num_ids=tokenizer.vocab_size, pad_id=tokenizer.pad_id, eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id
        )
    else:
        architecture = config.model.started(start.config)
    if tokenizer.vocab_size > architecture.vocab_size:
        raise TokenizerError(
            f"the tokenizer knows {tokenizer.vocab_size} ids, but the model has only {architecture.vocab_size} "
            "embedding rows. The tokenizer files belong to another model."
        )
    for word in ("pad_id", "eos_id"):
        ours, theirs = getattr(tokenizer, word), getattr(architecture, word)
        if ours != theirs:
            raise TokenizerError(
                f"{word} is {ours} in the vocabulary and {theirs} in the config.json of model.start; they must be the "
                "same. Mend config.json, or put the model's own tokenizer files there."
            )
    if architecture.decoder_start_id:
        raise ConfigError(
            f"the model starts decoding with the id {architecture.decoder_start_id}; training knows T5's start, 0."
        )
    return RunParts(start, tokenizer, architecture)


def open_start(config: ModelConfig) -> CheckpointFolder | None:
    """Return the folder of model.start, fetched from the Hub where it names one; None for fresh weights.

    Raises: ConfigError for a head that writes no text; ModelNotFoundError, CheckpointError.
    """
    if not config.start:
        return None
    folder = open_folder(resolve(config.start, revision=config.revision or None))
    if folder.config.head is not Head.LANGUAGE_MODEL:
        raise ConfigError(
            f"model.start = {config.start!r} has the head {folder.config.head.value!r}; a run trains language models."
        )
    return folder


def open_vocabulary(
    config: VocabularyConfig,
    tasks: Sequence[OpenedTask],
    start: CheckpointFolder | None,
    *,
    seed: int,
    kept: Path | None = None,
) -> Tokenizer:
    """Return a run's vocabulary; one that is made of the tasks' records is taken from the folder kept if it is there.

    The recipe's character rules come before those that the vocabulary has.
    Raises: TokenizerError, ConfigError, DataError
    """
    tokenizer = _vocabulary(config, tasks, start, seed=seed, kept=kept)
    rules = tuple(CharacterRule(prefix, in_targets=True) for prefix in config.characters)
    rules += tuple(CharacterRule(prefix) for prefix in config.characters_in_prompts)
    if not rules:
        return tokenizer
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise ConfigError(
            "vocabulary.characters needs a SentencePiece vocabulary, and this run's is none. Remove it, or change the "
            "vocabulary."
        )
    return tokenizer.with_character_rules(rules)


def _vocabulary(
    config: VocabularyConfig,
    tasks: Sequence[OpenedTask],
    start: CheckpointFolder | None,
    *,
    seed: int,
    kept: Path | None,
) -> Tokenizer:
    if start is not None:
        return load_tokenizer(start.path)
    if config.source == "bytes":
        return ByteTokenizer()
    if config.source == "folder":
        path = Path(config.path).expanduser()
        return load_tokenizer(path if path.exists() else resolve(config.path))
    assert config.source in MADE_SOURCES, "RunConfig says so"
    if kept is not None and kept.is_dir():
        return load_tokenizer(kept)
    made = make_vocabulary(config, tasks, seed=seed)
    with tempfile.TemporaryDirectory(prefix="t5kit-vocabulary-") as folder:
        made.save(Path(folder))
        return load_tokenizer(Path(folder))  # as a resumed run will have it


def keep_vocabulary(config: VocabularyConfig, tokenizer: Tokenizer, kept: Path) -> None:
    """Write a vocabulary that was made for this run into its folder, whole, unless it is there."""
    if config.source in MADE_SOURCES and not kept.is_dir():
        with atomic_folder(kept) as folder:
            tokenizer.save(folder)

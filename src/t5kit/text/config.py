"""Which vocabulary a run uses: plain data."""

import dataclasses
from typing import Literal

from t5kit.errors import ConfigError

VocabularySource = Literal["model", "folder", "bytes", "unigram", "bpe", "symbols"]
TRAINED_SOURCES = ("unigram", "bpe")
MADE_SOURCES = ("unigram", "bpe", "symbols")
"""Sources that the run makes of its own training data before anything else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """A vocabulary that is there, or one made of the run's training data.

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    source: VocabularySource = "model"
    """model: that of model.start. folder: that of vocabulary.path. bytes: ByT5's. unigram, bpe: a SentencePiece
    vocabulary trained on the run's texts. symbols: every character of a prompt and every word of a target is a token
    (letters -> phonemes)."""
    path: str = ""
    """folder: a model folder, a vocabulary file or a Hub id."""
    size: int = 0
    """unigram, bpe: ids in all, sentinels and bytes counted."""
    num_sentinels: int = 100
    """unigram, bpe, symbols: sentinels, the vocabulary's last ids; >= 0."""
    byte_fallback: bool = True
    """unigram, bpe: characters without a piece are written as bytes, not as unknown."""
    keeps_whitespace: bool = False
    """unigram, bpe: nothing is normalised; line breaks and repeated spaces are pieces."""
    character_coverage: float = 0.9995
    """unigram, bpe: share of the text's characters that get pieces of their own, in (0, 1]."""
    max_sentences: int = 0
    """unigram, bpe: texts to train on, drawn from all; 0: all."""
    characters: tuple[str, ...] = ()
    """Beginnings of prompts, the space after them included; what follows, and the target, is written in characters."""
    characters_in_prompts: tuple[str, ...] = ()
    """The same for prompts whose targets keep their pieces."""

    def __post_init__(self) -> None:
        if (self.source == "folder") != bool(self.path):
            raise ConfigError(
                f'vocabulary.path = {self.path!r} and vocabulary.source = {self.source!r}: a path belongs to "folder", '
                "and to that alone."
            )
        if self.source in TRAINED_SOURCES and self.size < 1:
            raise ConfigError(
                f"vocabulary.size = {self.size} must say how many ids to train; 8000 is usual for little."
            )
        if self.num_sentinels < 0 or self.max_sentences < 0:
            raise ConfigError(
                f"vocabulary.num_sentinels = {self.num_sentinels} and vocabulary.max_sentences = {self.max_sentences} "
                "must be at least 0."
            )
        prefixes = self.characters + self.characters_in_prompts
        if len(set(prefixes)) < len(prefixes) or not all(prefix.strip() for prefix in prefixes):
            raise ConfigError(
                f"vocabulary.characters = {list(self.characters)} and vocabulary.characters_in_prompts = "
                f"{list(self.characters_in_prompts)} must be different beginnings of prompts, none of them empty."
            )
        if prefixes and self.source in ("bytes", "symbols"):
            raise ConfigError(
                f"vocabulary.characters has no effect with vocabulary.source = {self.source!r}, which has no pieces of "
                "several characters. Remove it, or change the source."
            )
        if not 0.0 < self.character_coverage <= 1.0:
            raise ConfigError(
                f"vocabulary.character_coverage = {self.character_coverage} must be above 0 and at most 1."
            )
        readers = {
            **dict.fromkeys(
                ("size", "byte_fallback", "keeps_whitespace", "character_coverage", "max_sentences"), TRAINED_SOURCES
            ),
            "num_sentinels": MADE_SOURCES,
        }
        for field in dataclasses.fields(self):
            readers_here = readers.get(field.name)
            if readers_here and self.source not in readers_here and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"vocabulary.{field.name} = {getattr(self, field.name)} has no effect with vocabulary.source = "
                    f"{self.source!r}; only {', '.join(readers_here)} read it. Remove it, or change the source."
                )

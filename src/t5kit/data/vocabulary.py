"""A run's vocabulary, made of its own training records where the recipe asks for that."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5kit.errors import ConfigError, DataError
from t5kit.sources import text_field
from t5kit.tasks.configured import OpenedTask
from t5kit.tasks.templates import TextPair
from t5kit.text.config import VocabularyConfig
from t5kit.text.symbol_vocabulary import symbol_tokenizer
from t5kit.text.tokenizer import Tokenizer
from t5kit.text.vocabulary_training import train_tokenizer


def make_vocabulary(config: VocabularyConfig, tasks: Sequence[OpenedTask], *, seed: int) -> Tokenizer:
    """Return a vocabulary of the tasks' train records: unigram, bpe or symbols. The same records give the same one.

    Raises: ConfigError for a size that the text cannot fill or that cannot hold its characters; DataError without text.
    """
    if config.source == "symbols":
        pairs = list(training_pairs(tasks))
        if not pairs:
            raise DataError("no task has a train record that gives a pair of texts, so there are no symbols to take.")
        return symbol_tokenizer(
            (pair.prompt for pair in pairs), (pair.target for pair in pairs), num_sentinels=config.num_sentinels
        )
    with tempfile.TemporaryDirectory(prefix="t5kit-vocabulary-") as folder:
        passages = Path(folder) / "passages.txt"
        with passages.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{text}\n" for text in training_texts(tasks))
        try:
            return train_tokenizer(
                [passages],
                Path(folder) / "vocabulary",
                vocab_size=config.size,
                model_type=config.source,
                byte_fallback=config.byte_fallback,
                num_sentinels=config.num_sentinels,
                keeps_whitespace=config.keeps_whitespace,
                character_coverage=config.character_coverage,
                max_sentences=config.max_sentences,
                seed=seed,
            )
        except ConfigError as error:
            raise ConfigError(str(error).replace("vocab_size = ", "vocabulary.size = ")) from error


def training_texts(tasks: Sequence[OpenedTask]) -> Iterator[str]:
    """Yield every text of the train records: both sides of a supervised task, the documents of running text."""
    for task in tasks:
        if task.objective is None:
            for record in task.train_records():
                # A set: phrasings that share a side say it once, so that a record weighs no more for having several.
                pairs = task.task.form.pairs(record)
                yield from dict.fromkeys(text for pair in pairs for text in (pair.prompt, pair.target))
            continue
        for record in task.train_records():
            text = text_field(record, task.objective.field)
            if isinstance(text, str):
                yield text


def training_pairs(tasks: Sequence[OpenedTask]) -> Iterator[TextPair]:
    """Yield the pairs of the supervised tasks' train records by every phrasing; bad records give none."""
    for task in tasks:
        if task.objective is None:
            for record in task.train_records():
                yield from task.task.form.pairs(record)

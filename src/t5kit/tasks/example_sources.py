"""Records by number -> examples, a block at a time: what the data stage shuffles, repeats and gives to its workers."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from t5kit.errors import ConfigError, DataError, RequestError
from t5kit.sources import BadRecord, RecordTable, text_field
from t5kit.sources.tables import table_checksum
from t5kit.tasks.augmentation import Augmenter
from t5kit.tasks.example import Example, IntArray
from t5kit.tasks.objectives import DenoisingIds, Objective, SpanCorruption
from t5kit.tasks.objectives.text_pieces import DOCUMENTS_A_BLOCK, cut_into_pieces
from t5kit.tasks.task import TaskForm
from t5kit.tasks.templates import TextPair
from t5kit.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ExampleBlock:
    """The examples of one block of records, and the records that gave none."""

    examples: tuple[Example, ...]
    bad: tuple[BadRecord, ...]


class ExampleSource(Protocol):
    """Makes examples of numbered records; the same numbers and generator always give the same block."""

    @property
    def num_records(self) -> int:
        """How many records there are."""
        ...

    @property
    def block_size(self) -> int:
        """How many records make a block."""
        ...

    def checksum(self) -> int:
        """Return a number that tells records apart from others; the same for the same ones on every machine."""
        ...

    def block(self, indices: Sequence[int], *, rng: np.random.Generator) -> ExampleBlock:
        """Return the examples of these records."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class PairExamples:
    """Supervised examples, one for each record."""

    form: TaskForm
    table: RecordTable
    tokenizer: Tokenizer
    block_size: int = 128
    augmenter: Augmenter | None = None
    """Changes the prompts, drawn by the block's generator."""

    @property
    def num_records(self) -> int:
        return len(self.table)

    def checksum(self) -> int:
        """Return the table's checksum."""
        return table_checksum(self.table)

    def block(self, indices: Sequence[int], *, rng: np.random.Generator) -> ExampleBlock:
        """Return the pairs as ids; phrasings are drawn by rng."""
        pairs: list[TextPair] = []
        bad: list[BadRecord] = []
        for index in indices:
            pair = self.form.pair(self.table[index], rng=rng)
            if isinstance(pair, BadRecord):
                bad.append(pair)
            elif self.augmenter is None:
                pairs.append(pair)
            else:
                pairs.append(dataclasses.replace(pair, prompt=self.augmenter(pair.prompt, rng)))
        return ExampleBlock(tuple(encode_pairs(pairs, self.tokenizer, bad)), tuple(bad))


@dataclasses.dataclass(frozen=True, eq=False)
class PrefixedExamples:
    """The examples of a source with the same ids before every encoder input: those of a soft prompt."""

    source: ExampleSource
    prefix_ids: IntArray
    """[P] int32"""

    @property
    def num_records(self) -> int:
        return self.source.num_records

    @property
    def block_size(self) -> int:
        return self.source.block_size

    def checksum(self) -> int:
        """Return the source's checksum."""
        return self.source.checksum()

    def block(self, indices: Sequence[int], *, rng: np.random.Generator) -> ExampleBlock:
        """Return the source's block, its examples with the prefix."""
        block = self.source.block(indices, rng=rng)
        examples = tuple(
            dataclasses.replace(example, encoder_ids=np.concatenate([self.prefix_ids, example.encoder_ids]))
            for example in block.examples
        )
        return ExampleBlock(examples, block.bad)


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingExamples:
    """Examples of running text: documents joined, cut to one length, each piece corrupted.

    piece_length is in tokens: `SpanCorruption.raw_length(512)` = 568 fills an encoder of 512.
    """

    table: RecordTable
    tokenizer: Tokenizer
    objective: Objective
    piece_length: int
    field: str = "text"
    block_size: int = DOCUMENTS_A_BLOCK

    def __post_init__(self) -> None:
        if self.piece_length < 2:
            raise ConfigError(f"objective.piece_length = {self.piece_length} must be at least 2 tokens.")

    @property
    def num_records(self) -> int:
        return len(self.table)

    def checksum(self) -> int:
        """Return the table's checksum."""
        return table_checksum(self.table)

    def block(self, indices: Sequence[int], *, rng: np.random.Generator) -> ExampleBlock:
        """Return the examples of these documents, joined in this order; a last piece of one token gives none."""
        texts: list[tuple[str, str]] = []
        bad: list[BadRecord] = []
        for index in indices:
            record = self.table[index]
            text = text_field(record, self.field)
            if isinstance(text, str):
                texts.append((text, record.place))
            else:
                bad.append(text)
        documents = self._encode(texts, bad)
        pieces = cut_into_pieces(documents, piece_length=self.piece_length, rng=rng)
        denoising_ids = DenoisingIds.of(self.tokenizer)
        rest = [pieces.rest] if len(pieces.rest) >= 2 else []
        if isinstance(self.objective, SpanCorruption) and len(pieces.full):
            examples = self.objective.corrupt_rows(pieces.full, denoising_ids=denoising_ids, rng=rng)
            examples += [self.objective.corrupt(ids, denoising_ids=denoising_ids, rng=rng) for ids in rest]
            return ExampleBlock(tuple(examples), tuple(bad))
        examples = []
        for ids in [*pieces.full, *rest]:
            try:
                examples.append(self.objective.corrupt(ids, denoising_ids=denoising_ids, rng=rng))
            except DataError as error:  # a rare draw with more spans than sentinels must not end a long run
                place = self.table[indices[0]].place
                bad.append(BadRecord(place=place, error=f"{place} and what follows: {error}"))
        return ExampleBlock(tuple(examples), tuple(bad))

    def _encode(self, texts: Sequence[tuple[str, str]], bad: list[BadRecord]) -> list[IntArray]:
        """Return the ids of texts, each with its place; those that cannot be encoded are added to bad."""
        try:
            return self.tokenizer.encode_batch([text for text, _ in texts], add_eos=False)
        except (RequestError, DataError) as error:
            if len(texts) == 1:
                text, place = texts[0]
                bad.append(BadRecord(place=place, error=f"{place}: {text!r:.60} cannot be encoded: {error}"))
                return []
            return [ids for text in texts for ids in self._encode([text], bad)]


def encode_pairs(pairs: Sequence[TextPair], tokenizer: Tokenizer, bad: list[BadRecord]) -> list[Example]:
    """Return the pairs as ids with EOS on both sides, whole; pairs that cannot be encoded are added to bad."""
    try:
        prompts = [pair.prompt for pair in pairs]
        encoder = tokenizer.encode_batch(prompts)
        target = tokenizer.encode_targets([pair.target for pair in pairs], prompts)
    except (RequestError, DataError) as error:
        if len(pairs) == 1:
            bad.append(BadRecord(place=pairs[0].place, error=f"{pairs[0].place}: {error}"))
            return []
        return [example for pair in pairs for example in encode_pairs([pair], tokenizer, bad)]
    return [Example.with_full_loss(source, answer) for source, answer in zip(encoder, target, strict=True)]

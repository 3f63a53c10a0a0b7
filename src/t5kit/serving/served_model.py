"""The text side of a served model: texts and words to requests, events to completions. What computes is elsewhere."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

import numpy as np

from t5kit.api.arguments import Asked, GenerationArguments
from t5kit.api.classification import label_set
from t5kit.api.completion import Completion, to_completion
from t5kit.api.embedding import stepped
from t5kit.api.prompting import (
    asked_after_each,
    asked_of,
    check_tokenizer,
    encode_each,
    error_of,
    requests_asked,
)
from t5kit.checkpoint import CheckpointFolder, open_folder
from t5kit.checkpoint.sentence_modules import SentenceModules, read_sentence_modules
from t5kit.config import Head
from t5kit.decoding.checks import check_options
from t5kit.decoding.stops import StopTextStream
from t5kit.errors import RequestError
from t5kit.scheduling import (
    EmbedFinished,
    EmbedRequest,
    GenerationRequest,
    Priority,
    RequestFailed,
    RequestFinished,
    ScoreFinished,
    ScoreRequest,
    ServiceEvent,
    ServiceRequest,
    TokensGenerated,
    TraceFinished,
    TraceRequest,
)
from t5kit.scheduling.probes import Probe
from t5kit.serving.config import ModelSource, RequestLimits
from t5kit.serving.engine import Engine, PendingRequest
from t5kit.text import Tokenizer, load_tokenizer

_LONG_TEXT = 20_000
"""Characters; turning more than this into ids would hold up the event loop, so a thread does it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """What every request says about itself."""

    client: str = ""
    priority: Priority = "normal"
    timeout_s: float = 60.0
    adapter: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """New text of one streamed answer."""

    index: int
    """Which of the texts."""
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One text's answers, best first."""

    index: int
    completions: tuple[Completion, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One text that could not be answered."""

    index: int
    error: Exception


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One answer seen from inside; see TraceFinished."""

    input_ids: np.ndarray
    target_ids: np.ndarray
    found: TraceFinished


class ServedModel:
    """One model folder that is being served."""

    def __init__(
        self,
        source: ModelSource,
        folder: CheckpointFolder,
        tokenizer: Tokenizer,
        engine: Engine,
        limits: RequestLimits,
    ) -> None:
        self.name = source.name
        self.adapters = tuple(source.adapters)
        self.folder = folder
        self._answering = {name: folder.with_defaults_of(path) for name, path in source.adapters.items()}
        self.sentence_modules = read_sentence_modules(folder.path, folder.config.d_model)
        self.tokenizer = tokenizer
        self.engine = engine
        self.limits = limits

    @classmethod
    def open(cls, source: ModelSource, engine: Engine, limits: RequestLimits) -> Self:
        """Read all of a folder but its weights. Raises: CheckpointError, TokenizerError."""
        folder = open_folder(source.path)
        tokenizer = load_tokenizer(source.path)
        check_tokenizer(tokenizer, folder)
        return cls(source, folder, tokenizer, engine, limits)

    async def encode(
        self, texts: Sequence[str], *, truncate: bool = False, prompts: Sequence[str] | None = None
    ) -> list[np.ndarray]:
        """Return ids [S_i] int32 with EOS for each text; with prompts, as their targets.

        Raises: RequestError for the first that cannot be taken.
        """
        self._check_num_texts(texts)
        if sum(map(len, texts)) > _LONG_TEXT:
            return await asyncio.to_thread(self._encode, texts, truncate, prompts)
        return self._encode(texts, truncate, prompts)

    async def encode_labels(self, labels: Sequence[str], prompts: Sequence[str]) -> list[list[np.ndarray]]:
        """Return ids with EOS of the same labels as the answers to each prompt.

        Raises: RequestError for labels that `Model.classify` refuses, or too many.
        """
        self._check_num_texts(labels)

        def encoded() -> list[list[np.ndarray]]:
            return label_set(labels, self.tokenizer).targets(prompts, self.tokenizer)

        return await asyncio.to_thread(encoded) if sum(map(len, labels)) > _LONG_TEXT else encoded()

    def _check_num_texts(self, texts: Sequence[str]) -> None:
        if len(texts) > self.limits.max_texts:
            raise RequestError(
                f"{len(texts)} texts are more than this server takes in one request ({self.limits.max_texts})."
            )

    def _encode(self, texts: Sequence[str], truncate: bool, prompts: Sequence[str] | None) -> list[np.ndarray]:
        taken = []
        limit = self.limits.max_input_tokens
        for ids in encode_each(texts, self.tokenizer, max_input_tokens=limit, truncate=truncate, prompts=prompts):
            if isinstance(ids, RequestError):
                raise ids
            taken.append(ids)
        return taken

    def defaults_of(self, adapter: str = "") -> Mapping[str, object]:
        """Return the generation defaults of the model, or of it with an adapter."""
        return self._answering.get(adapter, self.folder).generation

    async def asked(self, options: GenerationArguments, *, adapter: str = "", is_streamed: bool = False) -> Asked:
        """Return the options translated as `Model.generate` does; what may take long is done on a thread.

        That is a grammar, or many allowed outputs or ids. adapter: whose defaults stand where nothing is said.
        Raises: RequestError for a wrong option.
        """
        has_grammar = options.get("regex") is not None or options.get("json_schema") is not None
        if not has_grammar and _size(options) <= _LONG_TEXT:
            return self._asked(options, adapter, is_streamed)
        return await asyncio.to_thread(self._asked, options, adapter, is_streamed)

    def _asked(self, options: GenerationArguments, adapter: str, is_streamed: bool) -> Asked:
        self._check_grammar_size(options)
        description = self.engine.description
        engine = "" if description is None else description.engine
        self._check_stop_strings(options)
        folder = self._answering.get(adapter, self.folder)
        asked = asked_of(options, folder, self.tokenizer, engine=engine, is_streamed=is_streamed)
        check_options(asked.options, self.folder.config)
        if asked.options.max_new_tokens > self.limits.max_new_tokens:
            raise RequestError(
                f"max_new_tokens = {asked.options.max_new_tokens} is more than this server allows "
                f"({self.limits.max_new_tokens})."
            )
        if is_streamed and asked.options.num_return_sequences > 1:
            raise RequestError(
                f"A stream gives one answer; num_return_sequences = {asked.options.num_return_sequences} needs "
                "stream=false."
            )
        return asked

    def _check_stop_strings(self, options: GenerationArguments) -> None:
        """Raise RequestError for more stop strings than each token of an answer can be held against."""
        given, limit = options.get("stop_strings"), self.limits.max_stop_strings
        if given is not None and not isinstance(given, str) and len(given) > limit:
            raise RequestError(f"{len(given):,} stop strings are more than this server takes ({limit}).")

    def _check_grammar_size(self, options: GenerationArguments) -> None:
        """Raise RequestError for a grammar that would take long to translate, or that is no text."""
        limit = self.limits.max_grammar_bytes
        for word in ("regex", "json_schema"):
            given = options.get(word)
            if given is None:
                continue
            try:
                num_bytes = len((given if isinstance(given, str) else json.dumps(given)).encode("utf-8"))
            except UnicodeEncodeError as error:
                raise RequestError(
                    f"{word} holds half of a surrogate pair at position {error.start}, no character. Mend it where it "
                    "was decoded."
                ) from error
            except (TypeError, ValueError, RecursionError) as error:
                raise RequestError(f"{word} cannot be written as JSON: {error}.") from error
            if num_bytes > limit:
                raise RequestError(
                    f"{word} has {num_bytes:,} bytes, more than this server translates ({limit:,}). Say less of the "
                    "answer's form, and check the rest of it in the answer."
                )

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        asked: Asked,
        asker: Asker,
        *,
        texts: Sequence[str] | None = None,
        is_streamed: bool = False,
    ) -> "Generation":
        """Begin to answer prompts, each ids [S_i].

        texts: the prompts as text, where `asked` has allowed outputs: the character rule of each says how they are
        written. Raises: BusyError or OverloadedError if nothing can be taken now.
        """
        after_each = asked_after_each(asked, texts or [""] * len(prompts), self.tokenizer)
        works = requests_asked(
            dict(enumerate(prompts)), dict(enumerate(after_each)), self.tokenizer, is_streamed=is_streamed
        )
        return Generation(self, after_each, self._submit(works, asker))

    async def score(
        self, prompts: Sequence[np.ndarray], targets: Sequence[Sequence[np.ndarray]], asker: Asker
    ) -> list[list[np.ndarray]]:
        """Return log-probabilities [T] of each token of each prompt's targets.

        Many targets are asked for in pieces: no step of the engine takes long, and a deadline ends what is left.
        Raises: RequestError for a target that is longer than an answer may be, and what `generate` raises.
        """
        num_pairs = sum(map(len, targets))
        if num_pairs > self.limits.max_pairs:
            raise RequestError(
                f"{num_pairs:,} pairs of a text and a given answer are more than this server takes in one request "
                f"({self.limits.max_pairs:,}). Ask for fewer texts or answers at a time."
            )
        limit = self.limits.max_new_tokens
        longest = max((len(target) for of_one in targets for target in of_one), default=0)
        if longest > limit:
            raise RequestError(
                f"A target has {longest:,} tokens, more than max_new_tokens = {limit:,}, which this server allows for "
                "an answer. Shorten the target."
            )
        works, owners = [], []
        for owner, (ids, of_one) in enumerate(zip(prompts, targets, strict=True)):
            for piece in _pieces(of_one, self.engine.limits.max_encoder_tokens):
                works.append(ScoreRequest(request_id=0, encoder_input_ids=ids, targets=piece))
                owners.append(owner)
        found: list[list[np.ndarray]] = [[] for _ in prompts]
        for owner, event in zip(owners, await self._results(works, asker), strict=True):
            assert isinstance(event, ScoreFinished)
            found[owner] += event.token_log_probs
        return found

    async def embed(self, prompts: Sequence[np.ndarray], modules: SentenceModules, asker: Asker) -> np.ndarray:
        """Return vectors [N, width] float32 of texts by what the modules make of the encoder's states."""
        works = [EmbedRequest(request_id=0, encoder_input_ids=ids, pooling=modules.pooling) for ids in prompts]
        vectors = []
        for event in await self._results(works, asker):
            assert isinstance(event, EmbedFinished)
            vectors.append(event.vector)
        return stepped(np.stack(vectors), modules)

    async def trace(
        self,
        prompts: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        num_alternatives: int,
        asker: Asker,
        *,
        has_attention: bool = True,
    ) -> list[Trace]:
        """Look into answers: what else could have stood there, and where the model looked."""
        works = [
            TraceRequest(
                request_id=0,
                encoder_input_ids=ids,
                target_ids=target,
                num_alternatives=num_alternatives,
                has_attention=has_attention,
            )
            for ids, target in zip(prompts, targets, strict=True)
        ]
        traces = []
        for ids, target, event in zip(prompts, targets, await self._results(works, asker), strict=True):
            assert isinstance(event, TraceFinished)
            traces.append(Trace(input_ids=ids, target_ids=target, found=event))
        return traces

    def _submit(self, works: Sequence[GenerationRequest | Probe], asker: Asker) -> list[PendingRequest]:
        head = self.folder.config.head
        if head is not Head.LANGUAGE_MODEL and not all(isinstance(work, EmbedRequest) for work in works):
            raise RequestError(f"This model has the head {head.value!r}: it gives vectors (/v1/embeddings), no text.")
        return self.engine.submit(
            [
                ServiceRequest(
                    work=work,
                    client=asker.client,
                    priority=asker.priority,
                    timeout_s=asker.timeout_s,
                    adapter=asker.adapter,
                )
                for work in works
            ]
        )

    async def _results(self, works: Sequence[Probe], asker: Asker) -> list[ServiceEvent]:
        """Return the last event of each probe. Raises: what one of them failed of; the others are dropped then."""
        pending = self._submit(works, asker)
        events: list[ServiceEvent] = []
        try:
            for each in pending:
                event = await each.result()
                if isinstance(event, RequestFailed):
                    raise error_of(event)
                events.append(event)
        finally:
            for each in pending:
                each.cancel()
        return events


def _size(options: GenerationArguments) -> int:
    """Return how much a client wrote into the options that have no bound of their own: characters, and ids."""
    texts = [
        options.get("forced_prefix") or "",
        *(options.get("allowed_outputs") or ()),
        *(options.get("forbidden_outputs") or ()),
    ]
    return sum(map(len, texts)) + len(options.get("suppress_tokens") or ()) + len(options.get("logit_bias") or ())


def _pieces(targets: Sequence[np.ndarray], max_tokens: int) -> list[tuple[np.ndarray, ...]]:
    """Return targets [T_i] in order, in pieces of at most max_tokens, or of one longer target."""
    pieces: list[list[np.ndarray]] = []
    room = 0
    for target in targets:
        if not pieces or len(target) > room:
            pieces.append([])
            room = max_tokens
        pieces[-1].append(target)
        room -= len(target)
    return [tuple(piece) for piece in pieces]


class Generation:
    """Texts that are being answered; leave it with `cancel`, or read it to its end."""

    def __init__(self, model: ServedModel, asked: Sequence[Asked], pending: Sequence[PendingRequest]) -> None:
        """asked: what is asked of each text."""
        self._model, self._asked, self._pending = model, asked, pending

    def cancel(self) -> None:
        """Drop what is not answered yet."""
        for each in self._pending:
            each.cancel()

    async def answers(self) -> list[Answer]:
        """Return every text's answers. Raises: what one of them failed of; the others are dropped then."""
        answers = []
        try:
            for index, each in enumerate(self._pending):
                event = await each.result()
                if isinstance(event, RequestFailed):
                    raise error_of(event)
                assert isinstance(event, RequestFinished)
                answers.append(self._answer(index, event))
        finally:
            self.cancel()
        return answers

    async def stream(self) -> AsyncIterator[Piece | Answer | Failure]:
        """Yield pieces of text as they come, and each text's Answer or Failure after them, texts interleaved.

        The pieces of a text joined are its answer. A reader that stops reading cancels what is left.
        """
        merged: asyncio.Queue[tuple[int, ServiceEvent]] = asyncio.Queue()

        async def hand_on(index: int, each: PendingRequest) -> None:
            while True:
                event = await each.next_event()
                merged.put_nowait((index, event))
                if not isinstance(event, TokensGenerated):
                    return

        readers = [asyncio.create_task(hand_on(index, each)) for index, each in enumerate(self._pending)]
        texts = [
            StopTextStream(self._model.tokenizer.detokenizer(), asked.options.stop_strings) for asked in self._asked
        ]
        has_begun = [False] * len(readers)
        num_left = len(readers)
        try:
            while num_left:
                index, event = await merged.get()
                if isinstance(event, TokensGenerated):
                    has_begun[index] = True
                    if piece := texts[index].push(event.token_ids):
                        yield Piece(index=index, text=piece)
                    continue
                num_left -= 1
                if isinstance(event, RequestFailed):
                    yield Failure(index=index, error=error_of(event))
                    continue
                assert isinstance(event, RequestFinished)
                answer = self._answer(index, event)
                rest = texts[index].finish() if has_begun[index] else answer.completions[0].text
                if rest:
                    yield Piece(index=index, text=rest)
                yield answer
        finally:
            for reader in readers:
                reader.cancel()
            self.cancel()

    def _answer(self, index: int, event: RequestFinished) -> Answer:
        asked = self._asked[index]
        tokenizer = self._model.tokenizer
        return Answer(
            index=index,
            completions=tuple(
                to_completion(hypothesis, tokenizer, asked.options.stop_strings, event.timings, asked.labels)
                for hypothesis in event.hypotheses
            ),
        )

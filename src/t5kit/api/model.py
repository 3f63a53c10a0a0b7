"""t5kit.Model: text in, text out. It owns the tokenizer and the runtime and joins the stages."""

import collections
import dataclasses
import functools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, get_args, overload

import numpy as np

import t5kit.errors
from t5kit.api.adapting import Adaptable
from t5kit.api.arguments import Asked, GenerationArguments, check_folder_defaults, translate
from t5kit.api.completion import Completion, to_completion
from t5kit.api.engines import Engine, Weights, open_adapted, open_runtime
from t5kit.api.evaluation import EvaluationData, bootstrap_of, evaluate_model, examples_and_scoring, no_progress
from t5kit.checkpoint import CheckpointFolder, open_folder, resolve, write_folder
from t5kit.checkpoint.adapters import base_of, is_adapter_folder
from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions
from t5kit.decoding.checks import check_options
from t5kit.decoding.stops import StopTextStream
from t5kit.errors import EngineError, RequestError, T5kitError
from t5kit.evaluation.config import RepeatedPrompts
from t5kit.evaluation.report import EvaluationReport
from t5kit.runtime import Runtime
from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFailed, RequestFinished, TokensGenerated
from t5kit.sources.records import Format
from t5kit.text import Tokenizer, load_tokenizer

Pooling = Literal["mean", "first", "last", "max"]

DEFAULT_MAX_INPUT_TOKENS = 4096
"""Memory sets the limit, not T5: positions are relative, so any length is understood."""


class Model(Adaptable):
    """One loaded T5 with its vocabulary.

    Make one with `Model.from_pretrained`. Not thread-safe: one call at a time. Usable as a context manager; `close`
    frees the weights.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        tokenizer: Tokenizer,
        runtime: Runtime,
        *,
        max_input_tokens: int = DEFAULT_MAX_INPUT_TOKENS,
        max_cache_bytes: int | None = None,
        reopen: Callable[..., Runtime] = open_runtime,
    ) -> None:
        """reopen: makes the runtime of the weights that training leaves (`fit`, `train`)."""
        super().__init__(folder, tokenizer, runtime, reopen)
        self.max_input_tokens = max_input_tokens
        self.max_cache_bytes = max_cache_bytes

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        engine: Engine = "auto",
        weights: Weights = "auto",
        threads: int | None = None,
        device: str = "auto",
        max_input_tokens: int = DEFAULT_MAX_INPUT_TOKENS,
        max_cache_bytes: int | None = None,
        revision: str | None = None,
        offline: bool | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Load a model folder, or a Hugging Face Hub id (fetched once, then cached), or an adapter's folder (peft's
        format), whose model is loaded and answers with it.

        engine: auto, native, torch or reference; auto takes the fastest that can be had. weights: auto, float32,
        bfloat16, float16 or int8. threads: processor threads. device: auto, cpu or cuda, for torch. max_input_tokens:
        texts longer than this are refused (memory sets it, not T5). max_cache_bytes: most bytes of attention caches at
        a time (`t5kit.scheduling.request_bytes` tells what a request takes); texts wait for room, and one that alone
        needs more is refused; None: no limit but 256 sequences at a time. revision, offline, cache_dir: for Hub ids.
        Raises: ModelNotFoundError, CheckpointError, TokenizerError, EngineError, DependencyError, RequestError.
        """
        if not isinstance(max_input_tokens, int) or max_input_tokens < 1:
            raise RequestError(f"max_input_tokens = {max_input_tokens!r} must be a positive integer.")
        if max_cache_bytes is not None and (not isinstance(max_cache_bytes, int) or max_cache_bytes < 1):
            raise RequestError(f"max_cache_bytes = {max_cache_bytes!r} must be a positive integer, or None.")
        cache = None if cache_dir is None else Path(cache_dir)
        if revision is not None and Path(name).expanduser().is_dir():
            raise RequestError(f"revision = {revision!r} is for Hub ids, and {str(name)!r} is a folder here. Drop it.")
        path = resolve(str(name), revision=revision, offline=offline, cache_dir=cache)
        adapter_path: Path | None = None
        if is_adapter_folder(path):
            adapter_path, path = path, resolve(base_of(path), offline=offline, cache_dir=cache)
        folder = open_folder(path)
        tokenizer = load_tokenizer(path)
        if tokenizer.vocab_size > folder.config.vocab_size:
            raise t5kit.errors.TokenizerError(
                f"{path}: the tokenizer knows {tokenizer.vocab_size} ids, but the model has only "
                f"{folder.config.vocab_size} embedding rows. The tokenizer files belong to another model."
            )
        for word in ("eos_id", "pad_id"):
            ours, theirs = getattr(tokenizer, word), getattr(folder.config, word)
            if ours != theirs:
                raise t5kit.errors.TokenizerError(
                    f"{path}: {word} is {ours} in the tokenizer and {theirs} in config.json; they must be the same. "
                    "Mend config.json, or put the model's own tokenizer files there."
                )
        check_folder_defaults(folder.generation, tokenizer, folder.config.vocab_size)
        reopen = functools.partial(open_runtime, engine=engine, weights=weights, threads=threads, device=device)
        runtime = reopen(folder) if adapter_path is None else open_adapted(folder, adapter_path, reopen, engine=engine)
        return cls(
            folder,
            tokenizer,
            runtime,
            max_input_tokens=max_input_tokens,
            max_cache_bytes=max_cache_bytes,
            reopen=reopen,
        )

    @property
    def config(self) -> T5Config:
        """The architecture."""
        return self.folder.config

    @overload
    def generate(
        self,
        texts: str,
        *,
        details: Literal[False] = False,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> str: ...
    @overload
    def generate(
        self,
        texts: Sequence[str],
        *,
        details: Literal[False] = False,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> list[str]: ...
    @overload
    def generate(
        self,
        texts: str | Sequence[str],
        *,
        details: bool,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> Any: ...
    def generate(
        self,
        texts: str | Sequence[str],
        *,
        details: bool = False,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> Any:
        """Answer one text (str -> str) or many (list -> list, same order).

        With num_return_sequences above 1 each text gets a list, best first. With details=True a Completion stands
        where a str did. truncate cuts texts above max_input_tokens (keeping EOS) instead of refusing them. Every other
        keyword is one of `GenerationArguments`: max_new_tokens, num_beams, temperature, top_p, seed, stop_strings, ...
        Raises: RequestError for a wrong option, or for a text that cannot be taken (nothing is generated then).

        Example: model.generate("translate English to German: Hello", num_beams=4) -> "Hallo"
        """
        model, options = self._chosen(options)
        if model is not self:
            return model.generate(texts, details=details, truncate=truncate, **options)
        asked = self._asked(options)
        many = [texts] if isinstance(texts, str) else _as_list("texts", texts)
        answers = []
        ids = dict(enumerate(self._encode(many, truncate=truncate)))
        for result in self._answer(self._requests(ids, asked.options)):
            if isinstance(result, RequestFailed):
                raise _error_of(result)
            answers.append(result)
        shaped = [self._shape(answer, asked, details=details) for answer in answers]
        return shaped[0] if isinstance(texts, str) else shaped

    def check_options(self, **options: Unpack[GenerationArguments]) -> None:
        """Raise the RequestError that `generate` would raise for these options; return if they can be taken."""
        asked = self._asked(self._chosen(options)[1])
        check_options(asked.options, self.config)

    def try_generate(
        self,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        repeats: collections.Counter[bytes] | None = None,
        **options: Unpack[GenerationArguments],
    ) -> list[tuple[Completion, ...] | T5kitError]:
        """Answer many texts; a text that cannot be answered gives its error in its place, and the others are answered.

        Returns num_return_sequences Completions for each text, best first. repeats: pass one Counter to several calls,
        and the occurrences of a text count over all of them, so that samples under a seed do not depend on how texts
        were cut into calls; it is added to. Raises: RequestError for a wrong option.
        """
        model, options = self._chosen(options)
        if model is not self:
            return model.try_generate(texts, truncate=truncate, repeats=repeats, **options)
        asked = self._asked(options)
        results: list[Any] = self._encode_each(_as_list("texts", texts), truncate=truncate)
        requests = self._requests(
            {index: ids for index, ids in enumerate(results) if not isinstance(ids, T5kitError)},
            asked.options,
            repeats=repeats,
        )
        for answer in self._answer(requests):
            if isinstance(answer, RequestFailed):
                results[answer.request_id] = _error_of(answer)
            else:
                results[answer.request_id] = self._completions(answer, asked)
        return results

    def stream(self, text: str, *, truncate: bool = False, **options: Unpack[GenerationArguments]) -> Iterator[str]:
        """Yield the answer in pieces as it is generated; joined they equal `generate`'s text.

        Stop strings never leak into a piece. Beam search knows its answer only at the end and yields it whole.
        Raises: RequestError as generate does, and for num_return_sequences above 1.
        """
        model, options = self._chosen(options)
        if model is not self:
            return model.stream(text, truncate=truncate, **options)
        asked = self._asked(options, is_streamed=True)
        arguments = asked.options
        if arguments.num_return_sequences > 1:
            raise RequestError(
                f"stream gives one answer; num_return_sequences = {arguments.num_return_sequences} needs generate."
            )
        # A text that its tokens do not spell letter for letter is known only once it is whole.
        is_spelled = all(self.tokenizer.decode(output) == label for output, label in asked.labels.items())
        is_streamed = arguments.num_beams == 1 and is_spelled
        ids = dict(enumerate(self._encode([text], truncate=truncate)))
        (request,) = self._requests(ids, arguments, is_streamed=is_streamed)
        return self._stream(request, asked)

    def _stream(self, request: GenerationRequest, asked: Asked) -> Iterator[str]:
        scheduler = self._scheduler()
        scheduler.submit([request])
        pieces = StopTextStream(self.tokenizer.detokenizer(), request.options.stop_strings)
        try:
            while scheduler.has_work:
                for event in scheduler.step():
                    if isinstance(event, RequestFailed):
                        raise _error_of(event)
                    if isinstance(event, TokensGenerated):
                        piece = pieces.push(event.token_ids)
                    elif request.is_streamed:
                        piece = pieces.finish()
                    else:
                        piece = self._completions(event, asked)[0].text
                    if piece:
                        yield piece
        finally:
            scheduler.close()  # a reader that stops reading frees the slot

    @overload
    def score(self, sources: str, targets: str, *, truncate: bool = False) -> float: ...
    @overload
    def score(self, sources: Sequence[str], targets: Sequence[str], *, truncate: bool = False) -> list[float]: ...
    def score(
        self, sources: str | Sequence[str], targets: str | Sequence[str], *, truncate: bool = False
    ) -> float | list[float]:
        """Return the natural log-probability of each target given its source, summed over its tokens, EOS included.

        One source and one target give a float; lists of equal length give a list. Equal sources are encoded once.
        Raises: RequestError for lists of unequal length or texts that cannot be taken, EngineError for scores that
        are not finite.
        """
        if isinstance(sources, str) != isinstance(targets, str):
            raise RequestError("score needs two texts or two lists of texts, not one of each.")
        if isinstance(sources, str) and isinstance(targets, str):
            return self.score([sources], [targets], truncate=truncate)[0]
        sources, targets = _as_list("sources", sources), _as_list("targets", targets)
        if len(sources) != len(targets):
            raise RequestError(
                f"score got {len(sources)} sources and {len(targets)} targets; give one target for each source."
            )
        source_ids = self._encode(sources, truncate=truncate)
        target_ids = self._encode(targets, truncate=truncate)
        handles: dict[bytes, int] = {}
        scores: list[float] = []
        try:
            for start in range(0, len(source_ids), _SCORE_CHUNK):
                chunk = source_ids[start : start + _SCORE_CHUNK]
                new = {ids.tobytes(): ids for ids in chunk if ids.tobytes() not in handles}
                for key in [key for key in handles if key not in {ids.tobytes() for ids in chunk}]:
                    self.runtime.release([handles.pop(key)])
                handles.update(zip(new, self.runtime.encode(list(new.values())), strict=True))
                rows = self.runtime.score(
                    [handles[ids.tobytes()] for ids in chunk], target_ids[start : start + _SCORE_CHUNK]
                )
                scores.extend(float(row.sum(dtype=np.float64)) for row in rows)
        finally:
            self.runtime.release(list(handles.values()))
        _check_finite(scores, "scores")
        return scores

    def embed(
        self, texts: str | Sequence[str], *, pooling: Pooling = "mean", normalize: bool = False, truncate: bool = False
    ) -> np.ndarray:
        """Return encoder vectors: [D] float32 for one text, [N, D] for a list.

        pooling: mean, max, first or last over the text's tokens, EOS included. normalize: to length 1.
        Raises: RequestError for an unknown pooling or texts that cannot be taken, EngineError for vectors that are not
        finite.
        """
        if pooling not in get_args(Pooling):
            raise RequestError(f"pooling = {pooling!r} must be one of: {', '.join(get_args(Pooling))}.")
        many = [texts] if isinstance(texts, str) else _as_list("texts", texts)
        vectors_ND = np.zeros((len(many), self.config.d_model), np.float32)
        ids = self._encode(many, truncate=truncate)
        for start in range(0, len(ids), _EMBED_CHUNK):
            for row, states_SD in enumerate(self.runtime.encoder_states(ids[start : start + _EMBED_CHUNK]), start):
                vectors_ND[row] = _pool(states_SD, pooling)
        _check_finite(vectors_ND, "vectors")
        if normalize:
            vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=-1, keepdims=True), 1e-12)
        return vectors_ND[0] if isinstance(texts, str) else vectors_ND

    def evaluate(
        self,
        data: EvaluationData,
        metrics: Sequence[str] | None = None,
        *,
        input: str = "",
        target: str = "",
        format: Format | None = None,
        split: str = "test",
        repeated_prompts: RepeatedPrompts = "each",
        reference_separator: str = "",
        choices: Sequence[str] = (),
        is_length_normalized: bool = False,
        max_examples: int = 0,
        num_bootstrap_samples: int = 1000,
        confidence: float = 0.95,
        evaluation_seed: int = 0,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> EvaluationReport:
        """Return the scores of the model's answers on `data`, with bootstrap intervals and every single answer.

        data: a file, glob or folder, rows (mappings, or pairs of input and target), or a Task with its `split`.
        metrics: names such as "rouge", and "perplexity"; None takes a task's own. input, target: a column, or a
        template such as "summarize: {text}"; a target column may be a list of accepted texts.
        repeated_prompts: "group" counts records of one prompt once, with all their targets accepted.
        reference_separator: splits a target into accepted texts. choices: answer by the likeliest of these texts
        (is_length_normalized: a token) instead of generating. max_examples: so many drawn by evaluation_seed, 0 all.
        num_bootstrap_samples: 0 gives no intervals. Other keywords are those of `generate`.
        Raises: RequestError, DataError, EngineError, DependencyError for a metric whose library is missing.

        Example: model.evaluate("dev.tsv", ["rouge"], num_beams=4).scores["rougeL"]
        """
        examples, scoring = examples_and_scoring(
            data, metrics, input=input, target=target, format=format, split=split, repeated_prompts=repeated_prompts,
            reference_separator=reference_separator, choices=choices, is_length_normalized=is_length_normalized,
            max_examples=max_examples, seed=evaluation_seed,
        )  # fmt: skip
        bootstrap = bootstrap_of(num_bootstrap_samples, confidence, evaluation_seed)
        model, options = self._chosen(options)
        return evaluate_model(
            model, examples, scoring, truncate=truncate, bootstrap=bootstrap, progress=no_progress, options=options
        )

    def save_pretrained(
        self, path: str | Path, *, dtype: str = "as_is", weights: str = "as_is", overwrite: bool = False
    ) -> None:
        """Write the model as a folder that t5kit and transformers load: weights, config, tokenizer, generation
        defaults.

        dtype: as_is, float32, bfloat16 or float16. weights: as_is, or int8 for a quantised folder, which only t5kit
        loads (docs/how-to/quantize.md). The folder appears whole or not at all.
        Raises: CheckpointError if it exists (and overwrite is false) or cannot be written.
        """
        self._check_no_adapter("save_pretrained")
        write_folder(
            Path(path),
            self.config,
            self.folder.tensors(),
            dtype=dtype,
            weights=weights,
            generation=self.folder.generation,
            labels=self.folder.labels or None,
            save_tokenizer=self.tokenizer.save,
            overwrite=overwrite,
        )

    def close(self) -> None:
        """Free the weights; the model cannot be used afterwards. A model with an adapter put on has none to free."""
        if self._is_view:
            return
        self._close_adapters()
        self.runtime.close()
        self._forget_runs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # From texts to requests to answers

    def _asked(self, options: GenerationArguments, *, is_streamed: bool = False) -> Asked:
        """Return the options translated; the folder's num_return_sequences is not meant for a stream.

        Drafts are looked up by default where the rows of a draft are sure to have the bits of plain steps: on native.
        """
        defaults = dict(self.folder.generation)
        if is_streamed:
            defaults.pop("num_return_sequences", None)
        asked = translate(options, defaults, self.tokenizer, vocab_size=self.config.vocab_size)
        if options.get("speculate") is None and self.runtime.description.engine.startswith("native"):
            asked = dataclasses.replace(asked, options=dataclasses.replace(asked.options, speculate="auto"))
        return asked

    def _encode_each(self, texts: Sequence[str], *, truncate: bool) -> list[np.ndarray | RequestError]:
        """Return ids [S_i] int32 with EOS for each text, or why it cannot be taken."""
        refusals = [_refusal(number, text) for number, text in enumerate(texts)]
        usable = [text if refusal is None else "" for text, refusal in zip(texts, refusals, strict=True)]
        encoded: list[np.ndarray | RequestError] = []
        for number, (refusal, ids) in enumerate(zip(refusals, self.tokenizer.encode_batch(usable), strict=True)):
            if refusal is not None:
                encoded.append(refusal)
            elif len(ids) <= self.max_input_tokens:
                encoded.append(ids)
            elif truncate:
                encoded.append(np.append(ids[: self.max_input_tokens - 1], ids[-1:]))  # EOS stays
            else:
                encoded.append(_too_long(number, len(ids), self.max_input_tokens))
        return encoded

    def _encode(self, texts: Sequence[str], *, truncate: bool) -> list[np.ndarray]:
        """Return ids [S_i] int32 with EOS for each text; the first that cannot be taken is an error."""
        taken = []
        for ids in self._encode_each(texts, truncate=truncate):
            if isinstance(ids, RequestError):
                raise ids
            taken.append(ids)
        return taken

    def _requests(
        self,
        encoded: Mapping[int, np.ndarray],
        options: DecodingOptions,
        *,
        is_streamed: bool = False,
        repeats: collections.Counter[bytes] | None = None,
    ) -> list[GenerationRequest]:
        """Return a request for each id -> prompt ids [S] under the same options.

        The same prompt twice gets two sample streams, so that it gives two different samples under one seed.
        """
        if options.does_sample and options.seed is None:
            options = dataclasses.replace(options, seed=secrets.randbits(64))
        repeats = collections.Counter() if repeats is None else repeats
        requests = []
        for request_id, ids in encoded.items():
            key = ids.tobytes()
            requests.append(
                GenerationRequest(
                    request_id=request_id,
                    encoder_input_ids=ids,
                    options=options,
                    sample_stream=repeats[key],
                    is_streamed=is_streamed,
                )
            )
            repeats[key] += 1
        return requests

    def _scheduler(self) -> ContinuousScheduler:
        return ContinuousScheduler(
            self.runtime, detokenizer_factory=self.tokenizer.detokenizer, max_cache_bytes=self.max_cache_bytes
        )

    def _answer(self, requests: list[GenerationRequest]) -> list[RequestFinished | RequestFailed]:
        """Return one result for each request, in their order."""
        scheduler = self._scheduler()
        scheduler.submit(requests)
        results: dict[int, RequestFinished | RequestFailed] = {}
        try:
            while scheduler.has_work:
                for event in scheduler.step():
                    if not isinstance(event, TokensGenerated):
                        results[event.request_id] = event
        finally:
            scheduler.close()
        return [results[request.request_id] for request in requests]

    def _completions(self, answer: RequestFinished, asked: Asked) -> tuple[Completion, ...]:
        return tuple(
            to_completion(hypothesis, self.tokenizer, asked.options.stop_strings, answer.timings, asked.labels)
            for hypothesis in answer.hypotheses
        )

    def _shape(self, answer: RequestFinished, asked: Asked, *, details: bool) -> Any:
        completions = self._completions(answer, asked)
        shaped = list(completions) if details else [completion.text for completion in completions]
        return shaped if asked.options.num_return_sequences > 1 else shaped[0]


_SCORE_CHUNK = 64
"""Pairs scored at once: bounds memory, lets neighbouring pairs share an encoded source."""
_EMBED_CHUNK = 256


def _pool(states_SD: np.ndarray, pooling: Pooling) -> np.ndarray:
    match pooling:
        case "mean":
            return states_SD.mean(axis=0)
        case "max":
            return states_SD.max(axis=0)
        case "first":
            return states_SD[0]
        case "last":
            return states_SD[-1]


def _as_list(name: str, texts: object) -> list[str]:
    """Return texts as a list; its members are checked one by one where they are encoded."""
    if isinstance(texts, (str, bytes, Mapping, Set)) or not isinstance(texts, Iterable):
        raise RequestError(f"{name} is {type(texts).__name__}, expected a list of texts.")
    return list(texts)


def _check_finite(values: np.ndarray | list[float], what: str) -> None:
    if not np.isfinite(values).all():
        raise EngineError(
            f"The model produced NaN or infinite {what}. Its weights are damaged, or overflow in this precision: try "
            "weights=float32."
        )


def _refusal(number: int, text: object) -> RequestError | None:
    """Return why `text` is no text, or None."""
    if not isinstance(text, str):
        return RequestError(f"Text {number} is {type(text).__name__}, expected str.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return RequestError(
            f"Text {number} holds {text[error.start]!r} at position {error.start}: half of a surrogate pair, "
            "no character. Mend the text where it was decoded."
        )
    return None


def _too_long(number: int, num_tokens: int, most: int) -> RequestError:
    return RequestError(
        f"Text {number} has {num_tokens:,} tokens, more than max_input_tokens = {most:,}. "
        "Raise the limit (T5 takes any length; memory grows with its square), or allow cutting with "
        "truncate=True (--truncate)."
    )


def _error_of(failure: RequestFailed) -> T5kitError:
    error_class = getattr(t5kit.errors, failure.error_type, T5kitError)
    return error_class(failure.error)

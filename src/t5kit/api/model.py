"""t5kit.Model: text in, text out. It owns the tokenizer and the runtime and joins the stages."""

import collections
import functools
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

import numpy as np

from t5kit.api.adapting import Adaptable
from t5kit.api.arguments import Asked, GenerationArguments
from t5kit.api.asking import Asking
from t5kit.api.completion import Completion, to_completion
from t5kit.api.embedding import asked_modules, embedded
from t5kit.api.engines import Engine, Weights, open_adapted, open_runtime
from t5kit.api.evaluation import EvaluationData, bootstrap_of, evaluate_model, examples_and_scoring, no_progress
from t5kit.api.explaining import Explainable
from t5kit.api.model_files import ModelFiles, open_model_files
from t5kit.api.prompting import asked_after_each, asked_of, encode_each, error_of, requests_asked, requests_of
from t5kit.checkpoint import CheckpointFolder, write_folder
from t5kit.checkpoint.sentence_modules import write_sentence_modules
from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions, FinishReason
from t5kit.decoding.checks import check_options
from t5kit.decoding.stops import StopTextStream
from t5kit.errors import EngineError, RequestError, T5kitError
from t5kit.evaluation.answering import log_probabilities
from t5kit.evaluation.config import RepeatedPrompts
from t5kit.evaluation.report import EvaluationReport
from t5kit.runtime import Runtime
from t5kit.runtime.interrupts import interrupts_between_blocks
from t5kit.runtime.pooling import Pooling
from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFailed, RequestFinished, TokensGenerated
from t5kit.sources.records import Format
from t5kit.text import Tokenizer

DEFAULT_MAX_INPUT_TOKENS = 4096
"""Memory sets the limit, not T5: positions are relative, so any length is understood."""

AnswerStream = Generator[str, None, FinishReason]
"""The pieces of an answer; the generator returns why it ended."""


class Model(Adaptable, Asking, Explainable):
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
        files = open_model_files(name, revision=revision, offline=offline, cache_dir=cache)
        folder, adapter_path = files.folder, files.adapter_path
        reopen = functools.partial(open_runtime, engine=engine, weights=weights, threads=threads, device=device)
        runtime = reopen(folder) if adapter_path is None else open_adapted(folder, adapter_path, reopen, engine=engine)
        model = cls(
            folder,
            files.tokenizer,
            runtime,
            max_input_tokens=max_input_tokens,
            max_cache_bytes=max_cache_bytes,
            reopen=reopen,
        )
        model.adapter_path = adapter_path
        return model

    @property
    def files(self) -> ModelFiles:
        """What it was opened from: its folder, its tokenizer, and the folder of its adapter."""
        return ModelFiles(self.folder, self.tokenizer, self.adapter_path)

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
        ids = dict(enumerate(self._encode(many, truncate=truncate)))
        after_each = asked_after_each(asked, many, self.tokenizer)
        answers = self._answered(requests_asked(ids, dict(enumerate(after_each)), self.tokenizer))
        shaped = [self._shape(answer, each, details=details) for answer, each in zip(answers, after_each, strict=True)]
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
        many = _as_list("texts", texts)
        results: list[Any] = self._encode_each(many, truncate=truncate)
        taken = {index: ids for index, ids in enumerate(results) if not isinstance(ids, T5kitError)}
        after_each = asked_after_each(asked, [many[index] for index in taken], self.tokenizer)
        asked_by_id = dict(zip(taken, after_each, strict=True))
        for answer in self._answer(requests_asked(taken, asked_by_id, self.tokenizer, repeats=repeats)):
            if isinstance(answer, RequestFailed):
                results[answer.request_id] = error_of(answer)
            else:
                results[answer.request_id] = self._completions(answer, asked_by_id[answer.request_id])
        return results

    def stream(self, text: str, *, truncate: bool = False, **options: Unpack[GenerationArguments]) -> AnswerStream:
        """Yield the answer in pieces as it is generated; joined they equal `generate`'s text.

        The generator returns why the answer ended. Stop strings never leak into a piece. Beam search knows its answer
        only at the end and yields it whole.
        Raises: RequestError as generate does, and for num_return_sequences above 1.
        """
        model, options = self._chosen(options)
        if model is not self:
            return model.stream(text, truncate=truncate, **options)
        asked = self._asked(options, is_streamed=True)
        if asked.options.num_return_sequences > 1:
            raise RequestError(
                f"stream gives one answer; num_return_sequences = {asked.options.num_return_sequences} needs generate."
            )
        ids = dict(enumerate(self._encode([text], truncate=truncate)))
        (asked,) = asked_after_each(asked, [text], self.tokenizer)
        (request,) = requests_asked(ids, {0: asked}, self.tokenizer, is_streamed=True)
        return self._stream(request, asked)

    def _stream(self, request: GenerationRequest, asked: Asked) -> AnswerStream:
        scheduler = self._scheduler()
        scheduler.submit([request])
        pieces = StopTextStream(self.tokenizer.detokenizer(), request.options.stop_strings)
        finish_reason: FinishReason = "length"
        try:
            while scheduler.has_work:
                for event in scheduler.step():
                    if isinstance(event, RequestFailed):
                        raise error_of(event)
                    if isinstance(event, TokensGenerated):
                        piece = pieces.push(event.token_ids)
                    else:
                        finish_reason = event.hypotheses[0].finish_reason
                        piece = pieces.finish() if request.is_streamed else self._completions(event, asked)[0].text
                    if piece:
                        yield piece
            return finish_reason
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
        target_ids = self._encode(targets, truncate=truncate, prompts=sources)
        return log_probabilities(self.runtime, source_ids, target_ids, max_cache_bytes=self.max_cache_bytes)

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
    ) -> np.ndarray:
        """Return vectors of texts: [width] float32 for one text, [N, width] for a list.

        A sentence-T5 folder (modules.json, as sentence-transformers writes it) gives its own vectors: pooled, mapped
        and normalised as it says. Any other gives the mean of its encoder's states, as does `pooling` of every folder:
        mean, max, first or last over the text's tokens, EOS included. normalize: to length 1, or not; None: as the
        folder says, else not.
        Raises: RequestError for an unknown pooling or texts that cannot be taken, EngineError for vectors that are not
        finite, CheckpointError for modules that cannot be read.
        """
        modules = asked_modules(self.sentence_modules if pooling is None else None, pooling, normalize)
        many = [texts] if isinstance(texts, str) else _as_list("texts", texts)
        vectors_NW = embedded(self.runtime, self._encode(many, truncate=truncate), modules)
        return vectors_NW[0] if isinstance(texts, str) else vectors_NW

    def evaluate(
        self,
        data: EvaluationData,
        metrics: Sequence[str] | None = None,
        *,
        input: str = "",
        target: str = "",
        format: Format | None = None,
        columns: Sequence[str] = (),
        encoding: str | None = None,
        split: str = "test",
        repeated_prompts: RepeatedPrompts = "each",
        reference_separator: str = "",
        choices: Sequence[str] = (),
        is_length_normalized: bool = False,
        max_examples: int = 0,
        slice_by: Sequence[str] = (),
        num_bootstrap_samples: int = 1000,
        confidence: float = 0.95,
        evaluation_seed: int = 0,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> EvaluationReport:
        """Return the scores of the model's answers on `data`, with bootstrap intervals and every single answer.

        data: a file, glob or folder, rows (mappings, or pairs of input and target), or a Task with its `split`.
        metrics: names such as "rouge", and "perplexity"; None takes a task's own. input, target: a column, or a
        template such as "summarize: {text}"; a target column may be a list of accepted texts. columns: names for those
        of CSV and TSV files without a header. encoding: of files.
        repeated_prompts: "group" counts records of one prompt once, with all their targets accepted.
        reference_separator: splits a target into accepted texts. choices: answer by the likeliest of these texts
        (is_length_normalized: a token) instead of generating. max_examples: so many drawn by evaluation_seed, 0 all.
        slice_by: columns that the page scores by. num_bootstrap_samples: 0 gives no intervals. Other keywords are those
        of `generate`. `report.to_html()` gives the page of it.
        Warns (UserWarning) of empty prompts and targets; they count.
        Raises: RequestError, DataError, EngineError, DependencyError for a metric whose library is missing.

        Example: model.evaluate("dev.tsv", ["rouge"], num_beams=4).scores["rougeL"]
        """
        examples, scoring = examples_and_scoring(
            data, metrics, input=input, target=target, format=format, columns=columns, encoding=encoding,
            split=split, repeated_prompts=repeated_prompts, reference_separator=reference_separator, choices=choices,
            is_length_normalized=is_length_normalized, max_examples=max_examples, seed=evaluation_seed,
            slice_by=slice_by,
        )  # fmt: skip
        bootstrap = bootstrap_of(num_bootstrap_samples, confidence, evaluation_seed)
        model, options = self._chosen(options)
        for finding in examples.findings:
            warnings.warn(finding, UserWarning, stacklevel=2)
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
            prefixes=self.folder.prefixes,
            save_tokenizer=self._save_beside_weights,
            overwrite=overwrite,
        )

    def _save_beside_weights(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        if self.sentence_modules is not None:
            write_sentence_modules(folder, self.sentence_modules, self.config.d_model)

    def close(self) -> None:
        """Free the weights; the model cannot be used afterwards. A model with an adapter put on has none to free."""
        if self._is_view:
            return
        self._close_adapters()
        self.runtime.close()
        self._forget_runs()
        self._forget_explaining()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # From texts to requests to answers

    def _asked(self, options: GenerationArguments, *, is_streamed: bool = False) -> Asked:
        """Return the options translated."""
        return asked_of(
            options, self.folder, self.tokenizer, engine=self.runtime.description.engine, is_streamed=is_streamed
        )

    def _encode_each(
        self, texts: Sequence[str], *, truncate: bool, prompts: Sequence[str] | None = None
    ) -> list[np.ndarray | RequestError]:
        """Return ids [S_i] int32 with EOS for each text, or why it cannot be taken; with prompts, as their targets."""
        return encode_each(
            texts, self.tokenizer, max_input_tokens=self.max_input_tokens, truncate=truncate, prompts=prompts
        )

    def _encode(
        self, texts: Sequence[str], *, truncate: bool, prompts: Sequence[str] | None = None
    ) -> list[np.ndarray]:
        """Return ids [S_i] int32 with EOS for each text; the first that cannot be taken is an error."""
        taken = []
        for ids in self._encode_each(texts, truncate=truncate, prompts=prompts):
            if isinstance(ids, RequestError):
                raise ids
            taken.append(ids)
        return taken

    def _requests(
        self,
        encoded: Mapping[int, np.ndarray],
        options: DecodingOptions,
        *,
        repeats: collections.Counter[bytes] | None = None,
    ) -> list[GenerationRequest]:
        """Return a request for each id -> prompt ids [S] under the same options."""
        return requests_of(encoded, options, repeats=repeats)

    def _scheduler(self) -> ContinuousScheduler:
        return ContinuousScheduler(
            self.runtime,
            detokenizer_factory=self.tokenizer.detokenizer,
            constraint_factory=self.constraints,
            max_cache_bytes=self.max_cache_bytes,
        )

    def _answer(self, requests: list[GenerationRequest]) -> list[RequestFinished | RequestFailed]:
        """Return one result for each request, in their order."""
        scheduler = self._scheduler()
        scheduler.submit(requests)
        results: dict[int, RequestFinished | RequestFailed] = {}
        with interrupts_between_blocks():
            try:
                while scheduler.has_work:
                    for event in scheduler.step():
                        if not isinstance(event, TokensGenerated):
                            results[event.request_id] = event
            finally:
                scheduler.close()
        return [results[request.request_id] for request in requests]

    def _answered(self, requests: list[GenerationRequest]) -> list[RequestFinished]:
        """Return one answer for each request, in their order; the first that failed is raised."""
        answers = []
        for result in self._answer(requests):
            if isinstance(result, RequestFailed):
                raise error_of(result)
            answers.append(result)
        return answers

    def _completions(self, answer: RequestFinished, asked: Asked) -> tuple[Completion, ...]:
        return tuple(
            to_completion(hypothesis, self.tokenizer, asked.options.stop_strings, answer.timings, asked.labels)
            for hypothesis in answer.hypotheses
        )

    def _shape(self, answer: RequestFinished, asked: Asked, *, details: bool) -> Any:
        completions = self._completions(answer, asked)
        shaped = list(completions) if details else [completion.text for completion in completions]
        return shaped if asked.options.num_return_sequences > 1 else shaped[0]


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

"""Prompts -> answers and likelihoods, over any runtime: that of a folder, or of a live module in training."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import numpy as np

import t5kit.errors
from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions, answer_text
from t5kit.errors import EngineError, RequestError, T5kitError
from t5kit.runtime import Runtime
from t5kit.runtime.interrupts import interrupts_between_blocks, interrupts_wait
from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFailed, RequestFinished
from t5kit.scheduling.memory import prompt_bytes
from t5kit.text import Tokenizer

Progress = Callable[[int], None]
"""Is told how many more prompts or pairs are done."""

PAIRS_AT_ONCE = 64
"""Pairs scored at once: bounds memory, lets neighbouring pairs share an encoded prompt."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What was written for one prompt."""

    text: str
    is_cut: bool = False
    """It ended at max_new_tokens, not where the model would have ended it."""
    log_probability: float | None = None
    """Natural, of the whole text, summed over its tokens; None where nobody told it."""
    confidence: float | None = None
    """Chance, 0 to 1, that the model gives this answer: exp(log_probability) of a generated text, the share among the
    choices of a chosen one."""

    @classmethod
    def generated(cls, text: str, *, is_cut: bool, log_probability: float) -> Self:
        """Return a text that was generated token by token."""
        return cls(text, is_cut, log_probability, min(1.0, math.exp(min(0.0, log_probability))))


@dataclasses.dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely one target is."""

    log_probability: float
    """Natural, summed over the target's tokens."""
    num_tokens: int
    """EOS included."""


class Answerer(Protocol):
    """A model as evaluation sees it; what it cannot do for one text is an error in that text's place."""

    def answer(self, prompts: Sequence[str], progress: Progress) -> list[Answer | T5kitError]:
        """Return an answer for each prompt, in order."""
        ...

    def likelihoods(
        self, prompts: Sequence[str], targets: Sequence[str], progress: Progress
    ) -> list[Likelihood | T5kitError]:
        """Return how likely each target is after the prompt at its place."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RuntimeAnswerer:
    """Answers by a runtime.

    options are shared by all prompts. max_input_tokens: prompts are cut to so many tokens, EOS kept; 0: none is cut.
    batch_rows: most sequences decoded at one time.
    """

    runtime: Runtime
    tokenizer: Tokenizer
    options: DecodingOptions = dataclasses.field(default_factory=DecodingOptions)
    max_input_tokens: int = 0
    batch_rows: int = 256

    def answer(self, prompts: Sequence[str], progress: Progress) -> list[Answer | T5kitError]:
        encoded = self._encode(prompts)
        answers: list[Answer | T5kitError] = [ids if isinstance(ids, T5kitError) else Answer("") for ids in encoded]
        scheduler = ContinuousScheduler(
            self.runtime, detokenizer_factory=self.tokenizer.detokenizer, max_batch_rows=self.batch_rows
        )
        scheduler.submit(
            [
                GenerationRequest(request_id=number, encoder_input_ids=ids, options=self.options)
                for number, ids in enumerate(encoded)
                if not isinstance(ids, T5kitError)
            ]
        )
        progress(sum(isinstance(ids, T5kitError) for ids in encoded))
        with interrupts_between_blocks():
            try:
                while scheduler.has_work:
                    for event in scheduler.step():
                        if isinstance(event, RequestFinished):
                            answers[event.request_id] = self._answer_of(event)
                            progress(1)
                        elif isinstance(event, RequestFailed):
                            answers[event.request_id] = _error_of(event)
                            progress(1)
            finally:
                scheduler.close()
        return answers

    def likelihoods(
        self, prompts: Sequence[str], targets: Sequence[str], progress: Progress
    ) -> list[Likelihood | T5kitError]:
        return likelihoods_of(
            self.runtime,
            encoded_once(prompts, self._encode),
            self._encode_targets(targets, prompts),
            progress,
        )

    def _answer_of(self, event: RequestFinished) -> Answer:
        best = event.hypotheses[0]
        text = answer_text(best.token_ids, self.tokenizer.detokenizer(), self.options.stop_strings)
        log_probability = float(best.token_log_probs.sum(dtype=np.float64))
        return Answer.generated(text, is_cut=best.finish_reason == "length", log_probability=log_probability)

    def _encode_targets(self, targets: Sequence[str], prompts: Sequence[str]) -> list[np.ndarray | T5kitError]:
        """Return ids [T] of each target, EOS in, or why it cannot be taken."""
        try:
            return list(self.tokenizer.encode_targets(targets, prompts))
        except T5kitError as error:
            if len(targets) == 1:
                return [error]
            pairs = zip(targets, prompts, strict=True)
            return [ids for target, prompt in pairs for ids in self._encode_targets([target], [prompt])]

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray | T5kitError]:
        """Return ids [S] of each prompt, cut to the most tokens, EOS in, or why it cannot be taken."""
        try:
            encoded = self.tokenizer.encode_batch(texts)
        except T5kitError as error:
            if len(texts) == 1:
                return [error]
            return [ids for text in texts for ids in self._encode([text])]
        most = self.max_input_tokens
        if not most:
            return list(encoded)
        return [ids if len(ids) <= most else np.append(ids[: most - 1], ids[-1:]) for ids in encoded]


def encoded_once(
    texts: Sequence[str], encode: Callable[[Sequence[str]], Sequence[np.ndarray | T5kitError]]
) -> list[np.ndarray | T5kitError]:
    """Return what `encode` gives for each text, asking for each distinct one once: choices repeat every prompt."""
    distinct = list(dict.fromkeys(texts))
    known = dict(zip(distinct, encode(distinct), strict=True))
    return [known[text] for text in texts]


def likelihoods_of(
    runtime: Runtime,
    prompts: Sequence[np.ndarray | T5kitError],
    targets: Sequence[np.ndarray | T5kitError],
    progress: Progress,
    *,
    max_cache_bytes: int | None = None,
) -> list[Likelihood | T5kitError]:
    """Return how likely each target is after its prompt; equal prompts that are near each other are encoded once.

    Shapes: prompts[i] [S_i], targets[i] [T_i] int32, EOS in; an error stands for a text that cannot be taken, and
    comes back in the pair's place. max_cache_bytes: most bytes of attention caches at a time, None without limit; a
    pair that alone takes more is such an error.
    Raises: EngineError if a likelihood is not finite, or for what the runtime itself cannot do.
    """
    results: list[Likelihood | T5kitError] = [Likelihood(0.0, 0)] * len(prompts)
    pairs = []
    for place, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        if isinstance(prompt, T5kitError):
            results[place] = prompt
        elif isinstance(target, T5kitError):
            results[place] = target
        else:
            needed_bytes = prompt_bytes(runtime.config, len(prompt)) + prompt_bytes(runtime.config, len(target))
            if max_cache_bytes is not None and needed_bytes > max_cache_bytes:
                results[place] = RequestError(
                    f"A text of {len(prompt):,} tokens with an answer of {len(target):,} takes {needed_bytes:,} bytes "
                    f"of caches, more than max_cache_bytes = {max_cache_bytes:,}. Shorten the texts, or raise it."
                )
            else:
                pairs.append((place, prompt, target))
    progress(len(prompts) - len(pairs))
    handles: dict[bytes, int] = {}
    with interrupts_between_blocks():
        try:
            for chunk in _chunks(runtime.config, pairs, max_cache_bytes):
                needed = {prompt.tobytes(): prompt for _, prompt, _ in chunk}
                with interrupts_wait():
                    runtime.release([handles.pop(key) for key in [key for key in handles if key not in needed]])
                    new = {key: prompt for key, prompt in needed.items() if key not in handles}
                    handles.update(zip(new, runtime.encode(list(new.values())), strict=True))
                asked = [handles[prompt.tobytes()] for _, prompt, _ in chunk]
                rows = runtime.score(asked, [ids for _, _, ids in chunk])
                for (place, _, ids), row in zip(chunk, rows, strict=True):
                    results[place] = Likelihood(_finite(float(row.sum(dtype=np.float64))), len(ids))
                progress(len(chunk))
        finally:
            runtime.release(list(handles.values()))
    return results


def log_probabilities(
    runtime: Runtime,
    prompts: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    *,
    max_cache_bytes: int | None = None,
) -> list[float]:
    """Return the log-probability of each target after its prompt, as `likelihoods_of` does, whose errors it raises."""
    found = likelihoods_of(runtime, prompts, targets, lambda _: None, max_cache_bytes=max_cache_bytes)
    for likelihood in found:
        if isinstance(likelihood, T5kitError):
            raise likelihood
    return [each.log_probability for each in found if isinstance(each, Likelihood)]


def _chunks(
    config: T5Config, pairs: Sequence[tuple[int, np.ndarray, np.ndarray]], max_bytes: int | None
) -> Iterator[list[tuple[int, np.ndarray, np.ndarray]]]:
    """Yield pairs that are scored together: PAIRS_AT_ONCE at most, whose caches take max_bytes at most."""
    chunk: list[tuple[int, np.ndarray, np.ndarray]] = []
    known: set[bytes] = set()
    num_bytes = 0
    for pair in pairs:
        _, prompt, target = pair
        own = prompt_bytes(config, len(target))  # a token's keys and values are as large in the decoder's own caches
        new = 0 if prompt.tobytes() in known else prompt_bytes(config, len(prompt))
        is_full = max_bytes is not None and num_bytes + own + new > max_bytes
        if chunk and (is_full or len(chunk) == PAIRS_AT_ONCE):
            yield chunk
            chunk, known, num_bytes = [], set(), 0
            new = prompt_bytes(config, len(prompt))
        chunk.append(pair)
        known.add(prompt.tobytes())
        num_bytes += own + new
    if chunk:
        yield chunk


def _finite(log_probability: float) -> float:
    if not np.isfinite(log_probability):
        raise EngineError(
            "The model produced NaN or infinite scores. Its weights are damaged, or overflow in this precision: try "
            "weights=float32."
        )
    return log_probability


def _error_of(failure: RequestFailed) -> T5kitError:
    """Return what a request failed of; what is no fault of the request itself is raised."""
    error_class = getattr(t5kit.errors, failure.error_type, T5kitError)
    error: T5kitError = error_class(failure.error)
    if not isinstance(error, RequestError):
        raise error
    return error

"""The static scheduler: a batch is encoded, decoded to its last answer, and only then comes the next one.

Rows that are free because their answers are done stay free until the whole batch is: that is the simplest rule. To fill
them at once is one other answer of `_may_admit`; everything below it (encoding, searches that take requests between any
two steps, one runtime step for all searches) is already as continuous batching needs it.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

from t5kit.decoding import (
    DetokenizerFactory,
    Failed,
    Found,
    NewTokens,
    Search,
    SearchRequest,
    Strategy,
    check_options,
    make_search,
    num_rows,
    strategy_of,
)
from t5kit.errors import RequestError, T5kitError
from t5kit.runtime import Runtime
from t5kit.runtime.validation import check_ids
from t5kit.scheduling.merging import merge_steps, split_output
from t5kit.scheduling.requests import (
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    Timings,
    TokensGenerated,
)

DEFAULT_MAX_BATCH_ROWS = 256
"""64 texts of 4 beams."""
DEFAULT_MAX_ENCODER_TOKENS = 16_384
"""One encoder run: 32 texts of 512 tokens."""


@dataclasses.dataclass(slots=True, eq=False)
class _Job:
    """One request on its way."""

    request: GenerationRequest
    prompt: np.ndarray
    """[S] int32."""
    strategy: Strategy
    submitted_s: float
    encode_started_s: float = 0.0
    encode_s: float = 0.0
    first_token_s: float | None = None


class StaticScheduler:
    """The `Scheduler` protocol, batch after batch.

    Requests submitted together are sorted by length, longest first, so that a batch holds prompts of like length, and
    equal prompts stand together, so that each is encoded once; those submitted later come later. A batch takes up to
    `max_batch_rows` rows (a beam or a sample is one); its prompts go through the encoder in chunks of at most
    `max_encoder_tokens` (count times longest).
    Greedy, sampled and beam requests of one batch are separate searches fed by one runtime step. `clock` gives seconds.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        detokenizer_factory: DetokenizerFactory | None = None,
        max_batch_rows: int = DEFAULT_MAX_BATCH_ROWS,
        max_encoder_tokens: int = DEFAULT_MAX_ENCODER_TOKENS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if max_batch_rows < 1 or max_encoder_tokens < 1:
            raise RequestError(
                f"max_batch_rows = {max_batch_rows} and max_encoder_tokens = {max_encoder_tokens} must be at least 1."
            )
        self._runtime = runtime
        self._detokenizer_factory = detokenizer_factory
        self._max_batch_rows = max_batch_rows
        self._max_encoder_tokens = max_encoder_tokens
        self._clock = clock
        self._waiting: dict[int, _Job] = {}
        """In the order of their turn."""
        self._alive: dict[int, _Job] = {}
        self._searches: dict[Strategy, Search] = {}
        self._handles: dict[bytes, int] = {}
        """Encoded prompts that requests still to be admitted ask for."""
        self._refused: list[RequestFailed] = []
        """Failures that no step has reported yet."""

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._alive or self._refused)

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        ids = [request.request_id for request in requests]
        in_use = [each for each in ids if each in self._waiting or each in self._alive]
        if in_use or len(set(ids)) < len(ids):
            raise RequestError(
                f"request_id {(in_use or ids)[0]} is in use; ids must be unique among the requests alive."
            )
        now = self._clock()
        jobs = []
        checked: dict[tuple[int, bool], RequestError | None] = {}  # requests usually share one options object
        for request in requests:
            key = (id(request.options), request.is_streamed)
            if key not in checked:
                checked[key] = self._options_fault(request)
            error = checked[key] or self._prompt_fault(request)
            if error is None:
                prompt = np.ascontiguousarray(request.encoder_input_ids, np.int32)
                jobs.append(_Job(request, prompt, strategy_of(request.options), now))
            else:
                self._refused.append(_failure(request.request_id, error))
        first_places: dict[bytes, int] = {}
        for place, job in enumerate(jobs):
            first_places.setdefault(job.prompt.tobytes(), place)
        jobs.sort(key=lambda job: (-len(job.prompt), first_places[job.prompt.tobytes()]))
        self._waiting.update((job.request.request_id, job) for job in jobs)

    def step(self) -> list[Event]:
        events: list[Event] = list(self._refused)
        self._refused.clear()
        if self._may_admit():
            self._admit(events)
        if self._alive:
            self._advance(events)
        return events

    def cancel(self, request_id: int) -> None:
        job = self._alive.pop(request_id, None)
        if job is not None and job.strategy in self._searches:
            self._searches[job.strategy].cancel(request_id)
        if self._waiting.pop(request_id, None) is not None:
            self._release_handles()

    def close(self) -> None:
        for request_id in [*self._waiting, *self._alive]:
            self.cancel(request_id)
        self._searches.clear()
        self._refused.clear()

    # Taking in

    def _options_fault(self, request: GenerationRequest) -> RequestError | None:
        rows = num_rows(request.options)
        try:
            check_options(
                request.options,
                self._runtime.config,
                has_detokenizer=self._detokenizer_factory is not None,
                is_streamed=request.is_streamed,
            )
        except RequestError as error:
            return error
        if rows > self._max_batch_rows:
            return RequestError(
                f"num_beams or num_return_sequences asks for {rows} rows, more than max_batch_rows = "
                f"{self._max_batch_rows} of this scheduler. Ask for fewer, or raise max_batch_rows if memory allows."
            )
        return None

    def _prompt_fault(self, request: GenerationRequest) -> RequestError | None:
        try:
            check_ids(request.encoder_input_ids, self._runtime.config, "encoder_input_ids")
        except RequestError as error:
            return error
        if not isinstance(request.sample_stream, int) or not 0 <= request.sample_stream < 2**64:
            return RequestError(f"sample_stream = {request.sample_stream!r} must be an integer in [0, 2^64).")
        return None

    def _may_admit(self) -> bool:
        return bool(self._waiting) and not self._alive

    def _admit(self, events: list[Event]) -> None:
        """Encode as many waiting requests as there are rows free, and give them to their searches."""
        free = self._max_batch_rows - sum(num_rows(job.request.options) for job in self._alive.values())
        by_prompt: dict[bytes, list[_Job]] = {}
        for job in list(self._waiting.values()):
            free -= num_rows(job.request.options)
            if free < 0:
                break
            request_id = job.request.request_id
            self._alive[request_id] = self._waiting.pop(request_id)
            by_prompt.setdefault(job.prompt.tobytes(), []).append(job)
        for chunk in _chunks(list(by_prompt.values()), self._max_encoder_tokens):
            self._encode_and_admit(chunk, events)

    def _encode_and_admit(self, chunk: Sequence[Sequence[_Job]], events: list[Event]) -> None:
        """Encode the prompts of a chunk (each shared by its jobs) and admit the jobs.

        If the runtime refuses the chunk, each prompt is tried alone, so that only the one at fault is lost.
        """
        new = {jobs[0].prompt.tobytes(): jobs[0].prompt for jobs in chunk}
        for prompt in self._handles.keys() & new.keys():
            del new[prompt]
        started_s = self._clock()
        try:
            if new:
                self._handles.update(zip(new, self._runtime.encode(list(new.values())), strict=True))
            ended_s = self._clock()
            admitted: dict[Strategy, list[SearchRequest]] = {}
            for job in itertools.chain.from_iterable(chunk):
                job.encode_started_s, job.encode_s = started_s, ended_s - started_s
                handle = self._handles[job.prompt.tobytes()]
                admitted.setdefault(job.strategy, []).append(_search_request(job, handle))
            for strategy, requests in admitted.items():
                self._search(strategy).admit(requests)
        except T5kitError as error:
            for job in itertools.chain.from_iterable(chunk):
                self.cancel(job.request.request_id)
                if len(chunk) == 1:
                    events.append(_failure(job.request.request_id, error))
            if len(chunk) > 1:
                for jobs in chunk:
                    self._alive.update((job.request.request_id, job) for job in jobs)
                    self._encode_and_admit([jobs], events)
        finally:
            self._release_handles()

    def _release_handles(self) -> None:
        """Release all encoded prompts but that of the next waiting request; slots hold references of their own."""
        upcoming = next(iter(self._waiting.values()), None)
        kept = b"" if upcoming is None else upcoming.prompt.tobytes()
        released = [prompt for prompt in self._handles if prompt != kept]
        if released:
            self._runtime.release([self._handles.pop(prompt) for prompt in released])

    def _search(self, strategy: Strategy) -> Search:
        if strategy not in self._searches:
            self._searches[strategy] = make_search(
                strategy, self._runtime, detokenizer_factory=self._detokenizer_factory
            )
        return self._searches[strategy]

    # Going on

    def _advance(self, events: list[Event]) -> None:
        """Feed the rows of all searches in one step and hand each its part of the result."""
        live = [(search, step) for search in self._searches.values() if (step := search.rows()) is not None]
        steps = [step for _, step in live]
        try:
            output = self._runtime.step(merge_steps(steps))
        except T5kitError as error:
            for request_id in list(self._alive):
                self.cancel(request_id)
                events.append(_failure(request_id, error))
            return
        now = self._clock()
        for job in self._alive.values():
            if job.first_token_s is None:
                job.first_token_s = now - job.submitted_s
        for (search, _), part in zip(live, split_output(output, steps), strict=True):
            for event in search.advance(part):
                events.append(self._event(event))
        if not self._alive:
            self._searches.clear()

    def _event(self, event: NewTokens | Found | Failed) -> Event:
        if isinstance(event, NewTokens):
            return TokensGenerated(request_id=event.request_id, token_ids=event.token_ids)
        job = self._alive.pop(event.request_id)
        if isinstance(event, Failed):
            return _failure(event.request_id, event.error)
        assert job.first_token_s is not None
        return RequestFinished(
            request_id=event.request_id,
            hypotheses=event.hypotheses,
            timings=Timings(
                queued_s=job.encode_started_s - job.submitted_s,
                encode_s=job.encode_s,
                first_token_s=job.first_token_s,
                total_s=self._clock() - job.submitted_s,
            ),
        )


def _chunks(prompts: Sequence[list[_Job]], max_encoder_tokens: int) -> list[list[list[_Job]]]:
    """Return the prompts in chunks whose count times longest is at most the limit; one longer than that goes alone."""
    chunks: list[list[list[_Job]]] = []
    longest = 0
    for jobs in prompts:
        length = len(jobs[0].prompt)
        longest = max(longest, length)
        if chunks and (len(chunks[-1]) + 1) * longest <= max_encoder_tokens:
            chunks[-1].append(jobs)
        else:
            chunks.append([jobs])
            longest = length
    return chunks


def _search_request(job: _Job, handle: int) -> SearchRequest:
    return SearchRequest(
        request_id=job.request.request_id,
        handle=handle,
        encoder_input_ids=job.prompt,
        options=job.request.options,
        sample_stream=job.request.sample_stream,
        is_streamed=job.request.is_streamed,
    )


def _failure(request_id: int, error: T5kitError) -> RequestFailed:
    return RequestFailed(request_id=request_id, error=str(error), error_type=type(error).__name__)

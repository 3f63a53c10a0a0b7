"""Continuous batching: a finished answer's rows are free at once, and the next prompt takes them.

Every step does two things at most: it encodes one chunk of waiting prompts into the rows that are free, and feeds all
rows alive once. A chunk is bounded, so that running answers never wait for a long encoder run; and it is not made for
two short prompts, because an encoder run reads all of the encoder's weights. A prompt longer than a chunk cannot be cut
(its tokens see each other), so what its run takes too long is given back: the next such prompt waits until the answers
that run have had as much time, and shorter prompts pass it meanwhile.

Results do not depend on any of this: a row's arithmetic is the same in any company (the runtime protocol), and a
search's answer depends on its own request only.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

import numpy as np

from t5kit.decoding import (
    ConstraintFactory,
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
from t5kit.runtime import Runtime, StepInput
from t5kit.runtime.adapters import encode_adapted
from t5kit.runtime.interrupts import interrupts_wait
from t5kit.runtime.validation import check_ids
from t5kit.scheduling.memory import answer_bytes, prompt_bytes
from t5kit.scheduling.merging import merge_steps, split_output
from t5kit.scheduling.requests import (
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    SchedulerCounts,
    Timings,
    TokensGenerated,
)
from t5kit.scheduling.room import EncodedPrompt, Room, Used, check_limit

DEFAULT_MAX_BATCH_ROWS = 256
"""64 texts of 4 beams."""
DEFAULT_MAX_ENCODER_TOKENS = 2048
"""One encoder run: 16 texts of 128 tokens."""
DEFAULT_MAX_PROMPT_TOKENS = 65_536
"""Encoded prompts alive together: 1.6 GB of cross-attention caches of T5-small, 128 texts of 512 tokens."""
_WORTHWHILE_SHARE = 4
"""While answers run, prompts wait until they are this part of a chunk, or this part of the rows is free."""


@dataclasses.dataclass(slots=True, eq=False)
class _Job:
    """One request on its way."""

    request: GenerationRequest
    prompt: np.ndarray
    """[S] int32."""
    key: bytes
    """Equal for equal prompts under the same adapter."""
    strategy: Strategy
    num_rows: int
    answer_bytes: int
    submitted_s: float
    encode_started_s: float = 0.0
    encode_s: float = 0.0
    first_token_s: float | None = None


class ContinuousScheduler:
    """The `Scheduler` protocol with continuous batching.

    Requests submitted together are sorted by length, longest first, so that an encoder run holds prompts of like length
    and equal prompts stand together; those submitted later come later, and no request overtakes another that waits for
    room, with two exceptions: a prompt longer than an encoder run may wait while answers run, see above; and the last
    eighth of rows, prompt tokens and cache bytes is for requests whose `client` has none alive, so that a short answer
    does not wait for all that somebody else has begun. Equal prompts alive at the same time are encoded once, and so
    are those that come back while they are kept. Greedy, sampled and beam requests, with any options and adapters, run
    side by side.

    Limits: max_batch_rows rows at a time (a beam or a sample is one); max_encoder_tokens an encoder run (count times
    longest; a longer prompt goes alone); max_prompt_tokens of encoded prompts alive together (a longer one goes alone);
    max_cache_bytes of caches (`t5kit.scheduling.memory` tells beforehand what a request takes at most; one that alone
    takes more is refused; None: no limit); max_kept_bytes of encoded prompts that no request uses any more, the least
    recently used ones dropped first; they give way to requests. `clock` gives seconds.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        detokenizer_factory: DetokenizerFactory | None = None,
        constraint_factory: ConstraintFactory | None = None,
        max_batch_rows: int = DEFAULT_MAX_BATCH_ROWS,
        max_encoder_tokens: int = DEFAULT_MAX_ENCODER_TOKENS,
        max_prompt_tokens: int = DEFAULT_MAX_PROMPT_TOKENS,
        max_cache_bytes: int | None = None,
        max_kept_bytes: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_limit("max_encoder_tokens", max_encoder_tokens, least=1)
        check_limit("max_kept_bytes", max_kept_bytes, least=0)
        self._runtime = runtime
        self._detokenizer_factory = detokenizer_factory
        self._constraint_factory = constraint_factory
        self._room = Room(
            max_batch_rows=max_batch_rows, max_prompt_tokens=max_prompt_tokens, max_cache_bytes=max_cache_bytes
        )
        self._room_of_known = self._room.without_reserve()
        """For clients that have something alive."""
        self._max_encoder_tokens = max_encoder_tokens
        self._max_kept_bytes = max_kept_bytes
        self._clock = clock
        self._waiting: collections.OrderedDict[int, _Job] = collections.OrderedDict()
        """In the order of their turn."""
        self._alive: dict[int, _Job] = {}
        self._held_back: set[int] = set()
        """Waiting requests of clients that have something alive, which the next may pass: only the reserve is left."""
        self._without_token: list[_Job] = []
        """Alive, and not stepped yet."""
        self._searches: dict[Strategy, Search] = {}
        self._encoded: dict[bytes, EncodedPrompt] = {}
        """Prompts that jobs alive use, and the unused ones."""
        self._unused: collections.OrderedDict[bytes, None] = collections.OrderedDict()
        """Encoded prompts without a user, the least recently used first; beside what max_kept_bytes allows, only that
        of the next waiting request outlives a step."""
        self._used = Used()
        """By jobs alive."""
        self._kept = Used()
        """By unused prompts."""
        self._debt_s = 0.0
        """Time that answers have waited for prompts longer than a chunk, and have not been given back."""
        self._num_steps = self._num_stepped_rows = 0
        self._num_encoded_prompts = self._num_encoded_tokens = self._num_shared_prompts = 0
        self._refused: list[RequestFailed] = []
        """Failures that no step has reported yet."""

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._alive or self._refused)

    @property
    def alive_ids(self) -> list[int]:
        """The requests that have been encoded and are not done, in the order they were admitted."""
        return list(self._alive)

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of the prompts that wait to be encoded, those left out that let others pass."""
        return sum(
            len(job.prompt)
            for request_id, job in self._waiting.items()
            if request_id not in self._held_back and not self._lets_pass(job)
        )

    @property
    def num_passed(self) -> int:
        """Waiting prompts that let others pass: longer than an encoder run, while answers have their time back."""
        return sum(self._lets_pass(job) for job in self._waiting.values())

    @property
    def clients_held_back(self) -> set[str | None]:
        """Those whose requests wait here while others' may pass: more of theirs would only wait here too."""
        return {job.request.client for request_id, job in self._waiting.items() if request_id in self._held_back}

    @property
    def is_giving_back(self) -> bool:
        """Running answers have their time back: whatever is longer than an encoder run lets others pass."""
        return self._debt_s > 0 and bool(self._alive)

    def counts(self) -> SchedulerCounts:
        """Return what is held now and what was done."""
        return SchedulerCounts(
            num_waiting=len(self._waiting),
            num_alive=len(self._alive),
            num_rows=self._used.rows,
            cache_bytes=self._used.cache_bytes + self._kept.cache_bytes,
            num_steps=self._num_steps,
            num_stepped_rows=self._num_stepped_rows,
            num_encoded_prompts=self._num_encoded_prompts,
            num_encoded_tokens=self._num_encoded_tokens,
            num_shared_prompts=self._num_shared_prompts,
        )

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        ids = [request.request_id for request in requests]
        in_use = [each for each in ids if each in self._waiting or each in self._alive]
        if in_use or len(set(ids)) < len(ids):
            repeated = in_use or [each for each, count in collections.Counter(ids).items() if count > 1]
            raise RequestError(f"request_id {repeated[0]} is in use; ids must be unique among the requests alive.")
        now = self._clock()
        jobs = []
        checked: dict[tuple[int, bool], RequestError | None] = {}  # requests usually share one options object
        for request in requests:
            key = (id(request.options), request.is_streamed)
            if key not in checked:
                checked[key] = self._options_fault(request)
            error = checked[key] or self._prompt_fault(request)
            if error is None:
                jobs.append(self._job(request, now))
            else:
                self._refused.append(_failure(request.request_id, error))
        first_places: dict[bytes, int] = {}
        for place, job in enumerate(jobs):
            first_places.setdefault(job.key, place)
        jobs.sort(key=lambda job: (-len(job.prompt), first_places[job.key]))
        self._waiting.update((job.request.request_id, job) for job in jobs)

    @interrupts_wait()
    def step(self) -> list[Event]:
        events: list[Event] = list(self._refused)
        self._refused.clear()
        jobs = self._next_jobs()
        if jobs:
            self._encode_and_admit(jobs, events)
        if self._alive:
            self._advance(events)
        return events

    @interrupts_wait()
    def cancel(self, request_id: int) -> None:
        job = self._alive.get(request_id)
        if job is not None:
            self._search(job.strategy).cancel(request_id)
            self._end(job)
        elif self._waiting.pop(request_id, None) is None:
            return
        self._release_unused()

    @interrupts_wait()
    def close(self) -> None:
        for request_id in [*self._waiting, *self._alive]:
            self.cancel(request_id)
        self._drop_unused(self._unused)
        self._searches.clear()
        self._refused.clear()

    # Taking in

    def _job(self, request: GenerationRequest, now: float) -> _Job:
        prompt = np.ascontiguousarray(request.encoder_input_ids, np.int32)
        options = request.options
        return _Job(
            request,
            prompt,
            request.adapter.to_bytes(8, "little") + prompt.tobytes(),
            strategy_of(options),
            num_rows(options),
            answer_bytes(self._runtime.config, options),
            now,
        )

    def _options_fault(self, request: GenerationRequest) -> RequestError | None:
        rows = num_rows(request.options)
        try:
            check_options(
                request.options,
                self._runtime.config,
                has_detokenizer=self._detokenizer_factory is not None,
                has_constraints=self._constraint_factory is not None,
                is_streamed=request.is_streamed,
            )
        except RequestError as error:
            return error
        if rows > self._room.max_batch_rows:
            return RequestError(
                f"num_beams or num_return_sequences asks for {rows} rows, more than max_batch_rows = "
                f"{self._room.max_batch_rows} of this scheduler. Ask for fewer, or raise max_batch_rows if memory "
                "allows."
            )
        return None

    def _prompt_fault(self, request: GenerationRequest) -> RequestError | None:
        config = self._runtime.config
        try:
            check_ids(request.encoder_input_ids, config, "encoder_input_ids")
        except RequestError as error:
            return error
        if not isinstance(request.sample_stream, int) or not 0 <= request.sample_stream < 2**64:
            return RequestError(f"sample_stream = {request.sample_stream!r} must be an integer in [0, 2^64).")
        if not isinstance(request.adapter, int) or not 0 <= request.adapter < 2**31:
            return RequestError(f"adapter = {request.adapter!r} must be a name that the runtime gave, or 0 for none.")
        if self._room.max_cache_bytes is not None:
            num_tokens = len(request.encoder_input_ids)
            needed = prompt_bytes(config, num_tokens) + answer_bytes(config, request.options)
            if needed > self._room.max_cache_bytes:
                return RequestError(
                    f"A prompt of {num_tokens:,} tokens with {num_rows(request.options)} answers of at most "
                    f"{request.options.max_new_tokens:,} tokens can take {needed:,} bytes of caches, more than "
                    f"max_cache_bytes = {self._room.max_cache_bytes:,}. Lower max_new_tokens or num_beams, shorten the "
                    "text, or raise max_cache_bytes."
                )
        return None

    def _next_jobs(self) -> list[_Job]:
        """Return the waiting jobs, in their order, that are to be encoded and admitted now; none of them is moved."""
        self._held_back.clear()
        if not self._waiting:
            return []
        would_use = self._used
        jobs: list[_Job] = []
        new: dict[bytes, int] = {}
        revived: set[bytes] = set()
        known = {job.request.client for job in self._alive.values()} - {None}
        longest, num_passed = 0, 0
        is_chunk_full = has_newcomer = is_reserve_reached = False
        for request_id, job in self._waiting.items():
            is_new = job.key not in self._encoded and job.key not in new
            is_known = job.request.client in known
            if self._lets_pass(job):
                num_passed += 1
                continue
            if is_known and is_reserve_reached:  # nobody passes one who waits for the same room
                self._held_back.add(request_id)
                continue
            takes_prompt = is_new or (job.key in self._unused and job.key not in revived)
            with_job = self._with(would_use, job, takes_prompt=takes_prompt)
            if (self._alive or jobs) and not (self._room_of_known if is_known else self._room).holds(with_job):
                if not is_known:
                    break
                self._held_back.add(request_id)
                # One that has to wait until all others of its client are done keeps nobody else waiting.
                is_reserve_reached = self._room_of_known.holds(self._with(Used(), job, takes_prompt=True))
                continue
            would_use = with_job
            revived.add(job.key)
            if is_new:
                longest = max(longest, len(job.prompt))
                if new and (len(new) + 1) * longest > self._max_encoder_tokens:
                    is_chunk_full = True
                    break
                new[job.key] = len(job.prompt)
            jobs.append(job)
            if job.request.client is not None:
                has_newcomer |= not is_known
                known.add(job.request.client)
        is_worthwhile = (
            not self._alive
            or not new
            or is_chunk_full
            or (has_newcomer and bool(self._held_back))
            or len(jobs) + num_passed == len(self._waiting)
            or sum(new.values()) * _WORTHWHILE_SHARE >= self._max_encoder_tokens
            or (self._room.max_batch_rows - self._used.rows) * _WORTHWHILE_SHARE >= self._room.max_batch_rows
        )
        return jobs if is_worthwhile else []

    def _with(self, used: Used, job: _Job, *, takes_prompt: bool) -> Used:
        """Return what is used with a job besides, and with its prompt if that is not there yet."""
        num_tokens = len(job.prompt) if takes_prompt else 0
        return Used(
            rows=used.rows + job.num_rows,
            prompt_tokens=used.prompt_tokens + num_tokens,
            cache_bytes=used.cache_bytes + job.answer_bytes + prompt_bytes(self._runtime.config, num_tokens),
        )

    def _lets_pass(self, job: _Job) -> bool:
        is_long = len(job.prompt) > self._max_encoder_tokens
        return is_long and self.is_giving_back and job.key not in self._encoded

    def _encode_and_admit(self, jobs: Sequence[_Job], events: list[Event]) -> None:
        """Encode the prompts of waiting jobs in one run and admit the jobs.

        If that is refused, each job is tried alone, so that only the one at fault is lost.
        """
        for job in jobs:
            del self._waiting[job.request.request_id]
        error = self._try_to_admit(jobs)
        if error is not None:
            for job in jobs:
                alone = self._try_to_admit([job]) if len(jobs) > 1 else error
                if alone is not None:
                    events.append(_failure(job.request.request_id, alone))
        self._release_unused()

    def _try_to_admit(self, jobs: Sequence[_Job]) -> T5kitError | None:
        """Encode what is new of the jobs' prompts and give the jobs to their searches; return why that cannot be."""
        config = self._runtime.config
        new = {job.key: job for job in jobs if job.key not in self._encoded}
        num_tokens = sum(len(job.prompt) for job in new.values())
        self._make_room(jobs, new.values())
        started_s = self._clock()
        try:
            prompts, adapters = [job.prompt for job in new.values()], [job.request.adapter for job in new.values()]
            handles = encode_adapted(self._runtime, prompts, adapters) if new else []
        except T5kitError as error:
            return error
        ended_s = self._clock()
        if self._alive and num_tokens > self._max_encoder_tokens:
            self._debt_s += (ended_s - started_s) * (1 - self._max_encoder_tokens / num_tokens)
        self._num_encoded_prompts += len(new)
        self._num_encoded_tokens += num_tokens
        self._num_shared_prompts += len(jobs) - len(new)
        for (key, job), handle in zip(new.items(), handles, strict=True):
            self._encoded[key] = EncodedPrompt(handle, len(job.prompt), prompt_bytes(config, len(job.prompt)))
            self._set_unused(key)
        by_strategy: dict[Strategy, list[SearchRequest]] = {}
        for job in jobs:
            self._begin(job)
            job.encode_started_s, job.encode_s = started_s, ended_s - started_s
            by_strategy.setdefault(job.strategy, []).append(_search_request(job, self._encoded[job.key].handle))
        try:
            for strategy, requests in by_strategy.items():
                self._search(strategy).admit(requests)
        except T5kitError as error:
            for job in jobs:
                self._search(job.strategy).cancel(job.request.request_id)
                self._end(job)
            return error
        self._without_token += jobs
        return None

    def _begin(self, job: _Job) -> None:
        self._alive[job.request.request_id] = job
        self._used.rows += job.num_rows
        self._used.cache_bytes += job.answer_bytes
        encoded = self._encoded[job.key]
        encoded.num_users += 1
        if encoded.num_users == 1:
            del self._unused[job.key]
            self._kept.add(encoded, -1)
            self._used.add(encoded, 1)

    def _end(self, job: _Job) -> None:
        """Forget a job that was alive; its prompt may be unused then."""
        del self._alive[job.request.request_id]
        self._used.rows -= job.num_rows
        self._used.cache_bytes -= job.answer_bytes
        encoded = self._encoded[job.key]
        encoded.num_users -= 1
        if not encoded.num_users:
            self._used.add(encoded, -1)
            self._set_unused(job.key)

    def _set_unused(self, key: bytes) -> None:
        """Note that nobody uses an encoded prompt now; it is the most recently used of these."""
        self._unused[key] = None
        self._kept.add(self._encoded[key], 1)

    def _release_unused(self) -> None:
        """Release the encoded prompts that no job alive uses beyond max_kept_bytes, but not that of the next waiting
        job."""
        if self._kept.cache_bytes <= self._max_kept_bytes:
            return
        upcoming = next(iter(self._waiting.values()), None)
        excess = self._kept.cache_bytes - self._max_kept_bytes
        released = []
        for key in self._unused:
            if excess > 0 and (upcoming is None or key != upcoming.key):
                released.append(key)
                excess -= self._encoded[key].num_bytes
        self._drop_unused(released)

    def try_to_make_room(self, num_bytes: int) -> bool:
        """Return whether caches of so many bytes have room beside all that is alive; unused prompts are released for
        them."""
        most = self._room.max_cache_bytes
        if most is None:
            return True
        if self._used.cache_bytes + num_bytes > most:
            return False
        self._release_for(0, self._used.cache_bytes + self._kept.cache_bytes + num_bytes - most, except_for=set())
        return True

    def _make_room(self, jobs: Sequence[_Job], new: Iterable[_Job]) -> None:
        """Let unused prompts that are not the jobs' own give way to them, as far as the limits demand.

        new: those of the jobs whose prompts are to be encoded.
        """
        if not self._unused:
            return
        config = self._runtime.config
        lengths = [len(job.prompt) for job in new]
        new_bytes = sum(job.answer_bytes for job in jobs) + sum(prompt_bytes(config, length) for length in lengths)
        tokens = self._used.prompt_tokens + self._kept.prompt_tokens + sum(lengths) - self._room.max_prompt_tokens
        num_bytes = self._used.cache_bytes + self._kept.cache_bytes + new_bytes - (self._room.max_cache_bytes or 2**62)
        self._release_for(tokens, num_bytes, except_for={job.key for job in jobs})

    def _release_for(self, num_tokens: int, num_bytes: int, *, except_for: Set[bytes]) -> None:
        """Release unused prompts, the least recently used first, until so many tokens and bytes are free."""
        released = []
        for key in self._unused:
            if (num_tokens > 0 or num_bytes > 0) and key not in except_for:
                released.append(key)
                num_tokens -= self._encoded[key].num_tokens
                num_bytes -= self._encoded[key].num_bytes
        self._drop_unused(released)

    def _drop_unused(self, keys: Iterable[bytes]) -> None:
        gone = []
        for key in list(keys):
            del self._unused[key]
            gone.append(self._encoded.pop(key))
            self._kept.add(gone[-1], -1)
        if gone:
            self._runtime.release([each.handle for each in gone])

    def _search(self, strategy: Strategy) -> Search:
        if strategy not in self._searches:
            self._searches[strategy] = make_search(
                strategy,
                self._runtime,
                detokenizer_factory=self._detokenizer_factory,
                constraint_factory=self._constraint_factory,
            )
        return self._searches[strategy]

    # Going on

    def _advance(self, events: list[Event]) -> None:
        """Feed the rows of all searches and hand each its part of the result.

        Searches that need dense logits are fed apart: with int8 weights the log-sum-exp of a step with them is exact
        and that of one without is screened, and no answer's bits may depend on what its neighbours ask for.
        """
        with_logits: dict[Strategy, StepInput] = {}
        without_logits: dict[Strategy, StepInput] = {}
        for strategy, search in list(self._searches.items()):
            step = search.rows()
            if step is None:
                del self._searches[strategy]
            else:
                (with_logits if step.need.logits else without_logits)[strategy] = step
        for group in (without_logits, with_logits):
            if group:
                self._feed(group, events)
        self._release_unused()

    def _feed(self, group: Mapping[Strategy, StepInput], events: list[Event]) -> None:
        steps = list(group.values())
        started_s = self._clock() if self._debt_s > 0 else 0.0
        try:
            output = self._runtime.step(merge_steps(steps))
        except T5kitError as error:
            for request_id, job in list(self._alive.items()):
                if job.strategy in group:
                    self._searches[job.strategy].cancel(request_id)
                    self._end(job)
                    events.append(_failure(request_id, error))
            return
        now = self._clock()
        if self._debt_s > 0:
            self._debt_s -= now - started_s
        self._num_steps += 1
        self._num_stepped_rows += sum(len(step.slots) for step in steps)
        for job in self._without_token:
            if job.strategy in group:
                job.first_token_s = now - job.submitted_s
        self._without_token = [
            job for job in self._without_token if job.strategy not in group and job.request.request_id in self._alive
        ]
        for strategy, part in zip(group, split_output(output, steps), strict=True):
            for event in self._searches[strategy].advance(part):
                events.append(self._event(event))

    def _event(self, event: NewTokens | Found | Failed) -> Event:
        if isinstance(event, NewTokens):
            return TokensGenerated(request_id=event.request_id, token_ids=event.token_ids)
        job = self._alive[event.request_id]
        self._end(job)
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

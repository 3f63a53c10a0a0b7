"""The scheduler as a service: many clients, one model. Still nothing happens but inside `step`, one caller at a time.

In front of the continuous scheduler stands a fair queue: it hands over only as many prompts as the next encoder run
takes, so that whose turn it is is decided as late as possible. Requests have deadlines, and probes (scores, vectors)
are done in bounded pieces between decoding steps. Grammars are translated on a thread before their requests queue.
"""

import dataclasses
import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from t5kit.decoding import ConstraintFactory, DetokenizerFactory, num_rows
from t5kit.errors import ConfigError, DeadlineError, RequestError
from t5kit.runtime import Runtime
from t5kit.scheduling.constraints import ConstraintsAhead
from t5kit.scheduling.continuous import (
    DEFAULT_MAX_BATCH_ROWS,
    DEFAULT_MAX_PROMPT_TOKENS,
    ContinuousScheduler,
)
from t5kit.scheduling.fair_queue import FairQueue
from t5kit.scheduling.probes import Probe, ProbeEvent, check_probe_bytes, num_probe_tokens, probe_bytes, run_probes
from t5kit.scheduling.requests import (
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    SchedulerCounts,
    TokensGenerated,
)

Priority = Literal["high", "normal", "low"]
PRIORITY_WEIGHTS: Mapping[Priority, float] = {"high": 16.0, "normal": 4.0, "low": 1.0}
"""Shares of the machine while all three wait; even a low request is never starved."""

ServiceEvent = Event | ProbeEvent
_MOST_COST = 2**53
"""Limits on length may be any integer, and floats hold no more of them."""
_CONSTRAINT_WAIT_S = 0.01
"""A step that has nothing to do but to wait for a grammar ends after so long: commands must not wait for it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """How much one model's service takes on; see ContinuousScheduler for what each limit means."""

    max_batch_rows: int = DEFAULT_MAX_BATCH_ROWS
    max_encoder_tokens: int = 1024
    """Half the scheduler's own default: an answer that is being read waits at most so long for one encoder run."""
    max_prompt_tokens: int = DEFAULT_MAX_PROMPT_TOKENS
    max_cache_bytes: int | None = None
    max_kept_bytes: int = 64 * 2**20
    """Encoded prompts kept for the next request with the same text: 2,700 tokens of T5-small."""

    def __post_init__(self) -> None:
        # Checked here, since an engine process that finds it out can only die of it, and again when it is restarted.
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "max_kept_bytes" else 1
            if value is None and field.name == "max_cache_bytes":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{field.name} = {value!r} must be an integer of at least {least}.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServiceRequest:
    """One piece of work with what the service has to know of it."""

    work: GenerationRequest | Probe
    """Its `adapter` and `client` are set by the service."""
    client: str = ""
    """Who asks: clients share the machine fairly, and the last eighth of the room is for those that have no answer
    alive."""
    priority: Priority = "normal"
    timeout_s: float | None = None
    """Fails if it is not answered so many seconds after it was submitted; None: never."""
    adapter: str = ""
    """Name of an adapter the service was given; empty for none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCounts:
    """What a service holds now, and what it has done since it was made."""

    num_queued: int
    """Requests that wait for their turn."""
    num_generated_tokens: int
    """Of finished answers and streams."""
    num_expired: int
    """Requests that ran into their deadline."""
    scheduler: SchedulerCounts


class SchedulingService:
    """Requests of many clients in, events out.

    adapters: name -> the runtime's own name for it. `clock` gives seconds.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        detokenizer_factory: DetokenizerFactory | None = None,
        constraint_factory: ConstraintFactory | None = None,
        adapters: Mapping[str, int] | None = None,
        limits: ServiceLimits | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        limits = limits or ServiceLimits()
        self._constraints = None if constraint_factory is None else ConstraintsAhead(constraint_factory)
        self._runtime = runtime
        self._adapters = dict(adapters or {})
        self._clock = clock
        self._max_encoder_tokens = limits.max_encoder_tokens
        self._max_cache_bytes = limits.max_cache_bytes
        self._scheduler = ContinuousScheduler(
            runtime,
            detokenizer_factory=detokenizer_factory,
            constraint_factory=self._constraints,
            max_batch_rows=limits.max_batch_rows,
            max_encoder_tokens=limits.max_encoder_tokens,
            max_prompt_tokens=limits.max_prompt_tokens,
            max_cache_bytes=limits.max_cache_bytes,
            max_kept_bytes=limits.max_kept_bytes,
            clock=clock,
        )
        self._without_constraint: dict[int, ServiceRequest] = {}
        """Requests whose grammar is being translated, their work checked."""
        self._generations: FairQueue[GenerationRequest] = FairQueue()
        self._probes: FairQueue[Probe] = FairQueue()
        self._queued_since: dict[int, float] = {}
        """Requests that are not done -> when they came."""
        self._waited_s: dict[int, float] = {}
        """Generations handed to the scheduler -> how long they waited before."""
        self._deadlines: list[tuple[float, int, float]] = []
        """A heap of (time, request id, when it came); requests that are done are passed over."""
        self._refused: list[RequestFailed] = []
        self._probe_lacks_room = False
        """The next probe found no room for its caches beside the answers alive."""
        self._num_generated_tokens = self._num_expired = 0

    @property
    def has_work(self) -> bool:
        """A request is not done, or an event has not been given yet."""
        return bool(self._queued_since or self._refused)

    def submit(self, requests: Sequence[ServiceRequest]) -> None:
        """Take requests in; one that cannot be answered becomes a RequestFailed of the next step."""
        now = self._clock()
        for request in requests:
            request_id = request.work.request_id
            try:
                work = self._checked(request)
            except RequestError as error:
                self._refused.append(RequestFailed(request_id=request_id, error=str(error), error_type="RequestError"))
                continue
            self._queued_since[request_id] = now
            if request.timeout_s is not None:
                heapq.heappush(self._deadlines, (now + request.timeout_s, request_id, now))
            checked = dataclasses.replace(request, work=work)
            grammar = work.options.grammar if isinstance(work, GenerationRequest) else None
            if grammar is not None and self._constraints is not None:
                self._constraints.begin(request_id, grammar)
                self._without_constraint[request_id] = checked
            else:
                self._queue(checked)

    def cancel(self, request_id: int) -> None:
        """Drop a request, waiting or alive, and free what it holds at once; it gives no more events."""
        if self._queued_since.pop(request_id, None) is None:
            return
        self._forget_constraint(request_id)
        if self._without_constraint.pop(request_id, None) is not None:
            return
        if self._generations.remove(request_id) is None and self._probes.remove(request_id) is None:
            self._scheduler.cancel(request_id)
            self._waited_s.pop(request_id, None)

    def step(self) -> list[ServiceEvent]:
        """Do the next piece of work and return what came of it.

        At most one encoder run, one token for every answer alive, and one piece of probes. Where all that is left waits
        for its grammar, this waits a little for one of them.
        """
        events: list[ServiceEvent] = [*self._refused, *self._expire()]
        self._refused = []
        self._queue_constrained(waits=not events)
        self._hand_over()
        if self._scheduler.has_work:
            events += [self._told(event) for event in self._scheduler.step()]
        events += self._run_probes()
        return events

    def counts(self) -> ServiceCounts:
        """Return what is held now and what was done."""
        return ServiceCounts(
            num_queued=len(self._without_constraint) + len(self._generations) + len(self._probes),
            num_generated_tokens=self._num_generated_tokens,
            num_expired=self._num_expired,
            scheduler=self._scheduler.counts(),
        )

    def close(self) -> None:
        """Cancel everything."""
        for request_id in list(self._queued_since):
            self.cancel(request_id)
        self._scheduler.close()
        if self._constraints is not None:
            self._constraints.close()
        self._refused = []

    def _checked(self, request: ServiceRequest) -> GenerationRequest | Probe:
        """Return the work with its client, and its adapter named as the runtime does."""
        if request.work.request_id in self._queued_since:
            raise RequestError(f"request_id {request.work.request_id} is in use.")
        if request.priority not in get_args(Priority):
            raise RequestError(f"priority = {request.priority!r} must be one of: {', '.join(get_args(Priority))}.")
        work = request.work
        if isinstance(work, GenerationRequest):
            work = dataclasses.replace(work, client=request.client)
        elif self._max_cache_bytes is not None:
            check_probe_bytes(work, self._runtime.config, self._max_cache_bytes)
        if not request.adapter:
            return work
        if request.adapter not in self._adapters:
            raise RequestError(
                f"There is no adapter {request.adapter!r}; known: {', '.join(sorted(self._adapters)) or 'none'}."
            )
        return dataclasses.replace(work, adapter=self._adapters[request.adapter])

    def _queue(self, request: ServiceRequest) -> None:
        """Let a request wait for its turn."""
        work, flow, weight = request.work, (request.client, request.priority), PRIORITY_WEIGHTS[request.priority]
        if isinstance(work, GenerationRequest):
            cost = len(work.encoder_input_ids) + num_rows(work.options) * work.options.max_new_tokens
            cost = min(cost, _MOST_COST)
            self._generations.push(work.request_id, work, flow=flow, cost=cost, weight=weight)
        else:
            self._probes.push(work.request_id, work, flow=flow, cost=num_probe_tokens(work), weight=weight)

    def _queue_constrained(self, *, waits: bool) -> None:
        """Let the requests queue whose grammar is translated by now; waits: for one, if there is nothing else to do."""
        if not self._without_constraint:
            return
        assert self._constraints is not None  # it holds them
        if waits and not (self._scheduler.has_work or self._generations or self._probes):
            self._constraints.wait(_CONSTRAINT_WAIT_S)
        for request_id in [each for each in self._without_constraint if self._constraints.is_made(each)]:
            self._queue(self._without_constraint.pop(request_id))

    def _forget_constraint(self, request_id: int) -> None:
        if self._constraints is not None:
            self._constraints.forget(request_id)

    def _expire(self) -> list[RequestFailed]:
        """Drop what is past its deadline."""
        now = self._clock()
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request_id, queued = heapq.heappop(self._deadlines)
            if self._queued_since.get(request_id) == queued:  # and not a later request of the same id
                waited_s = now - queued
                self.cancel(request_id)
                self._num_expired += 1
                error = (
                    f"No answer within {waited_s:.1f} s, the request's time limit. Ask for less (max_new_tokens, "
                    "num_beams), allow more time, or try again when there is less to do."
                )
                expired.append(RequestFailed(request_id=request_id, error=error, error_type=DeadlineError.__name__))
        if not self._queued_since:
            self._deadlines.clear()
        return expired

    def _hand_over(self) -> None:
        """Give the scheduler prompts for its next encoder run, in fair order.

        While long prompts let others pass it is given one of them; a second one waits here, since those that pass it
        are yet to come. So do those of clients that have some held back there, and all while a probe waits for answers
        to end, whose caches leave it no room.
        """
        if self._probe_lacks_room:
            return
        held_back = self._scheduler.clients_held_back

        def is_passed(flow: tuple[str, Priority]) -> bool:
            return flow[0] in held_back

        room = self._max_encoder_tokens - self._scheduler.num_waiting_tokens
        is_giving_back, num_passed = self._scheduler.is_giving_back, self._scheduler.num_passed
        chosen = []
        while room > 0 and (upcoming := self._generations.peek(is_passed)) is not None:
            num_tokens = len(upcoming.encoder_input_ids)
            if is_giving_back and num_tokens > self._max_encoder_tokens:
                if num_passed:
                    break
                num_passed += 1
            else:
                room -= num_tokens
            chosen.append(self._generations.pop(is_passed))
        if chosen:
            now = self._clock()
            for request in chosen:
                self._waited_s[request.request_id] = now - self._queued_since[request.request_id]
            self._scheduler.submit(chosen)

    def _told(self, event: Event) -> Event:
        """Return a scheduler's event as the client is to see it, and forget a request that is done."""
        if isinstance(event, TokensGenerated):
            return event
        del self._queued_since[event.request_id]
        self._forget_constraint(event.request_id)
        waited_s = self._waited_s.pop(event.request_id)
        if isinstance(event, RequestFailed):
            return event
        self._num_generated_tokens += sum(len(hypothesis.token_ids) for hypothesis in event.hypotheses)
        timings = event.timings
        return RequestFinished(
            request_id=event.request_id,
            hypotheses=event.hypotheses,
            timings=dataclasses.replace(
                timings,
                queued_s=timings.queued_s + waited_s,
                first_token_s=timings.first_token_s + waited_s,
                total_s=timings.total_s + waited_s,
            ),
        )

    def _run_probes(self) -> list[ProbeEvent]:
        room, num_bytes = self._max_encoder_tokens, 0
        chosen: list[Probe] = []
        while room > 0 and (upcoming := self._probes.peek()) is not None:
            num_bytes += probe_bytes(upcoming, self._runtime.config)
            if not self._scheduler.try_to_make_room(num_bytes):
                break
            chosen.append(self._probes.pop())
            room -= num_probe_tokens(upcoming)
        self._probe_lacks_room = not chosen and bool(self._probes)
        if not chosen:
            return []
        for probe in chosen:
            del self._queued_since[probe.request_id]
        return run_probes(self._runtime, chosen)

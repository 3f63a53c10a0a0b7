"""One model's engine process as the event loop sees it: requests in, events out, refusals instead of growth, and a
restart where it died.
"""

import asyncio
import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

import t5kit.errors
from t5kit.errors import BusyError, EngineGoneError, OverloadedError, RequestError, T5kitError
from t5kit.runtime import RuntimeDescription
from t5kit.scheduling import (
    EngineProcess,
    GenerationRequest,
    RequestFailed,
    ServiceCounts,
    ServiceEvent,
    ServiceLimits,
    ServiceRequest,
    TokensGenerated,
)
from t5kit.scheduling.probes import Probe, num_probe_tokens
from t5kit.scheduling.worker import Cancel, EngineLoader, LoadFailed, Message, Ready, Submit
from t5kit.serving.places import Places

EngineStatus = Literal["loading", "ready", "restarting", "stopping", "stopped"]

_RESTART_DELAYS_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before the n-th restart in a row."""
_CALM_AFTER_S = 60.0
"""A process that lived so long does not count as a restart in a row."""
_log = logging.getLogger("t5kit.serving")


class PendingRequest:
    """A request on its way; its events come in order, the last one tells its end."""

    def __init__(self, engine: "Engine", request_id: int, client: str, num_tokens: int) -> None:
        self.request_id = request_id
        self.client = client
        self.num_tokens = num_tokens
        """Of its prompt, and of the targets that it is asked about."""
        self.is_done = False
        self._engine = engine
        self._events: asyncio.Queue[ServiceEvent] = asyncio.Queue()
        """Bounded by the request itself: at most max_new_tokens events."""

    async def next_event(self) -> ServiceEvent:
        """Return the next event; after the last one there is none."""
        return await self._events.get()

    async def result(self) -> ServiceEvent:
        """Return the last event, passing over tokens."""
        while isinstance(event := await self._events.get(), TokensGenerated):
            pass
        return event

    def cancel(self) -> None:
        """Let the engine drop it at its next step, if it is not done; no more events come."""
        self._engine.cancel(self)

    def take(self, event: ServiceEvent) -> None:
        """Called by the engine with each event."""
        self._events.put_nowait(event)


class Engine:
    """Owns one engine process. All methods belong to one event loop.

    max_requests and max_tokens bound what is held at a time: requests, and tokens of their prompts and given targets;
    of both a client has at most its share (`Places`).
    on_counts is called with (counts, those before in the same process or None) whenever the process tells; on_restart
    when it died.
    """

    def __init__(
        self,
        name: str,
        loader: EngineLoader,
        limits: ServiceLimits,
        *,
        max_requests: int = 2048,
        max_tokens: int = 2_000_000,
        stall_timeout_s: float = 120.0,
        on_counts: Callable[[ServiceCounts, ServiceCounts | None], None] = lambda now, before: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """stall_timeout_s: a process that has work and says nothing for so long is ended and started again."""
        self.name = name
        self.status: EngineStatus = "loading"
        self.description: RuntimeDescription | None = None
        """Known once it was ready."""
        self.counts: ServiceCounts | None = None
        """The process's latest word."""
        self.num_restarts = 0
        self.limits = limits
        self._loader = loader
        self._requests, self._tokens = Places(max_requests), Places(max_tokens)
        self._stall_timeout_s = stall_timeout_s
        self._on_counts, self._on_restart = on_counts, on_restart
        self._pending: dict[int, PendingRequest] = {}
        self._next_id = 0
        self._process: EngineProcess | None = None
        self._ready: asyncio.Future[None] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._started_s = 0.0
        self._unheard_since_s: float | None = None
        """Since when the process owes a word; None while it was given nothing since its last one."""
        self._num_failed_starts = 0
        self._load_error: T5kitError | None = None
        self._done_s: collections.deque[float] = collections.deque(maxlen=256)
        """When the latest requests were done."""

    @property
    def num_pending(self) -> int:
        """Requests held."""
        return len(self._pending)

    @property
    def pid(self) -> int | None:
        """The process's id, while there is one."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process and wait until the model is loaded.

        Raises: what loading raised in it, EngineGoneError if it died.
        """
        self._spawn()
        assert self._ready is not None
        await self._ready
        self._watching = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    def submit(self, requests: Sequence[ServiceRequest]) -> list[PendingRequest]:
        """Take one client's requests in, all or none; their works' request_ids are given here.

        Raises: OverloadedError where there is no room for the client now, BusyError while there is no process,
        RequestError for more than there could ever be room for.
        """
        if self.status != "ready":
            raise BusyError(f"The model {self.name!r} is {self.status}; ask again in a moment.", retry_after_s=2.0)
        if not requests:
            return []
        client, num_tokens = requests[0].client, [_num_given_tokens(request.work) for request in requests]
        self._check_room(client, len(requests), sum(num_tokens))
        assert self._process is not None
        given, pending = [], []
        if self._unheard_since_s is None:
            self._unheard_since_s = time.monotonic()
        for request, count in zip(requests, num_tokens, strict=True):
            work = dataclasses.replace(request.work, request_id=self._next_id)
            given.append(dataclasses.replace(request, work=work))
            pending.append(PendingRequest(self, self._next_id, client, count))
            self._pending[self._next_id] = pending[-1]
            self._next_id += 1
        self._requests.take(client, len(requests))
        self._tokens.take(client, sum(num_tokens))
        self._process.send(Submit(requests=tuple(given)))
        return pending

    def cancel(self, pending: PendingRequest) -> None:
        """Drop a request, if it is not done."""
        if self._forget(pending.request_id) is not None and self._process is not None:
            self._process.send(Cancel(request_id=pending.request_id))

    async def close(self) -> None:
        """End the process; what is still on its way fails."""
        self.status = "stopping"
        for task in (self._restarting, self._watching):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.stop)
        self._fail_all("The server has stopped.")
        self.status = "stopped"

    def _check_room(self, client: str, num_requests: int, num_tokens: int) -> None:
        """Raise RequestError or OverloadedError, as `submit` does, for more than there is room for."""
        requests, tokens, is_whole = self._requests, self._tokens, num_requests == 1
        most_requests, most_tokens = (each.most_ever(is_whole=is_whole) for each in (requests, tokens))
        if num_requests > most_requests or num_tokens > most_tokens:
            raise RequestError(
                f"{num_requests} pieces of work of {num_tokens:,} tokens are more than this server takes at a time "
                f"({most_requests} and {most_tokens:,}). Split them over several requests."
            )
        counts = ((requests, num_requests), (tokens, num_tokens))
        if all(each.has_room(client, count, is_whole=is_whole) for each, count in counts):
            return
        if any(each.num_held + count > each.limit for each, count in counts):
            told = (
                f"The model {self.name!r} holds {requests.num_held} requests of {tokens.num_held:,} tokens, as much as "
                "it can."
            )
        else:
            told = (
                f"A client may hold half of what the others leave of the model {self.name!r}, now "
                f"{requests.most_for(client)} requests of {tokens.most_for(client):,} tokens; you hold "
                f"{requests.held_by(client)} of {tokens.held_by(client):,}."
            )
        raise OverloadedError(f"{told} Nothing was begun; try again later.", retry_after_s=self._seconds_until_room())

    # The process

    def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        self._started_s, self._unheard_since_s = time.monotonic(), None
        self.counts = None

        def tell(function: Callable[..., None], *arguments: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                loop.call_soon_threadsafe(function, *arguments)

        self._process = EngineProcess(
            self._loader,
            self.limits,
            name=self.name,
            on_message=lambda message: tell(self._take, message),
            on_exit=lambda code: tell(self._process_ended, code),
        )

    def _take(self, message: Message) -> None:
        assert self._ready is not None
        self._unheard_since_s = time.monotonic() if self._pending else None
        match message:
            case Ready():
                self.description = message.description
                self.status = "ready"
                self._load_error = None
                if not self._ready.done():
                    self._ready.set_result(None)
            case LoadFailed():
                self._load_error = getattr(t5kit.errors, message.error_type, T5kitError)(message.error)
            case _:
                self._on_counts(message.counts, self.counts)
                self.counts = message.counts
                for event in message.events:
                    self._hand_on(event)

    def _hand_on(self, event: ServiceEvent) -> None:
        if isinstance(event, TokensGenerated):
            pending = self._pending.get(event.request_id)
        else:
            pending = self._forget(event.request_id)
            self._done_s.append(time.monotonic())
        if pending is not None:  # otherwise it was cancelled
            pending.take(event)

    def _forget(self, request_id: int) -> PendingRequest | None:
        pending = self._pending.pop(request_id, None)
        if pending is not None:
            pending.is_done = True
            self._requests.give_back(pending.client, 1)
            self._tokens.give_back(pending.client, pending.num_tokens)
        return pending

    def _fail_all(self, error: str) -> None:
        for request_id, pending in list(self._pending.items()):
            self._forget(request_id)
            pending.take(RequestFailed(request_id=request_id, error=error, error_type=EngineGoneError.__name__))

    def _process_ended(self, code: int) -> None:
        """Answer what was in the process with an error and start it again, unless it was asked to stop."""
        assert self._ready is not None
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self.status in ("stopping", "stopped"):
            return
        self._process = None
        if not self._ready.done() and self.status == "loading":
            self._ready.set_exception(
                self._load_error or EngineGoneError(f"The engine of {self.name!r} ended while it loaded ({ending}).")
            )
            return
        told = {"model": self.name, "ending": ending, "lost": len(self._pending)}
        if self._load_error is not None:
            told["error"] = str(self._load_error)
        _log.error("engine ended", extra={"fields": told})
        self._fail_all(
            f"The engine process of {self.name!r} ended unexpectedly ({ending}) while this request was in it; it is "
            "started again. Send the request again; if it comes to this each time, report it."
        )
        self.status = "restarting"
        self.num_restarts += 1
        self._on_restart()
        if time.monotonic() - self._started_s > _CALM_AFTER_S:
            self._num_failed_starts = 0
        delay_s = _RESTART_DELAYS_S[min(self._num_failed_starts, len(_RESTART_DELAYS_S) - 1)]
        self._num_failed_starts += 1
        self._restarting = asyncio.create_task(self._restart(delay_s), name=f"restart {self.name}")

    async def _restart(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            try:
                self._spawn()
                return
            except (OSError, RuntimeError) as error:  # no memory, files or threads for a process now
                _log.error("engine cannot be started", extra={"fields": {"model": self.name, "error": str(error)}})
                await asyncio.sleep(_RESTART_DELAYS_S[-1])

    async def _watch(self) -> None:
        """End a process that was given work and says nothing: whatever it hangs in, its requests must not.

        Requests that were cancelled since count too, or clients that lose patience would keep it alive: it reports once
        it has dropped them.
        """
        while True:
            await asyncio.sleep(self._stall_timeout_s / 8)
            unheard_since_s = self._unheard_since_s
            is_silent = unheard_since_s is not None and time.monotonic() - unheard_since_s > self._stall_timeout_s
            if is_silent and self.status == "ready" and self._process is not None:
                _log.error("engine hangs", extra={"fields": {"model": self.name, "pid": self._process.pid}})
                await asyncio.to_thread(self._process.kill)

    def _seconds_until_room(self) -> float:
        """Return an estimate from the latest rate: the time for a tenth of what is held."""
        if len(self._done_s) < 2:
            return 1.0
        rate = len(self._done_s) / max(1e-3, time.monotonic() - self._done_s[0])
        return min(60.0, max(1.0, 0.1 * len(self._pending) / rate))


def _num_given_tokens(work: GenerationRequest | Probe) -> int:
    """Return how many tokens a request brings: its prompt's, or all that the model has to read for a probe."""
    return len(work.encoder_input_ids) if isinstance(work, GenerationRequest) else num_probe_tokens(work)

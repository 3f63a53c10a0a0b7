"""The inside of an engine process: commands come through a pipe, events go back, and between the two stands a service.

While there is nothing to do the process sleeps in a queue that a thread fills from the pipe; while there is, it looks
into the queue once a step. So a request is begun at once, or at the next step, and nothing polls.
"""

import dataclasses
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Protocol

from t5kit.decoding import ConstraintFactory, DetokenizerFactory
from t5kit.errors import T5kitError
from t5kit.runtime import Runtime, RuntimeDescription
from t5kit.scheduling.service import SchedulingService, ServiceCounts, ServiceEvent, ServiceLimits, ServiceRequest

REPORT_EVERY_S = 0.25
"""Counts are told at least so often while there is work, and whenever something happened."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """What an engine process works with."""

    runtime: Runtime
    detokenizer_factory: DetokenizerFactory | None = None
    constraint_factory: ConstraintFactory | None = None
    """Makes constraints of requests' grammars; None: such requests are refused."""
    adapters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Name that requests use -> the runtime's own name."""


class EngineLoader(Protocol):
    """Makes the engine inside its process; it is pickled on its way there."""

    def __call__(self) -> LoadedEngine: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Command: take requests in."""

    requests: tuple[ServiceRequest, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Command: drop a request."""

    request_id: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """Command: leave, whatever is being done."""


Command = Submit | Cancel | Stop


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The first message: the engine is loaded."""

    description: RuntimeDescription


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """The first and last message: the engine could not be loaded."""

    error: str
    error_type: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a step."""

    events: tuple[ServiceEvent, ...]
    counts: ServiceCounts


Message = Ready | LoadFailed | Report


def run_engine(connection: Connection, loader: EngineLoader, limits: ServiceLimits) -> None:
    """Serve one model until told to stop or until the other end of the pipe is gone.

    Whatever is no T5kitError (a defect, no memory) ends the process, and whoever started it sees that.
    """
    # An interrupt at a terminal and systemd's SIGTERM reach every process of the group, but whether running answers are
    # finished is for the parent to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        engine = loader()
    except T5kitError as error:
        connection.send(LoadFailed(error=str(error), error_type=type(error).__name__))
        return
    service = SchedulingService(
        engine.runtime,
        detokenizer_factory=engine.detokenizer_factory,
        constraint_factory=engine.constraint_factory,
        adapters=engine.adapters,
        limits=limits,
    )
    try:
        connection.send(Ready(description=engine.runtime.description))
        commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(connection, commands), name="commands", daemon=True).start()
        _serve(connection, commands, service)
    except (BrokenPipeError, ConnectionResetError):
        pass  # nobody is left to answer
    finally:
        service.close()  # or a grammar that nobody waits for would hold up the end
        engine.runtime.close()


def _serve(
    connection: Connection,
    commands: "queue.SimpleQueue[Command]",
    service: SchedulingService,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    last_report_s = clock()
    while True:
        blocks = not service.has_work
        while True:
            try:
                command = commands.get(block=blocks)
            except queue.Empty:
                break
            blocks = False
            match command:
                case Submit():
                    service.submit(command.requests)
                case Cancel():
                    service.cancel(command.request_id)
                case Stop():
                    return
        events = service.step()
        if events or not service.has_work or clock() - last_report_s > REPORT_EVERY_S:
            last_report_s = clock()
            connection.send(Report(events=tuple(events), counts=service.counts()))


def _receive(connection: Connection, commands: "queue.SimpleQueue[Command]") -> None:
    """Hand on commands as they come, so that whoever sends them never waits for a step to end."""
    while True:
        try:
            command = connection.recv()
        except (EOFError, OSError):
            command = Stop()
        commands.put(command)
        if isinstance(command, Stop):
            return

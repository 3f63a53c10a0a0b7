"""An engine process seen from outside: start it, send commands, be told what it says and when it is gone."""

import atexit
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from t5kit.scheduling.service import ServiceLimits
from t5kit.scheduling.worker import Command, EngineLoader, Message, Stop, run_engine


class EngineProcess:
    """One engine in a process of its own, made by `spawn`, so that nothing of this process is inherited.

    `on_message` is called with every message, in order, and then `on_exit` once with the process's exit code (negative:
    the signal that ended it). Both run on a thread of this object and must return quickly.
    """

    def __init__(
        self,
        loader: EngineLoader,
        limits: ServiceLimits,
        *,
        name: str,
        on_message: Callable[[Message], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """Start it. Loading takes its time: a Ready or LoadFailed is the first message."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._connection: Connection = ours
        self._on_message, self._on_exit = on_message, on_exit
        self._process = context.Process(
            target=run_engine, args=(theirs, loader, limits), name=f"t5kit engine {name}", daemon=True
        )
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._is_gone = threading.Event()
        for task in (self._send_all, self._receive_all):
            threading.Thread(target=task, name=f"{task.__name__} {name}", daemon=True).start()
        atexit.register(self.kill)  # multiprocessing would wait at exit for a process that ignores SIGTERM

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send a command; returns at once. To a process that is gone nothing is sent: `on_exit` tells."""
        self._commands.put(command)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Let the process leave, by force if it does not do so in time, and wait until it has and was told of."""
        self.send(Stop())
        if not self._is_gone.wait(timeout_s):
            self.kill()

    def kill(self) -> None:
        """End the process at once and wait until that was told."""
        if not self._is_gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._is_gone.wait()

    def _send_all(self) -> None:
        """Write commands to the pipe on a thread of its own, so that `send` never waits for a full pipe."""
        while (command := self._commands.get()) is not None:
            try:
                self._connection.send(command)
            except OSError:
                return

    def _receive_all(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                break
            self._on_message(message)
        self._process.join()  # here only: two threads cannot both wait for a process
        self._commands.put(None)
        self._connection.close()
        self._on_exit(self._process.exitcode or 0)
        atexit.unregister(self.kill)
        self._is_gone.set()

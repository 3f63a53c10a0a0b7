"""Interrupts that wait: a step is done wholly or not begun.

Python calls a signal's handler between any two bytecodes of the main thread, so also between two assignments that
belong together: what a call has just opened would have no name yet. Where the handler raises (KeyboardInterrupt, a
time-out by SIGALRM, a training run that a signal stops), whoever closes a search or a runtime afterwards would find
rows that no longer fit each other, or leave caches behind.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_Handler = Callable[[int, FrameType | None], object]

_NAMES: Final = "SIGINT SIGTERM SIGALRM SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGVTALRM SIGPROF SIGBREAK"
_SIGNALS: Final = tuple(getattr(signal, name) for name in _NAMES.split() if hasattr(signal, name))


class _Waiting(contextlib.ContextDecorator):
    """A block in which signals wait, and what waits. There is one, for the main thread: no other runs handlers."""

    def __init__(self) -> None:
        self._usual: dict[int, _Handler] = {}
        self._received: list[tuple[_Handler, int, FrameType | None]] = []
        self._num_takers = 0
        self._num_blocks = 0

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.take()
            self._num_blocks += 1

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self._num_blocks -= 1
            self.give_back()

    def take(self) -> None:
        """Let signals be noted from here on, instead of handled."""
        if not self._num_takers:
            self._note()
        self._num_takers += 1

    def give_back(self) -> None:
        """Undo one `take`. Outside all blocks what was noted is handled, by the handlers that were there."""
        self._num_takers -= 1
        if self._num_takers and (self._num_blocks or not self._received):
            return
        try:
            self._handle_again()
        finally:
            received, self._received = self._received, []
            try:
                for handler, number, frame in received:
                    handler(number, frame)
            finally:
                if self._num_takers:  # a handler may have put another in its place
                    self._note()

    def _note(self) -> None:
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._usual = {
            number: handler for number, handler in handlers.items() if callable(handler)
        }  # others end or ignore
        try:
            for number in self._usual:
                signal.signal(number, self._receive)
        except BaseException:  # of a signal that was not noted yet
            self._handle_again()
            raise

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append((self._usual[number], number, frame))

    def _handle_again(self) -> None:
        with (
            contextlib.ExitStack() as stack
        ):  # one that is handled already may raise here, and the others must come too
            for number, handler in self._usual.items():
                stack.callback(signal.signal, number, handler)


_WAITING: Final = _Waiting()


def interrupts_wait() -> _Waiting:
    """Let signals within the block, or the function decorated, take effect when it is done.

    Those that end programs, and timers, if they have handlers in Python. These are called then, once for each signal,
    so that a program's own ones keep their meaning. Other threads are never interrupted, and nothing changes for them.
    """
    return _WAITING


@contextlib.contextmanager
def interrupts_between_blocks() -> Iterator[None]:
    """Let signals take effect at the end of an `interrupts_wait` within the block, or when it is done itself.

    Speed: handlers are exchanged once, and not for each of many short blocks, 10 us a time.
    """
    is_interrupted = threading.current_thread() is threading.main_thread()
    if is_interrupted:
        _WAITING.take()
    try:
        yield
    finally:
        if is_interrupted:
            _WAITING.give_back()

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
    """A block in which signals wait, and what waits. There is one, for the main thread: no other runs handlers.

    Handlers are exchanged one by one, and any that is not exchanged may raise in between. So `_receive` may be left
    where it stands: while nobody has taken the signals it is as good as the handler it stands for.
    """

    def __init__(self) -> None:
        self._usual: dict[int, _Handler] = {}
        self._noted: list[tuple[int, FrameType | None]] = []
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
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler) and handler != self._receive:  # others end or ignore, or are taken already
                    self._usual[number] = handler
                    signal.signal(number, self._receive)
        self._num_takers += 1

    def give_back(self) -> None:
        """Undo one `take`. Outside all blocks what was noted is handled, by the handlers that were there.

        All of it is; of several errors the last is raised.
        """
        errors = [] if self._num_blocks else self._handled()
        self._num_takers -= 1
        if not self._num_takers:
            try:
                for number, handler in self._usual.items():
                    if signal.getsignal(number) == self._receive:  # no handler has put another there
                        signal.signal(number, handler)
            finally:
                errors += self._handled()  # what came before the last taker went
        if errors:
            raise errors[-1]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._num_takers:
            self._noted.append((number, frame))
        else:
            self._usual[number](number, frame)

    def _handled(self) -> list[BaseException]:
        noted, self._noted = self._noted, []
        errors: list[BaseException] = []
        for number, frame in noted:
            try:
                self._usual[number](number, frame)
            except BaseException as error:  # the others must come too
                errors.append(error)
        return errors


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

    What is closed at its end is closed, whatever comes. Speed: handlers are exchanged once, and not for each of many
    short blocks, 10 us a time.
    """
    is_interrupted = threading.current_thread() is threading.main_thread()
    if is_interrupted:
        _WAITING.take()
    try:
        yield
    finally:
        if is_interrupted:
            _WAITING.give_back()

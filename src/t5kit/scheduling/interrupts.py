"""Interrupts that wait: a step is done wholly or not begun.

Python calls a signal's handler between any two bytecodes of the main thread, so also between two assignments that
belong together. Where the handler raises (KeyboardInterrupt; a training run that a signal stops), whoever closes a
search or a runtime afterwards would find rows that no longer fit each other.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let SIGINT and SIGTERM within the block, or the function decorated, take effect when it is done.

    Whatever handlers they have are called then, once for each signal, so that a program's own ones keep their meaning.
    Other threads are never interrupted, and nothing changes for them.
    """
    is_interrupted = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS} if is_interrupted else {}
    usual = {number: handler for number, handler in handlers.items() if callable(handler)}  # others end or ignore
    received: list[tuple[int, FrameType | None]] = []
    for waiting in usual:
        signal.signal(waiting, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        for waiting, handler in usual.items():
            signal.signal(waiting, handler)
        for number, frame in received:
            usual[signal.Signals(number)](number, frame)

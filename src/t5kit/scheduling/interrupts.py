"""Interrupts that wait: a step is done wholly or not begun.

Python raises KeyboardInterrupt between any two bytecodes of the main thread, so also between two assignments that
belong together; whoever closes a search or a runtime afterwards would find rows that no longer fit each other.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let an interrupt within the block, or the function decorated, take effect when it is done.

    Whatever handler SIGINT has is called then, so that a program's own one keeps its meaning. Other threads are never
    interrupted, and nothing changes for them.
    """
    usual = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(usual):  # ignored, or ending the process at once
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if received:
            usual(*received[-1])

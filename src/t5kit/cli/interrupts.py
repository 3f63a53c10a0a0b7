"""Interrupts while modules and models are loaded, where nothing is written yet.

An import may turn a KeyboardInterrupt into an error of its own or lose it in a callback, so the process ends at once
there.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import NoReturn


@contextlib.contextmanager
def interrupts_end_at_once() -> Iterator[None]:
    """Let an interrupt within the block end the process with its sentence and exit code 130."""
    usual = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _end(signal_number: int, frame: object) -> NoReturn:
    os.write(2, b"t5kit: interrupted.\n")
    os._exit(130)

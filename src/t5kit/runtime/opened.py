"""What a runtime holds for a block, and no longer, whatever ends the block."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from t5kit.runtime.adapters import NO_ADAPTER, encode_adapted
from t5kit.runtime.interrupts import interrupts_wait
from t5kit.runtime.protocol import Runtime


@contextlib.contextmanager
def encoded(
    runtime: Runtime, sequences: Sequence[np.ndarray], adapters: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Give the handles of encoded sequences; adapters: an adapter's name for each, None for none at all.

    Raises: what the runtime's `encode` does.
    """
    handles: list[int] = []
    try:
        with interrupts_wait():
            handles += encode_adapted(runtime, sequences, adapters or [NO_ADAPTER] * len(sequences))
        yield handles
    finally:
        with interrupts_wait():
            runtime.release(handles)


@contextlib.contextmanager
def opened(runtime: Runtime, handles: Sequence[int]) -> Iterator[np.ndarray]:
    """Give a slot for each handle, [N] int32. Raises: what the runtime's `open_slots` does."""
    slots = np.empty(0, np.int32)
    try:
        with interrupts_wait():
            slots = runtime.open_slots(handles)
        yield slots
    finally:
        with interrupts_wait():
            runtime.close_slots(slots)

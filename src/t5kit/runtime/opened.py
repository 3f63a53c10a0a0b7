"""What a runtime holds for a block, and no longer, whatever ends the block.

Signals that come within the block take effect at the end of its next `interrupts_wait`, or of the block.
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from t5kit.runtime.adapters import NO_ADAPTER, encode_adapted
from t5kit.runtime.interrupts import interrupts_between_blocks
from t5kit.runtime.protocol import Runtime


@contextlib.contextmanager
def encoded(
    runtime: Runtime, sequences: Sequence[np.ndarray], adapters: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Give the handles of encoded sequences; adapters: an adapter's name for each, None for none at all.

    Raises: what the runtime's `encode` does.
    """
    with interrupts_between_blocks():
        handles = encode_adapted(runtime, sequences, adapters or [NO_ADAPTER] * len(sequences))
        try:
            yield handles
        finally:
            runtime.release(handles)


@contextlib.contextmanager
def opened(runtime: Runtime, handles: Sequence[int]) -> Iterator[np.ndarray]:
    """Give a slot for each handle, [N] int32. Raises: what the runtime's `open_slots` does."""
    with interrupts_between_blocks():
        slots = runtime.open_slots(handles)
        try:
            yield slots
        finally:
            runtime.close_slots(slots)

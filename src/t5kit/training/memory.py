"""Memory of a run on a processor: what is freed goes back to the system, and what runs out is told in one sentence."""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from t5kit.errors import T5kitError
from t5kit.training.stopping import TrainingError

_SIGNS: Final = ("DefaultCPUAllocator", "out of memory", "Storage size calculation overflowed", "std::bad_alloc")
"""PyTorch has a class of its own for a GPU's memory alone; a processor's comes as a RuntimeError with these words."""


@contextlib.contextmanager
def memory_told() -> Iterator[None]:
    """Raise a TrainingError for memory that runs out in the block. Everything else passes as it is."""
    try:
        yield
    except T5kitError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _SIGNS):
            raise
        said = f" ({str(error).splitlines()[0]:.200})" if str(error) else ""
        raise TrainingError(
            f"not enough memory for this model and batch{said}. Set compute.microbatch_rows (fewer rows at a time, the "
            "same numbers), compute.recomputes_layers = true, a smaller data.batch_rows or shorter data.encoder_length "
            "and data.target_length, or a smaller model. What is saved can be resumed."
        ) from error


TRIM_EVERY: Final = 64
"""Updates between two looks at the process's memory. Speed: giving back costs some half a second a gigabyte, for pages
that the next steps fault in again; so it stays below a hundredth of the time of steps of a second."""
TRIM_GROWTH: Final = 1.25
"""Memory is given back once it is so many times what it was at the look after it was last given back."""


class HeapTrimmer:
    """Has the C library give freed memory back to the system when a run has grown.

    Batches without padding have tensors of other sizes each step, and what glibc keeps of the freed ones does not fit
    the next: without this, memory grows for hours (docs/log.md). Numbers and order of the work stay the same. A no-op
    where the C library has no `malloc_trim`, or the system does not tell a process's memory.
    """

    def __init__(
        self, *, trim: Callable[[], object] | None = None, resident_bytes: Callable[[], int] | None = None
    ) -> None:
        """trim, resident_bytes: the C library's and the system's by default."""
        self._trim = trim or heap_trim()
        self._resident_bytes = resident_bytes or resident_bytes_now
        self._usual_bytes = 0

    def after_step(self, step: int) -> None:
        """Look at the memory, if it is time to after so many updates."""
        if self._trim is None or step % TRIM_EVERY:
            return
        resident = self._resident_bytes()
        if not self._usual_bytes:
            self._usual_bytes = resident
        elif resident > TRIM_GROWTH * self._usual_bytes:
            self._trim()
            self._usual_bytes = 0  # what a run usually holds shows when it has worked again


def heap_trim() -> Callable[[], object] | None:
    """Return what gives the heap's free pages back to the system; None where the C library is not glibc."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; no library to look into; Windows
        return None
    malloc_trim.argtypes, malloc_trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: malloc_trim(0)


def resident_bytes_now() -> int:
    """Return how much memory this process holds, 0 where the system does not tell (it does on Linux)."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError, AttributeError):
        return 0

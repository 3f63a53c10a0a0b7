"""Memory that ran out, as one sentence that names the settings which need less."""

import contextlib
from collections.abc import Iterator
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

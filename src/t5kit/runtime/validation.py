"""The border checks that every runtime makes on what it is given: shapes, dtypes, id ranges and counts."""

from collections.abc import Sequence

import numpy as np

from t5kit.config import T5Config
from t5kit.errors import EngineError, RequestError
from t5kit.runtime.protocol import StepInput

CLOSED = "The runtime is closed. Load the model again to go on."
"""What every call after `close` is told, as an EngineError."""


def check_ids(ids: np.ndarray, config: T5Config, what: str, *, num_extra: int = 0) -> None:
    """Raise RequestError unless ids is a non-empty [N] integer array with every id in [0, vocab_size + num_extra)."""
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise RequestError(f"{what}: expected a one-dimensional integer array of token ids, got {type(ids).__name__}.")
    if not len(ids):
        raise RequestError(f"{what}: got no token at all, expected at least one (an empty text is EOS alone).")
    lowest, highest = _extremes(ids)
    if lowest < 0 or highest >= config.vocab_size + num_extra:
        wrong = ids[(ids < 0) | (ids >= config.vocab_size + num_extra)][0]
        raise RequestError(
            f"{what}: token id {wrong} is outside the model's vocabulary of {config.vocab_size}. "
            "Does the tokenizer belong to this model?"
        )


def _extremes(ids: np.ndarray) -> tuple[int, int]:
    """Return the least and the greatest of ids [N], N >= 1.

    Speed: a step of a text alone has a handful, and plain lists touch far less code and memory than array calls do.
    """
    if len(ids) > 64:
        return int(ids.min()), int(ids.max())
    values = ids.tolist()
    return min(values), max(values)


def check_encoder_sequences(sequences: Sequence[np.ndarray], config: T5Config, *, num_extra: int = 0) -> None:
    """Check what is to be encoded: each [S_i], S_i >= 1. num_extra: ids behind the vocabulary, of prompts."""
    for number, ids in enumerate(sequences):
        check_ids(ids, config, f"encoder input {number}", num_extra=num_extra)


def check_targets(handles: Sequence[int], targets: Sequence[np.ndarray], config: T5Config) -> None:
    """Check what is to be scored: one target for each handle, each [T_i], T_i >= 1."""
    if len(handles) != len(targets):
        raise EngineError(
            f"Scoring needs one target for each handle; got {len(handles)} handles and {len(targets)} targets."
        )
    for number, ids in enumerate(targets):
        check_ids(ids, config, f"target {number}")


def check_distinct(slots: np.ndarray) -> None:
    """Raise EngineError where a slot stands twice in one call."""
    if len(set(slots.tolist())) != len(slots):
        names, counts = np.unique(slots, return_counts=True)
        raise EngineError(f"Slot {names[counts > 1][0]} stands twice in one call; each slot may stand there once.")


def check_slots_with(slots: np.ndarray, values: np.ndarray, what: str) -> None:
    """Check that slots [R] are distinct and that there is one value, such as a parent or a length, for each."""
    if len(slots) != len(values):
        raise EngineError(f"There must be as many {what} as slots; got {len(slots)} slots and {len(values)} {what}.")
    check_distinct(slots)


def check_step(step: StepInput, config: T5Config) -> None:
    """Check one step's shapes; edits are trusted, since decoding makes them."""
    if not len(step.slots) == len(step.lengths) or not len(step.slots):
        raise EngineError(
            f"A step needs one length for each of at least one slot; got {len(step.slots)} and {len(step.lengths)}."
        )
    lengths = step.lengths.tolist()
    if min(lengths) < 1 or sum(lengths) != len(step.tokens):
        raise EngineError(f"A step's lengths must be at least 1 and sum to its {len(step.tokens)} tokens.")
    check_distinct(step.slots)
    if step.need.top_k < 1:
        raise EngineError(f"Need.top_k = {step.need.top_k} must be at least 1.")
    check_ids(step.tokens, config, "decoder tokens")

"""The runtime protocol: the one border between search, which is Python, and arithmetic, which is whatever is fastest.

Frozen: changing it needs a page in docs/decisions/. `t5kit.testing.runtime_conformance` is the suite that every
implementation passes; `t5kit.runtime.reference` is the one written for the reader.

Three kinds of integers name things that a runtime owns:

* a *handle* is one encoded prompt: its cross-attention keys and values, computed once, with a count of references;
* a *slot* is one decoder sequence: a self-attention cache that grows, and one reference on a handle;
* a *row* is one slot's part in one step.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from t5kit.config import T5Config
from t5kit.runtime.edits import LogitEdits


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a step must give back; everything asked for costs time, so the default asks for the best id alone."""

    top_k: int = 1
    """Candidates a row, at least 1."""
    logits: bool = False
    """Dense edited logits, [Q, V] float32: 128 kB a row at T5's vocabulary, so only for sampling without top_k."""
    all_positions: bool = False
    """One output row for every new token (speculation, scoring), not only for each row's last one."""
    cross_attention: bool = False
    """Cross-attention weights of every layer and head."""
    hidden: bool = False
    """Decoder states after the final norm, before the head's scaling."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepInput:
    """New tokens for R slots, ragged: row i brings `lengths[i]` tokens, stored one after another in `tokens`.

    Shapes: slots [R] int32, distinct; tokens [N] int32; lengths [R] int32, each at least 1, summing to N.
    A fresh slot must first be fed the decoder start token (`config.decoder_start_id`); nothing is added by the runtime.
    """

    slots: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    edits: Mapping[int, LogitEdits] = dataclasses.field(default_factory=dict)
    """Output row -> its edits; rows without edits are absent."""
    need: Need = dataclasses.field(default_factory=Need)

    @classmethod
    def one_token_each(
        cls,
        slots: np.ndarray,
        tokens: np.ndarray,
        *,
        edits: Mapping[int, LogitEdits] | None = None,
        need: Need | None = None,
    ) -> "StepInput":
        """Return the usual decoding step: one token for each slot. Shapes: slots [R], tokens [R], both int32."""
        return cls(
            slots=slots, tokens=tokens, lengths=np.ones(len(slots), np.int32), edits=edits or {}, need=need or Need()
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepOutput:
    """The result of one step: Q output rows, Q = R, or N with `need.all_positions`, in the order of the input."""

    top_ids: np.ndarray
    """[Q, k] int32, best first by edited logit, the lower id first where logits are equal; -1 where fewer than k are
    left."""
    top_logits: np.ndarray
    """[Q, k] float32, edited, exact; -inf beside -1."""
    log_sum_exp: np.ndarray
    """[Q] float32: natural log of the sum of exp of the *unedited* logits over the whole vocabulary (padding rows too),
    so that `top_logits - log_sum_exp` is the model's own log-probability wherever no edit moved the logit. Exact, or
    within `RuntimeDescription.log_sum_exp_bound`."""
    logits: np.ndarray | None = None
    """[Q, V] float32, edited; with need.logits."""
    cross_attention: tuple[np.ndarray, ...] | None = None
    """A [num_decoder_layers, H, n_i, S_i] float32 for each of the R rows; with need.cross_attention."""
    hidden: np.ndarray | None = None
    """[Q, D] float32; with need.hidden."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeDescription:
    """What a runtime is, for reports and error messages."""

    engine: str
    """native, torch or reference; a native one names its kernels, as in 'native (avx512)'."""
    weights: str
    """float32, bfloat16, float16, int8 or int4."""
    threads: int
    """Processor threads it uses; 0 where the library decides."""
    log_sum_exp_bound: float = 0.0
    """Largest error of `log_sum_exp` against this runtime's own dense logits, in nats; 0.0 where it is exact."""


class Runtime(Protocol):
    """One loaded model. Not thread-safe: one caller at a time; a call may use many threads inside.

    Raises, in every method: EngineError for a handle or slot that is not open, for a call that contradicts itself, and
    for any call after `close`; ids out of [0, V) are a RequestError. A refused call has changed nothing.
    """

    config: T5Config
    description: RuntimeDescription

    def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
        """Run the encoder over ragged ids, each [S_i] int32 with S_i >= 1, and return one new handle for each.

        A handle is born with one reference. The result for a text does not depend on its neighbours beyond rounding.
        """
        ...

    def encoder_states(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the encoder's final states, each [S_i, D] float32, and keep nothing."""
        ...

    def retain(self, handles: Sequence[int]) -> None:
        """Add one reference to each handle."""
        ...

    def release(self, handles: Sequence[int]) -> None:
        """Drop one reference from each handle; at zero its memory is freed and the handle is closed."""
        ...

    def open_slots(self, handles: Sequence[int]) -> np.ndarray:
        """Return one fresh empty slot for each handle, [R] int32; each holds a reference on its handle."""
        ...

    def close_slots(self, slots: np.ndarray) -> None:
        """Free slots [R], distinct, and their references on handles."""
        ...

    def fork_slots(self, slots: np.ndarray) -> np.ndarray:
        """Return a new slot for each given one (repeats allowed), [R] int32, with the same past and handle."""
        ...

    def reorder_slots(self, slots: np.ndarray, parents: np.ndarray) -> None:
        """Make slots[i] continue the past of parents[i], all at once as if read before any was written.

        Shapes: slots [R] distinct, parents [R] any open slots on the same handle as slots[i].
        """
        ...

    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        """Cut each slot's past to `lengths[i]` tokens, at most what it holds (speculation undoes rejected drafts).

        Shapes: slots [R] distinct, lengths [R].
        """
        ...

    def slot_lengths(self, slots: np.ndarray) -> np.ndarray:
        """Return how many tokens each slot has been fed, [R] int32."""
        ...

    def step(self, step: StepInput) -> StepOutput:
        """Feed new tokens and return what `step.need` asks for. Each row's result is as if it were stepped alone."""
        ...

    def score(self, handles: Sequence[int], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the natural log-probability of every target token given its prompt and the tokens before it.

        Shapes: one target for each handle, [T_i] int32 without the start token, EOS included by the caller -> each
        [T_i] float32.
        """
        ...

    def close(self) -> None:
        """Free everything; the runtime cannot be used afterwards. Calling it twice is allowed."""
        ...

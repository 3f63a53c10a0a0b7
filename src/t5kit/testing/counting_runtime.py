"""A runtime around another that keeps count of what is open, to show that nothing is left behind."""

import collections
from collections.abc import Sequence

import numpy as np

from t5kit.runtime import Runtime, StepInput, StepOutput


class CountingRuntime:
    """The `Runtime` protocol passed on to `runtime`, with a count of what is open and of what was done."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.config = runtime.config
        self.description = runtime.description
        self.references: collections.Counter[int] = collections.Counter()
        """References on handles that a caller has and has not released; slots' own are not among them."""
        self.open_slot_ids: set[int] = set()
        self.num_encoded = 0
        """Prompts encoded so far."""
        self.num_steps = 0
        self.num_rows = 0
        """Rows fed so far."""

    @property
    def has_nothing_open(self) -> bool:
        """Every handle has been released and every slot closed."""
        return not self.open_slot_ids and not any(self.references.values())

    def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
        handles = self._runtime.encode(sequences)
        self.references.update(handles)
        self.num_encoded += len(handles)
        return handles

    def encoder_states(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._runtime.encoder_states(sequences)

    def retain(self, handles: Sequence[int]) -> None:
        self._runtime.retain(handles)
        self.references.update(handles)

    def release(self, handles: Sequence[int]) -> None:
        self._runtime.release(handles)
        self.references.subtract(handles)

    def open_slots(self, handles: Sequence[int]) -> np.ndarray:
        slots = self._runtime.open_slots(handles)
        self.open_slot_ids.update(slots.tolist())
        return slots

    def close_slots(self, slots: np.ndarray) -> None:
        self._runtime.close_slots(slots)
        self.open_slot_ids.difference_update(slots.tolist())

    def fork_slots(self, slots: np.ndarray) -> np.ndarray:
        forks = self._runtime.fork_slots(slots)
        self.open_slot_ids.update(forks.tolist())
        return forks

    def reorder_slots(self, slots: np.ndarray, parents: np.ndarray) -> None:
        self._runtime.reorder_slots(slots, parents)

    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        self._runtime.rollback_slots(slots, lengths)

    def slot_lengths(self, slots: np.ndarray) -> np.ndarray:
        return self._runtime.slot_lengths(slots)

    def step(self, step: StepInput) -> StepOutput:
        self.num_steps += 1
        self.num_rows += len(step.slots)
        return self._runtime.step(step)

    def score(self, handles: Sequence[int], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._runtime.score(handles, targets)

    def close(self) -> None:
        self._runtime.close()

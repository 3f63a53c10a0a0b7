"""A runtime that computes nothing: what it costs to run over it is what search and scheduling cost."""

from collections.abc import Sequence

import numpy as np

from t5kit.config import T5Config
from t5kit.errors import EngineError
from t5kit.runtime import RuntimeDescription, StepInput, StepOutput

_NUM_OUTPUTS = 1024


class NullRuntime:
    """The `Runtime` protocol answering at once with prepared random candidates, plausible in shape and scale.

    Edits are ignored. A row's best candidate is EOS once in `mean_length` steps; None: never. The prepared outputs are
    handed out in turn, so that answers differ between rows and steps. `max_rows` and `max_top_k` bound a step.
    """

    def __init__(
        self,
        config: T5Config,
        *,
        mean_length: int | None = None,
        max_rows: int = _NUM_OUTPUTS,
        max_top_k: int = 64,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.description = RuntimeDescription(engine="null", weights="float32", threads=1)
        generator = np.random.Generator(np.random.Philox(seed))
        num_outputs = max(_NUM_OUTPUTS, 2 * max_rows)
        # Candidates are distinct ids above EOS: a random start and a stride.
        starts = generator.integers(0, config.vocab_size, (num_outputs, 1))
        offsets = np.arange(max_top_k) * 7
        self._top_ids = (2 + (starts + offsets) % (config.vocab_size - 2)).astype(np.int32)
        self._top_logits = -np.sort(-generator.normal(0, 3, (num_outputs, max_top_k)).astype(np.float32), axis=1)
        self._log_sum_exp = self._top_logits[:, 0] + generator.uniform(0.05, 2, num_outputs).astype(np.float32)
        if mean_length is not None:
            self._top_ids[generator.random(num_outputs) < 1 / mean_length, 0] = config.eos_id
        self._max_rows, self._turn = max_rows, 0
        self._num_handles = self._num_slots = 0

    def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
        self._num_handles += len(sequences)
        return list(range(self._num_handles - len(sequences), self._num_handles))

    def encoder_states(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.zeros((len(ids), self.config.d_model), np.float32) for ids in sequences]

    def retain(self, handles: Sequence[int]) -> None:
        """Nothing is counted."""

    def release(self, handles: Sequence[int]) -> None:
        """Nothing is freed."""

    def open_slots(self, handles: Sequence[int]) -> np.ndarray:
        self._num_slots += len(handles)
        return np.arange(self._num_slots - len(handles), self._num_slots, dtype=np.int32)

    def close_slots(self, slots: np.ndarray) -> None:
        """Nothing is freed."""

    def fork_slots(self, slots: np.ndarray) -> np.ndarray:
        return self.open_slots(slots.tolist())

    def reorder_slots(self, slots: np.ndarray, parents: np.ndarray) -> None:
        """Nothing is moved."""

    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        """Nothing is cut."""

    def slot_lengths(self, slots: np.ndarray) -> np.ndarray:
        raise EngineError("The null runtime keeps no past, so its slots have no length.")

    def step(self, step: StepInput) -> StepOutput:
        num_rows = len(step.tokens) if step.need.all_positions else len(step.slots)
        if num_rows > self._max_rows:
            raise EngineError(f"The null runtime was made for {self._max_rows} rows a step and got {num_rows}.")
        self._turn = (self._turn + num_rows + 1) % (len(self._log_sum_exp) - num_rows)
        rows = slice(self._turn, self._turn + num_rows)
        logits = None
        if step.need.logits:
            logits = np.full((num_rows, self.config.vocab_size), -20, np.float32)
            np.put_along_axis(logits, self._top_ids[rows], self._top_logits[rows], axis=1)
        return StepOutput(
            top_ids=self._top_ids[rows, : step.need.top_k],
            top_logits=self._top_logits[rows, : step.need.top_k],
            log_sum_exp=self._log_sum_exp[rows],
            logits=logits,
            hidden=np.zeros((num_rows, self.config.d_model), np.float32) if step.need.hidden else None,
        )

    def score(self, handles: Sequence[int], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.full(len(target), -1, np.float32) for target in targets]

    def close(self) -> None:
        """Nothing is open."""

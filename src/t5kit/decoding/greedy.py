"""Greedy decoding: the best token, always."""

from collections.abc import Sequence

import numpy as np

from t5kit.decoding.search import SearchRequest
from t5kit.runtime import Need, StepOutput


class GreedyChooser:
    """Takes each row's best candidate; of equal ones the lowest id, as the runtime orders them."""

    _need = Need()

    def admit(self, requests: Sequence[SearchRequest]) -> None:
        """Nothing has to be known of a row."""

    def keep(self, rows: np.ndarray) -> None:
        """Nothing is kept."""

    def need(self) -> Need:
        """Return the default: the best id alone."""
        return self._need

    def choose(
        self, output: StepOutput, positions: np.ndarray, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best ids [Q] int32 and their edited logits [Q] float32."""
        return output.top_ids[:, 0], output.top_logits[:, 0]

"""One vector for a text from the encoder's states."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from t5kit.checkpoint.sentence_modules import PoolingMode

Pooling = Literal["mean", "first", "last", "max"]
"""What a caller can ask for by name; a folder's own modules may ask for more."""


def pool(states_SD: np.ndarray, modes: Sequence[PoolingMode]) -> np.ndarray:
    """Return a text's states [S, D] as one vector, one after the other for each mode: [D * len(modes)]."""
    return np.concatenate([_pooled(states_SD, mode) for mode in modes])


def _pooled(states_SD: np.ndarray, mode: PoolingMode) -> np.ndarray:
    match mode:
        case "mean":
            vector = states_SD.mean(axis=0)
        case "max":
            vector = states_SD.max(axis=0)
        case "first":
            vector = states_SD[0]
        case "last":
            vector = states_SD[-1]
        case "mean_sqrt_len":
            vector = states_SD.sum(axis=0) / np.sqrt(np.float32(len(states_SD)))
        case "weighted_mean":
            weights_S = np.arange(1, len(states_SD) + 1, dtype=np.float32)
            vector = weights_S @ states_SD / weights_S.sum()
    return np.asarray(vector)

"""One vector for a text from the encoder's states."""

from typing import Literal

import numpy as np

Pooling = Literal["mean", "first", "last", "max"]


def pool(states_SD: np.ndarray, pooling: Pooling) -> np.ndarray:
    """Return the mean, maximum, first or last of a text's states [S, D] as one vector [D]."""
    match pooling:
        case "mean":
            return states_SD.mean(axis=0)
        case "max":
            return states_SD.max(axis=0)
        case "first":
            return states_SD[0]
        case "last":
            return states_SD[-1]

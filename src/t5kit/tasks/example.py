"""Example: what tasks hand to data, one training pair as token ids."""

import dataclasses
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from t5kit.errors import DataError

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One source and its target, never padded.

    Shapes: encoder_ids [S] int32, target_ids [T] int32 (both end in EOS), loss_weights [T] float32.
    A target id with weight 0 is fed to the decoder but not learnt.
    """

    encoder_ids: IntArray
    target_ids: IntArray
    loss_weights: FloatArray

    def __post_init__(self) -> None:
        if self.target_ids.shape != self.loss_weights.shape or self.encoder_ids.ndim != 1 or self.target_ids.ndim != 1:
            raise DataError(
                f"an example has encoder ids {self.encoder_ids.shape}, target ids {self.target_ids.shape} and "
                f"loss weights {self.loss_weights.shape}; expected [S], [T] and [T]."
            )

    @classmethod
    def with_full_loss(cls, encoder_ids: npt.NDArray[Any], target_ids: npt.NDArray[Any]) -> Self:
        """Return the example in which every target id, EOS included, is learnt with weight 1."""
        return cls(
            encoder_ids=encoder_ids.astype(np.int32, copy=False),
            target_ids=target_ids.astype(np.int32, copy=False),
            loss_weights=np.ones(len(target_ids), np.float32),
        )

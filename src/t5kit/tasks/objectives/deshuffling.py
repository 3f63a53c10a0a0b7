"""Deshuffling: put the tokens of a text back in order."""

import dataclasses

import numpy as np

from t5kit.tasks.example import Example, IntArray
from t5kit.tasks.objectives.denoising import DenoisingIds, check_length, with_eos


@dataclasses.dataclass(frozen=True, slots=True)
class Deshuffling:
    """Read a random permutation of the text's tokens, write the text. Source: Raffel et al. 2020, section 3.3.1."""

    def corrupt(self, ids: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> Example:
        """Return the pair for ids [N], N >= 1."""
        check_length(ids, at_least=1, objective="deshuffling")
        return Example.with_full_loss(with_eos(rng.permutation(ids), denoising_ids), with_eos(ids, denoising_ids))

    def restore(self, example: Example, denoising_ids: DenoisingIds) -> IntArray:
        """Return the text that `corrupt` took."""
        return example.target_ids[:-1]

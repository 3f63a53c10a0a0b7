"""Prefix and full language modelling in an encoder-decoder."""

import dataclasses

import numpy as np

from t5kit.tasks.example import Example, IntArray
from t5kit.tasks.objectives.denoising import DenoisingIds, check_length, with_eos


@dataclasses.dataclass(frozen=True, slots=True)
class PrefixLanguageModeling:
    """Read the first part of a text and continue it; the length of the first part is uniform over 1 … N - 1.

    Source: t5's prefix_lm (`random_prefix_noise_mask`).
    """

    def corrupt(self, ids: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> Example:
        """Return the pair for ids [N], N >= 2: together the two sides are the text."""
        check_length(ids, at_least=2, objective="prefix language modelling")
        split = int(rng.integers(1, len(ids)))
        return Example.with_full_loss(with_eos(ids[:split], denoising_ids), with_eos(ids[split:], denoising_ids))

    def restore(self, example: Example, denoising_ids: DenoisingIds) -> IntArray:
        """Return the text that `corrupt` took."""
        return np.concatenate([example.encoder_ids[:-1], example.target_ids[:-1]])


@dataclasses.dataclass(frozen=True, slots=True)
class FullLanguageModeling:
    """Write the whole text from an encoder that sees EOS alone."""

    def corrupt(self, ids: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> Example:
        """Return the pair for ids [N], N >= 1; nothing is drawn."""
        check_length(ids, at_least=1, objective="full language modelling")
        return Example.with_full_loss(with_eos(ids[:0], denoising_ids), with_eos(ids, denoising_ids))

    def restore(self, example: Example, denoising_ids: DenoisingIds) -> IntArray:
        """Return the text that `corrupt` took."""
        return example.target_ids[:-1]

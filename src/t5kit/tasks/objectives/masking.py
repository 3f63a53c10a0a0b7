"""Mask-and-reconstruct objectives: noise tokens are masked, replaced, kept or dropped."""

import dataclasses
from typing import Literal

import numpy as np

from t5kit.errors import ConfigError, DataError
from t5kit.tasks.example import Example, IntArray
from t5kit.tasks.objectives.denoising import DenoisingIds, check_length, first_of_each_span, with_eos

NUM_RESERVED_IDS = 3
"""pad, EOS and unknown are never drawn as random replacements (t5: num_reserved_tokens=3)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Masking:
    """Draw tokens as noise independently and hide them; the first sentinel is the one mask.

    noise: "mask" puts the mask for every noise token, but a random token for random_share of them and the token itself
    for keep_share: BERT's 80/10/10 is random_share=0.1, keep_share=0.1; the T5 paper's BERT-style is 90/10/0 (the
    default), its MASS-style 100/0/0. "span" puts one mask for a whole run of noise, "drop" nothing at all.
    targets: "all" is the whole text, which makes every choice invertible; "noise" the noise tokens alone, in order.
    Source: Raffel et al. 2020, table 3 and section 3.3.2; t5/data/preprocessors.py.
    """

    noise_density: float = 0.15
    """Chance of each token, above 0 and below 1."""
    noise: Literal["mask", "span", "drop"] = "mask"
    targets: Literal["all", "noise"] = "all"
    random_share: float = 0.1
    """Share of noise tokens replaced by a random token; only for noise="mask"."""
    keep_share: float = 0.0
    """Share of noise tokens left as they are; only for noise="mask"."""

    def __post_init__(self) -> None:
        if not 0.0 < self.noise_density < 1.0:
            raise ConfigError(f"masking.noise_density = {self.noise_density} must be above 0 and below 1.")
        if min(self.random_share, self.keep_share) < 0.0 or self.random_share + self.keep_share > 1.0:
            raise ConfigError(
                f"masking.random_share = {self.random_share} and masking.keep_share = {self.keep_share} must be at "
                "least 0 and together at most 1."
            )
        if self.noise not in ("mask", "span", "drop"):
            raise ConfigError(f"masking.noise = {self.noise!r} must be one of mask, span, drop.")
        if self.targets not in ("all", "noise"):
            raise ConfigError(f"masking.targets = {self.targets!r} must be one of all, noise.")

    def corrupt(self, ids: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> Example:
        """Return the pair for ids [N], N >= 1."""
        check_length(ids, at_least=1, objective="masking")
        is_noise = rng.random(len(ids)) < self.noise_density
        mask_id = denoising_ids.sentinel_ids[0]
        if self.noise == "drop":
            hidden = ids[~is_noise]
        elif self.noise == "span":
            is_first = first_of_each_span(is_noise[None])[0]
            hidden = np.where(is_noise, mask_id, ids)[~is_noise | is_first]
        else:
            fate = rng.random(len(ids))  # below random_share: random; then keep_share: kept; else masked
            random_ids = rng.integers(NUM_RESERVED_IDS, denoising_ids.vocab_size, len(ids), np.int32)
            is_random = is_noise & (fate < self.random_share)
            is_masked = is_noise & (fate >= self.random_share + self.keep_share)
            hidden = np.where(is_masked, mask_id, np.where(is_random, random_ids, ids))
        target = ids if self.targets == "all" else ids[is_noise]
        return Example.with_full_loss(with_eos(hidden, denoising_ids), with_eos(target, denoising_ids))

    def restore(self, example: Example, denoising_ids: DenoisingIds) -> IntArray:
        """Return the text that `corrupt` took. Raises: DataError for targets="noise", which do not tell it."""
        if self.targets != "all":
            raise DataError('masking.targets = "noise" leaves out where its tokens stood: the text cannot be restored.')
        return example.target_ids[:-1]

"""T5's denoising objectives: corruption of random spans, and of independently drawn tokens."""

import dataclasses
import math

import numpy as np

from t5kit.errors import ConfigError
from t5kit.tasks.example import Example, IntArray
from t5kit.tasks.objectives.denoising import (
    BoolArray,
    DenoisingIds,
    check_length,
    restore_spans,
    spans_to_sentinels,
)


@dataclasses.dataclass(frozen=True, slots=True)
class SpanCounts:
    """How many tokens and spans of a text of some length become noise."""

    num_noise_tokens: int
    num_spans: int


@dataclasses.dataclass(frozen=True, slots=True)
class SpanCorruption:
    """Replace random spans by sentinels; the targets are the spans behind their sentinels.

    Equal in distribution and in every count to t5's `random_spans_noise_mask`: kept text first, noise last, the lengths
    of the spans and of the gaps each a uniformly random composition.
    Source: Raffel et al. 2020, section 3.1.4; t5/data/preprocessors.py.
    Example: [a b c d e f] with spans of lengths 1 and 2 -> [a <X> c d <Y> </s>], [<X> b <Y> e f </s>]
    """

    noise_density: float = 0.15
    """Share of tokens, above 0 and below 1."""
    mean_span_length: float = 3.0
    """Tokens, at least 1. mT5 uses 3, ByT5 20."""

    def __post_init__(self) -> None:
        if not 0.0 < self.noise_density < 1.0:
            raise ConfigError(f"span_corruption.noise_density = {self.noise_density} must be above 0 and below 1.")
        if not self.mean_span_length >= 1.0:
            raise ConfigError(f"span_corruption.mean_span_length = {self.mean_span_length} must be at least 1 token.")

    def counts(self, num_tokens: int) -> SpanCounts:
        """Return the counts for a text of num_tokens >= 2 tokens; they depend on nothing else."""
        # Numerics: t5 multiplies in float32 and rounds halves to even, as np.round does.
        noise = int(np.round(np.float32(num_tokens) * np.float32(self.noise_density)))
        noise = min(max(noise, 1), num_tokens - 1)
        spans = max(int(np.round(np.float32(noise) / np.float32(self.mean_span_length))), 1)
        # Where nearly all is noise, t5 may ask for more gaps than kept tokens and then miscounts; here one token a gap.
        return SpanCounts(num_noise_tokens=noise, num_spans=min(spans, num_tokens - noise))

    def lengths(self, num_tokens: int) -> tuple[int, int]:
        """Return the lengths of the encoder's and the target's ids, EOS included, for a text of num_tokens."""
        counts = self.counts(num_tokens)
        kept = num_tokens - counts.num_noise_tokens
        return kept + counts.num_spans + 1, counts.num_noise_tokens + counts.num_spans + 1

    def raw_length(self, encoder_length: int) -> int:
        """Return how many tokens of text fill an encoder of encoder_length: 512 -> 568, with targets of 114.

        The number is t5's `random_spans_helper`: the longest text whose encoder side still fits, one less at a density
        of exactly one half where the target would come out longer than the encoder. Below about 200 tokens with long
        spans t5's helper counts no span where its mask makes one, and so overfills the encoder by one; this does not.
        Raises: ConfigError if not even two tokens fit.
        """
        num_tokens = encoder_length - 1  # always fits: a span never has fewer tokens than sentinels
        if num_tokens < 2:
            raise ConfigError(
                f"data.encoder_length = {encoder_length} is too short for span corruption; use at least 8."
            )
        while self.lengths(num_tokens + 1)[0] <= encoder_length and self._helper_fits(num_tokens + 1, encoder_length):
            num_tokens += 1
        if self.noise_density == 0.5 and self.lengths(num_tokens)[1] > encoder_length:
            num_tokens -= 1
        return num_tokens

    def _helper_fits(self, num_tokens: int, encoder_length: int) -> bool:
        """Say whether t5's helper, which rounds in double precision, finds the text short enough."""
        noise = round(num_tokens * self.noise_density)
        return num_tokens - noise + round(noise / self.mean_span_length) + 1 <= encoder_length

    def noise_mask(self, num_rows: int, num_tokens: int, *, rng: np.random.Generator) -> BoolArray:
        """Return [R, N], true on noise: as many rows as asked, each drawn by itself."""
        counts = self.counts(num_tokens)
        gap_RS = _random_composition(num_rows, num_tokens - counts.num_noise_tokens, counts.num_spans, rng=rng)
        noise_RS = _random_composition(num_rows, counts.num_noise_tokens, counts.num_spans, rng=rng)
        # Noise span j starts behind the gaps 0 … j and the noise 0 … j - 1, and ends behind noise j.
        end_RS = np.cumsum(gap_RS + noise_RS, axis=1)
        change_RN = np.zeros((num_rows, num_tokens + 1), np.int8)
        np.put_along_axis(change_RN, end_RS - noise_RS, 1, axis=1)
        np.put_along_axis(change_RN, end_RS, -1, axis=1)
        return np.cumsum(change_RN[:, :-1], axis=1, dtype=np.int8).astype(np.bool_)

    def corrupt(self, ids: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> Example:
        """Return the pair for one text, ids [N] without EOS. Raises: DataError if N < 2."""
        return self.corrupt_rows(np.atleast_2d(ids), denoising_ids=denoising_ids, rng=rng)[0]

    def corrupt_rows(self, ids_RN: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> list[Example]:
        """Return the pairs of many texts of one length.

        Speed: 23,500 examples a second of 568 tokens on one core against 4,500 by row-by-row calls and 4,500 by a
        masking collator of batches (bench/data_path.py, 2 cores of an x86-64 server).
        """
        check_length(ids_RN[0], at_least=2, objective="span corruption")
        is_noise_RN = self.noise_mask(*ids_RN.shape, rng=rng)
        encoder_RS, target_RT = spans_to_sentinels(ids_RN, is_noise_RN, denoising_ids)
        weights_T = np.ones(target_RT.shape[1], np.float32)
        return [Example(encoder, target, weights_T) for encoder, target in zip(encoder_RS, target_RT, strict=True)]

    def restore(self, example: Example, denoising_ids: DenoisingIds) -> IntArray:
        """Return the text that `corrupt` took."""
        return restore_spans(example, denoising_ids)


@dataclasses.dataclass(frozen=True, slots=True)
class IidCounts:
    """How many sentinels a text may need, and how long its targets may get, EOS included."""

    num_spans: int
    target_length: int


@dataclasses.dataclass(frozen=True, slots=True)
class IidDenoising:
    """Draw every token as noise by itself; neighbouring noise tokens share one sentinel.

    Each run of noise stands in the targets behind the sentinel that replaced it. T5: its own i.i.d. targets put
    sentinels for the kept runs instead, so theirs are off by one where a text starts with noise; ours always match.
    """

    noise_density: float = 0.15
    """Chance of each token, above 0 and below 1."""

    def __post_init__(self) -> None:
        if not 0.0 < self.noise_density < 1.0:
            raise ConfigError(f"iid_denoising.noise_density = {self.noise_density} must be above 0 and below 1.")

    def most(self, num_tokens: int) -> "IidCounts":
        """Return the most that a text of num_tokens makes, but for one draw in some ten thousand.

        With noise density p, a token that is noise opens a run if the one before is none: it does with p (1 - p), so a
        token adds p (2 - p) ids to the targets on average. The bounds are four standard deviations above the means;
        neighbours are correlated negatively, which only makes the true deviations smaller.
        """
        p = self.noise_density
        run, added = p * (1 - p), p * (2 - p)
        runs = num_tokens * run + 1 + 4 * math.sqrt(num_tokens * run * (1 - run))
        ids = num_tokens * added + 1 + 4 * math.sqrt(num_tokens * (p * (4 - 3 * p) - added**2))
        return IidCounts(
            num_spans=min(math.ceil(runs), (num_tokens + 1) // 2),
            target_length=min(math.ceil(ids), num_tokens + 1) + 1,
        )

    def corrupt(self, ids: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> Example:
        """Return the pair for ids [N], N >= 1; a draw without noise has a target of EOS alone."""
        check_length(ids, at_least=1, objective="i.i.d. denoising")
        is_noise_1N = (rng.random(len(ids)) < self.noise_density)[None]
        encoder_1S, target_1T = spans_to_sentinels(ids[None], is_noise_1N, denoising_ids)
        return Example.with_full_loss(encoder_1S[0], target_1T[0])

    def restore(self, example: Example, denoising_ids: DenoisingIds) -> IntArray:
        """Return the text that `corrupt` took."""
        return restore_spans(example, denoising_ids)


def _random_composition(
    num_rows: int, total: int, num_parts: int, *, rng: np.random.Generator
) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """Return [R, num_parts] positive integers, each row summing to total, every such row equally likely.

    A composition is a choice of num_parts - 1 cuts among the total - 1 places between items.
    """
    cut_RS = np.empty((num_rows, num_parts + 1), np.int64)
    cut_RS[:, 0], cut_RS[:, -1] = 0, total
    if num_parts > 1:
        # Speed: the places of the smallest of random numbers are a random choice; partitioning is linear in total.
        place_RT = rng.random((num_rows, total - 1)).argpartition(num_parts - 2, axis=1)
        cut_RS[:, 1:-1] = np.sort(place_RT[:, : num_parts - 1], axis=1) + 1
    return np.diff(cut_RS, axis=1)

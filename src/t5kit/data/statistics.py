"""What a run's data look like before the run: lengths, padding, shares and losses of some batches."""

import dataclasses
import itertools

import numpy as np

from t5kit.data.loading import BatchLoader
from t5kit.data.streams import MixShare
from t5kit.errors import DataError


@dataclasses.dataclass(frozen=True, slots=True)
class LengthStatistics:
    """Lengths of one side in ids, EOS included, after cutting; padding is a share of all positions, 0 to 1."""

    shortest: int
    median: int
    percentile_95: int
    longest: int
    mean: float
    padding: float


@dataclasses.dataclass(frozen=True, slots=True)
class DataStatistics:
    """What some batches hold."""

    num_batches: int
    num_examples: int
    encoder: LengthStatistics
    target: LengthStatistics
    num_truncated: int
    num_dropped: int
    shares: tuple[MixShare, ...]
    """What each source gave; of the windows taken, which may reach beyond the batches looked at."""

    def balanced_target_length(self, encoder_length: int) -> int:
        """Return the target length at which packed rows of encoder_length would fill on both sides alike."""
        return max(self.target.longest, round(encoder_length * self.target.mean / self.encoder.mean))

    def __str__(self) -> str:
        lines = [
            f"{self.num_examples:,} examples in {self.num_batches:,} batches, {self.num_truncated:,} cut, "
            f"{self.num_dropped:,} left out"
        ]
        for name, side in (("encoder", self.encoder), ("target", self.target)):
            lines.append(
                f"{name:8} {side.shortest} … {side.longest} ids, median {side.median}, mean {side.mean:.1f}, "
                f"95 % up to {side.percentile_95}; {100 * side.padding:.1f} % padding"
            )
        total = max(1, sum(share.num_examples for share in self.shares))
        for number, share in enumerate(self.shares):
            lines.append(f"source {number}: {100 * share.num_examples / total:.1f} %, {share.num_bad:,} bad records")
        return "\n".join(lines)


def measure(loader: BatchLoader, *, num_batches: int) -> DataStatistics:
    """Return the statistics of the next batches, which are used up; take a loader of its own.

    Raises: DataError if there is no batch.
    """
    lengths: tuple[list[int], list[int]] = ([], [])
    positions = [0, 0]
    seen = 0
    for batch in itertools.islice(loader, num_batches):
        seen += 1
        for side, segments_BL in enumerate((batch.encoder_segment_ids, batch.decoder_segment_ids)):
            positions[side] += segments_BL.size
            for row in segments_BL:
                lengths[side].extend(np.bincount(row)[1:].tolist())
    if not seen:
        raise DataError("there is no batch to measure: the data is empty, or num_batches below 1.")
    encoder, target = (_lengths(values, count) for values, count in zip(lengths, positions, strict=True))
    return DataStatistics(
        num_batches=seen,
        num_examples=len(lengths[0]),
        encoder=encoder,
        target=target,
        num_truncated=loader.num_truncated,
        num_dropped=loader.num_dropped,
        shares=tuple(loader.shares()),
    )


def _lengths(values: list[int], num_positions: int) -> LengthStatistics:
    median, percentile_95 = np.percentile(values, [50, 95], method="nearest").tolist()
    return LengthStatistics(
        shortest=min(values),
        median=int(median),
        percentile_95=int(percentile_95),
        longest=max(values),
        mean=sum(values) / len(values),
        padding=1.0 - sum(values) / num_positions,
    )

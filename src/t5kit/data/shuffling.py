"""Order as a function of the seed alone: shuffled record numbers, and generators by place instead of by history."""

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

NUM_ROUNDS = 6


def generator_at(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """Return the generator of one place in a run: the same wherever and whenever it is asked for.

    purpose tells the users of one seed apart, place (up to two numbers) is where in the data the draws are made.
    """
    first, second = (*place, 0, 0)[:2]
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, first, second], np.uint64)))


def shuffled_indices(positions: Indices, num_records: int, *, seed: int, epoch: int) -> Indices:
    """Return which records stand at these positions of a shuffled epoch; all positions together give each record once.

    Shapes: positions [N], each 0 … num_records - 1 -> [N]. Nothing is stored: a Feistel network permutes the next power
    of four, and numbers beyond num_records walk on until they land below it (fewer than four steps on average).
    """
    half_bits = max(1, -(-(num_records - 1).bit_length() // 2))
    half_mask = np.uint64((1 << half_bits) - 1)
    round_keys = generator_at(seed, 1, epoch).integers(2**63, size=NUM_ROUNDS, dtype=np.uint64)
    values = positions.astype(np.uint64)
    is_outside = np.ones(len(values), np.bool_)
    while is_outside.any():
        left, right = values[is_outside] >> np.uint64(half_bits), values[is_outside] & half_mask
        for key in round_keys:
            left, right = right, left ^ (_mix(right ^ key) & half_mask)
        values[is_outside] = (left << np.uint64(half_bits)) | right
        is_outside = values >= num_records
    return values.astype(np.int64)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scatter 64-bit numbers: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

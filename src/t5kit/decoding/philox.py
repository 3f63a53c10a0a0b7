"""Random numbers that depend on what is asked and on nothing else: Philox4x32-10, keyed by seed, prompt and stream.

A generator with a state would make an answer depend on which texts were drawn for before it. Philox has none: it is a
function from (key, counter) to 128 random bits. The key and half of the counter are a hash of the seed, the prompt's
ids and the sample's number; the other half of the counter is the token's position. So the same prompt under the same
seed gives the same draws in any batch, in any order, after any number of other draws.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

import hashlib
import secrets

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))  # Salmon et al. 2011, Random123 philox.h
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, as there
_NUM_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def fresh_seed() -> int:
    """Return a seed that nobody can foresee, in [0, 2^64)."""
    return secrets.randbits(64)


def stream_key(seed: int, encoder_input_ids: np.ndarray, sample_stream: int, sample_index: int) -> np.ndarray:
    """Return the identity of one sample's random numbers, [4] uint64 below 2^32.

    encoder_input_ids [S]; sample_stream tells apart equal prompts, sample_index the answers of one request.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.array([seed, sample_stream, sample_index], "<u8").tobytes())
    digest.update(np.ascontiguousarray(encoder_input_ids, "<i4").tobytes())
    return np.frombuffer(digest.digest(), "<u4").astype(np.uint64)


def uniforms(keys_R4: np.ndarray, positions_R: np.ndarray) -> np.ndarray:
    """Return one number in [0, 1) for each row, [R] float64 with 53 random bits, for the token at `positions_R` [R]."""
    positions = positions_R.astype(np.uint64)
    counters = np.stack([positions & _LOW, positions >> _HALF, keys_R4[:, 2], keys_R4[:, 3]], axis=1)
    words_R4 = philox4x32(counters, keys_R4[:, :2])
    high, low = words_R4[:, 0] >> np.uint64(5), words_R4[:, 1] >> np.uint64(6)  # 27 and 26 bits
    return (high.astype(np.float64) * 2.0**26 + low) * 2.0**-53


def philox4x32(counters_R4: np.ndarray, keys_R2: np.ndarray) -> np.ndarray:
    """Return the 128 random bits of each counter under its key as four words, [R, 4]; all arrays uint64 below 2^32."""
    c0, c1, c2, c3 = counters_R4.T
    k0, k1 = keys_R2.T
    for number in range(_NUM_ROUNDS):
        round_k0 = (k0 + np.uint64(number * _WEYL[0])) & _LOW
        round_k1 = (k1 + np.uint64(number * _WEYL[1])) & _LOW
        product_0, product_1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (product_1 >> _HALF) ^ c1 ^ round_k0, product_1 & _LOW
        c2, c3 = (product_0 >> _HALF) ^ c3 ^ round_k1, product_0 & _LOW
    return np.stack([c0, c1, c2, c3], axis=1)

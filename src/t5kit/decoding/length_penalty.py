"""What a hypothesis's sum of log-probabilities is divided by, so that lengths can be compared."""

import numpy as np

_LEAST, _MOST = 1e-30, 1e30


def length_penalties(num_tokens: np.ndarray, exponents: np.ndarray, is_paper: np.ndarray) -> np.ndarray:
    """Return the divisors, float32, of hypotheses of `num_tokens` generated tokens, EOS included; all of one shape.

    n^a where `is_paper` is false (Hugging Face, CTranslate2), ((5 + n) / 6)^a where it is true (Wu et al. 2016; the T5
    paper; mesh beam_search.py, t5x decoding.py). The same exponent is a different search under the two.
    Numerics: computed in float64, rounded once; held in [1e-30, 1e30] so that no exponent makes a score infinite.

    >>> length_penalties(np.array([4, 7]), np.array([0.5, 1.0]), np.array([False, True]))
    array([2., 2.], dtype=float32)
    """
    base = np.where(is_paper, (5.0 + num_tokens) / 6.0, num_tokens)
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(np.power(base, exponents), _LEAST, _MOST).astype(np.float32)

"""Perplexity from scores."""

import math
from collections.abc import Sequence

from t5kit.errors import DataError


def perplexity(log_probabilities: Sequence[float], num_tokens: Sequence[int]) -> float:
    """Return exp of the mean negative log-probability a token, over all targets together.

    log_probabilities are natural and summed over each target's tokens, EOS included, as `Model.score` gives them;
    num_tokens counts the same tokens. The sum is divided once: long targets weigh as much as their tokens.
    Raises: DataError if the two do not fit or there are no tokens.
    """
    total = sum(num_tokens)
    if len(log_probabilities) != len(num_tokens) or total < 1:
        raise DataError(
            f"perplexity got {len(log_probabilities)} scores and {len(num_tokens)} lengths with {total} tokens; "
            "expected as many of each and at least one token."
        )
    mean = -math.fsum(log_probabilities) / total
    return math.exp(mean) if mean < 700.0 else math.inf  # Numerics: exp(710) overflows a double

"""Perplexity from scores."""

import math
from collections.abc import Sequence

import numpy as np

from t5kit.errors import DataError
from t5kit.metrics.items import Indices, ItemScores


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


def perplexity_items(log_probabilities: Sequence[float], num_tokens: Sequence[int]) -> ItemScores:
    """Return `perplexity` prepared for any choice of items; a choice without any tokens has an infinite one.

    Raises: DataError as `perplexity` does.
    """
    perplexity(log_probabilities, num_tokens)
    log_probabilities_N, num_tokens_N = np.asarray(log_probabilities, np.float64), np.asarray(num_tokens, np.int64)

    def of(indices: Indices) -> dict[str, float]:
        chosen = log_probabilities_N[indices].tolist(), num_tokens_N[indices].tolist()
        return {"perplexity": perplexity(*chosen) if any(chosen[1]) else math.inf}

    each = [of(np.array([index]))["perplexity"] for index in range(len(num_tokens_N))]
    return ItemScores(len(num_tokens_N), of, {"perplexity": np.array(each)})

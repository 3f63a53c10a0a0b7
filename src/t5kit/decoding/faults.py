"""Rows of a step that cannot go on, and what is said about them."""

import numpy as np

from t5kit.errors import EngineError, RequestError
from t5kit.runtime import StepOutput

NOT_FINITE = "NaN or infinite scores"
"""In the message of every error about weights that are damaged or exploded."""


def has_finite_scores(output: StepOutput) -> np.ndarray:
    """Return a mask [Q] of the rows whose scores are finite before and after what the request edits.

    A row without a candidate, whose best logit is minus infinity, is one of them.
    """
    return np.isfinite(output.log_sum_exp) & (output.top_logits[:, 0] < np.inf)


def faulty_rows(output: StepOutput) -> np.ndarray | None:
    """Return a mask [Q] of the rows whose scores are not finite or that have no candidate, or None if there is none."""
    is_sound = has_finite_scores(output) & (output.top_logits[:, 0] > -np.inf) & (output.top_ids[:, 0] >= 0)
    return None if is_sound.all() else ~is_sound


def scores_not_finite(num_tokens: int) -> EngineError:
    """Return the error for a row whose scores are NaN or infinite after `num_tokens` generated tokens."""
    return EngineError(
        f"The model produced {NOT_FINITE} after {num_tokens} tokens. Its weights are damaged, or overflow in "
        "this precision: try weights=float32."
    )


def no_token_left(num_tokens: int) -> RequestError:
    """Return the error for a row in which every token is forbidden after `num_tokens` generated tokens."""
    return RequestError(
        f"After {num_tokens} new tokens no token may follow: this request's suppressed ids, n-gram rules, "
        "min_new_tokens, allowed_outputs, forbidden_outputs (or forbid_copy) and grammar together exclude every one (a "
        "grammar also where this vocabulary cannot write what must come next). Loosen one of them."
    )

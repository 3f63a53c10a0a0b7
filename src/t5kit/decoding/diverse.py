"""Diverse beam search: groups of beams that shun what earlier groups chose at the same step.

Source: Vijayakumar et al. 2016, "Diverse beam search", Hamming diversity. The penalty steers which continuations are
picked; scores and log-probabilities stay the model's own.
"""

from collections.abc import Hashable, Sequence

import numpy as np


def best_candidates(scores: np.ndarray, num_picked: int) -> np.ndarray:
    """Return the places [A, num_picked] of the best of [A, C] scores, best first, the earlier of equal ones first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :num_picked]


def best_diverse_candidates(
    scores: np.ndarray,
    ids: np.ndarray,
    *,
    requests: Sequence[Hashable],
    groups: np.ndarray,
    penalties: np.ndarray,
    width: int,
) -> np.ndarray:
    """Return the places [A, 2 width] of each lane's best candidates under the Hamming penalty, group after group.

    Shapes: scores, ids [A, C]; requests, groups, penalties [A]. A candidate loses `penalties[lane]` for each of the
    `width` best continuations of each of its request's earlier groups that adds the same token.
    """
    order = np.zeros((len(scores), 2 * width), np.int64)
    chosen: dict[Hashable, list[np.ndarray]] = {request: [] for request in requests}
    for lane in np.argsort(groups, kind="stable"):
        earlier = chosen[requests[lane]]
        adjusted = scores[lane]
        if earlier:
            times = (ids[lane][:, None] == np.concatenate(earlier)).sum(axis=1)
            adjusted = adjusted - np.float32(penalties[lane]) * times
        order[lane] = best_candidates(adjusted[None], 2 * width)[0]
        taken = order[lane, :width]
        earlier.append(ids[lane, taken[np.isfinite(scores[lane, taken])]])
    return order

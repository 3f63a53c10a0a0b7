"""Edits of one row's logits as plain data, so that no dense logits need to cross into Python.

A search says what it wants changed; the runtime changes it before it picks the top k. `apply_edits` is the
specification that every runtime must equal.
"""

import dataclasses

import numpy as np

_NO_IDS = np.empty(0, np.int32)
_NO_DELTAS = np.empty(0, np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogitEdits:
    """What to change in one row of logits [V], in this order: penalty, deltas, suppressed, allowed, forced.

    A later edit wins: an id that is both allowed and suppressed is suppressed; a forced id is the only one left
    whatever else is said of it, with the logit it had after penalty and deltas.
    """

    penalty_ids: np.ndarray = dataclasses.field(default_factory=lambda: _NO_IDS)
    """[n] int32, distinct. Ids that the repetition penalty touches."""
    penalty: float = 1.0
    """> 0. A positive value is divided by it, a negative one multiplied (Keskar et al. 2019, section 4.1)."""
    penalises_log_probs: bool = False
    """Penalise logit - log_sum_exp instead of the logit. Hugging Face's beam search does, its greedy search does
    not."""
    delta_ids: np.ndarray = dataclasses.field(default_factory=lambda: _NO_IDS)
    """[m] int32, distinct. Ids that `deltas` are added to."""
    deltas: np.ndarray = dataclasses.field(default_factory=lambda: _NO_DELTAS)
    """[m] float32, in logits (natural log)."""
    suppressed_ids: np.ndarray = dataclasses.field(default_factory=lambda: _NO_IDS)
    """[s] int32. Their logits become -inf."""
    allowed_ids: np.ndarray | None = None
    """[a] int32, distinct, or None for all. All others become -inf; these are always scored exactly."""
    forced_id: int | None = None
    """The only id left, or None."""


def apply_edits(logits: np.ndarray, edits: LogitEdits, log_sum_exp: float) -> np.ndarray:
    """Return the edited copy of one row: logits [V] float32, log_sum_exp that of the unedited row.

    >>> apply_edits(np.float32([1, 2, -4]), LogitEdits(penalty_ids=np.int32([1, 2]), penalty=2.0), 0.0)
    array([ 1.,  1., -8.], dtype=float32)
    >>> apply_edits(np.float32([1, 2, 3]), LogitEdits(suppressed_ids=np.int32([2])), 0.0)
    array([  1.,   2., -inf], dtype=float32)
    """
    edited = logits.astype(np.float32, copy=True)
    if edits.penalty_ids.size:
        zero = np.float32(log_sum_exp if edits.penalises_log_probs else 0.0)
        values = edited[edits.penalty_ids] - zero
        penalty = np.float32(edits.penalty)
        edited[edits.penalty_ids] = np.where(values < 0, values * penalty, values / penalty) + zero
    if edits.delta_ids.size:
        edited[edits.delta_ids] += edits.deltas
    kept_by_force = None if edits.forced_id is None else edited[edits.forced_id]
    if edits.suppressed_ids.size:
        edited[edits.suppressed_ids] = -np.inf
    if edits.allowed_ids is not None:
        allowed_values = edited[edits.allowed_ids]
        edited[:] = -np.inf
        edited[edits.allowed_ids] = allowed_values
    if kept_by_force is not None:
        edited[:] = -np.inf
        edited[edits.forced_id] = kept_by_force
    return edited

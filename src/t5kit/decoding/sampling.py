"""Sampling: each token drawn from the model's distribution, or from a part of it.

The parts are cut in Hugging Face's order: temperature, top_k, top_p, min_p, typical_p; each sees what the one before
left, renormalised. Everything here is float64, and sums run in candidate order, so that no row's draw depends on other
rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5kit.decoding.paths import num_paths
from t5kit.decoding.philox import fresh_seed, stream_key, uniforms
from t5kit.decoding.search import SearchRequest
from t5kit.runtime import Need, StepOutput


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Filters:
    """What R rows draw from; every field [R]."""

    temperature: np.ndarray
    top_k: np.ndarray
    """int64; 0 is all."""
    top_p: np.ndarray
    min_p: np.ndarray
    typical_p: np.ndarray

    def rows(self, rows: np.ndarray | slice) -> "Filters":
        """Return the filters of some rows: indices, a slice or a mask."""
        return Filters(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})


class SamplingChooser:
    """Draws each row's token. Rows with top_k ask the runtime for their candidates only, others for all logits."""

    def __init__(self, *, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        nothing = np.empty(0)
        self._filters = Filters(
            temperature=nothing, top_k=np.empty(0, np.int64), top_p=nothing, min_p=nothing, typical_p=nothing
        )
        self._keys_R4 = np.empty((0, 4), np.uint64)

    def admit(self, requests: Sequence[SearchRequest]) -> None:
        """Append the rows of requests; each sample gets random numbers of its own."""
        per_row = [request.options for request in requests for _ in range(num_paths(request))]
        new = Filters(
            temperature=np.array([options.temperature for options in per_row], np.float64),
            top_k=np.array([min(options.top_k, self._vocab_size) for options in per_row], np.int64),
            top_p=np.array([options.top_p for options in per_row], np.float64),
            min_p=np.array([options.min_p for options in per_row], np.float64),
            typical_p=np.array([options.typical_p for options in per_row], np.float64),
        )
        names = [f.name for f in dataclasses.fields(Filters)]
        self._filters = Filters(
            **{name: np.concatenate([getattr(self._filters, name), getattr(new, name)]) for name in names}
        )
        keys = [
            stream_key(_seed(request), request.encoder_input_ids, request.sample_stream, number)
            for request in requests
            for number in range(num_paths(request))
        ]
        self._keys_R4 = np.concatenate([self._keys_R4, np.stack(keys)])

    def keep(self, rows: np.ndarray) -> None:
        """Forget all rows but those of a mask [R]."""
        self._filters = self._filters.rows(rows)
        self._keys_R4 = self._keys_R4[rows]

    def need(self) -> Need:
        """Return the largest top_k, and dense logits if any row has none."""
        top_k = self._filters.top_k
        return Need(top_k=max(1, int(top_k.max())), logits=bool((top_k == 0).any()))

    def choose(
        self, output: StepOutput, positions: np.ndarray, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the drawn ids [Q] int32 and their edited logits [Q] float32."""
        every = self._filters if rows is None else self._filters.rows(rows)
        draws = uniforms(self._keys_R4 if rows is None else self._keys_R4[rows], positions)
        ids = np.empty(len(draws), np.int32)
        logits = np.empty(len(draws), np.float32)
        few = np.flatnonzero(every.top_k)
        if few.size:
            filters = every.rows(few)
            num_candidates = int(filters.top_k.max())
            scores = output.top_logits[few, :num_candidates]
            scores = np.where(np.arange(num_candidates) < filters.top_k[:, None], scores, np.float32(-np.inf))
            weights = tempered(scores, filters.temperature)
            columns = draw(filtered(weights / _row_sums(weights), filters), draws[few])
            ids[few], logits[few] = output.top_ids[few, columns], output.top_logits[few, columns]
        for row in np.flatnonzero(every.top_k == 0):
            assert output.logits is not None
            ids[row] = _draw_from_all(output.logits[row], every.rows(slice(row, row + 1)), draws[row : row + 1])
            logits[row] = output.logits[row, ids[row]]
        return ids, logits


def tempered(scores_RC: np.ndarray, temperature_R: np.ndarray) -> np.ndarray:
    """Return weights [R, C] float64 proportional to the probabilities of edited logits under a temperature."""
    below_best = scores_RC.astype(np.float64) - scores_RC.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # a temperature near 0 leaves the best alone
        return np.exp(below_best / temperature_R[:, None])


def filtered(probabilities_RC: np.ndarray, filters: Filters) -> np.ndarray:
    """Return the probabilities with 0 where top_p, min_p or typical_p cut, not renormalised; no row is emptied."""
    kept = probabilities_RC
    if (filters.top_p < 1).any():
        kept = np.where(top_p_mask(kept, filters.top_p), kept, 0)
    if filters.min_p.any():
        kept = np.where(kept >= filters.min_p[:, None] * kept.max(axis=1, keepdims=True), kept, 0)
    if (filters.typical_p < 1).any():
        kept = np.where(typical_mask(kept / _row_sums(kept), filters.typical_p), kept, 0)
    return kept


def top_p_mask(probabilities_RC: np.ndarray, top_p_R: np.ndarray) -> np.ndarray:
    """Return a mask of each row's smallest set of candidates whose probabilities reach top_p; all where it is 1.

    Of equal candidates the first ones are taken. Source: Holtzman et al. 2020, section 3.1.

    >>> top_p_mask(np.array([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]]), np.array([0.75, 0.7]))
    array([[ True,  True, False],
           [False,  True, False]])
    """
    order = np.argsort(-probabilities_RC, axis=1, kind="stable")
    cumulative = np.cumsum(np.take_along_axis(probabilities_RC, order, axis=1), axis=1)
    is_needed = np.ones_like(order, bool)
    is_needed[:, 1:] = cumulative[:, :-1] < top_p_R[:, None]  # needed if those before it do not reach top_p
    mask = np.empty_like(is_needed)
    np.put_along_axis(mask, order, is_needed, axis=1)
    return mask | (top_p_R[:, None] >= 1)


def typical_mask(probabilities_RC: np.ndarray, typical_p_R: np.ndarray) -> np.ndarray:
    """Return a mask of the smallest set of mass typical_p with information nearest the row's entropy; all if it is 1.

    Candidates as far from the entropy as the last one taken are taken too. Source: Meister et al. 2022, section 4.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        information = -np.log(probabilities_RC)
        entropy = np.nansum(probabilities_RC * information, axis=1, keepdims=True)
    distance = np.abs(information - entropy)
    order = np.argsort(distance, axis=1, kind="stable")
    cumulative = np.cumsum(np.take_along_axis(probabilities_RC, order, axis=1), axis=1)
    num_before = (cumulative < typical_p_R[:, None]).sum(axis=1, keepdims=True)
    last = np.take_along_axis(order, np.minimum(num_before, order.shape[1] - 1), axis=1)
    return (distance <= np.take_along_axis(distance, last, axis=1)) | (typical_p_R[:, None] >= 1)


def draw(weights_RC: np.ndarray, draws_R: np.ndarray) -> np.ndarray:
    """Return the column [R] on which each number in [0, 1) falls in its row's running sums; never one of weight 0."""
    cumulative = np.cumsum(weights_RC, axis=1)
    points = draws_R * cumulative[:, -1]
    return np.minimum((cumulative <= points[:, None]).sum(axis=1), _last_positive(weights_RC))


def _draw_from_all(logits_V: np.ndarray, filters: Filters, draws: np.ndarray) -> int:
    """Return the id drawn from a whole vocabulary for one row."""
    weights = tempered(logits_V[None], filters.temperature)[0]
    probabilities = weights / weights.sum()
    least = 0.0
    if filters.top_p[0] < 1:
        # Speed: those below (1 - top_p) / V have less than 1 - top_p together, so the smallest set of mass top_p has
        # none of them, and a few hundred are sorted instead of 32,128. Half the bound leaves room for rounding.
        least = 0.5 * (1 - filters.top_p[0]) / len(logits_V)
    ids = np.flatnonzero(probabilities >= least)
    return int(ids[draw(filtered(probabilities[None, ids], filters), draws)[0]])


def _row_sums(weights_RC: np.ndarray) -> np.ndarray:
    # Numerics: a running sum adds in candidate order; zeros at the end of a row cannot change it, as in pairwise sums.
    return np.cumsum(weights_RC, axis=1)[:, -1:]


def _last_positive(weights_RC: np.ndarray) -> np.ndarray:
    return weights_RC.shape[1] - 1 - np.argmax(weights_RC[:, ::-1] > 0, axis=1)


def _seed(request: SearchRequest) -> int:
    seed = request.options.seed
    return fresh_seed() if seed is None else seed

"""The state of beam search in arrays: one lane is one group of beams that search together for one request.

Letters: A lanes, M beams a lane, L room for tokens. A request without diverse groups has one lane.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5kit.decoding.checks import MOST_TOKENS
from t5kit.decoding.length_penalty import length_penalties
from t5kit.decoding.options import DecodingOptions

_FIRST_CAPACITY = 32
REASON_EOS, REASON_LENGTH, REASON_STOP = 0, 1, 2
"""Why a hypothesis ended; REASON_STOP + i means the request's stop string i."""


@dataclasses.dataclass(slots=True, eq=False)
class Lanes:
    """Running beams of A lanes, in the order they were picked, and finished hypotheses, best first."""

    slots: np.ndarray
    """[A, M] int32."""
    next_tokens: np.ndarray
    """[A, M] int32: what is fed next."""
    scores: np.ndarray
    """[A, M] float32: sum of log-probabilities; -inf marks a dead beam, which is fed nothing."""
    tokens: np.ndarray
    """[A, M, L] int32."""
    log_probs: np.ndarray
    """[A, M, L] float32."""
    num_tokens: np.ndarray
    """[A] int64: tokens generated so far, equal for all beams of a lane."""
    max_new_tokens: np.ndarray
    """[A] int64."""
    exponent: np.ndarray
    """[A] float64: of the length penalty."""
    is_paper: np.ndarray
    """[A] bool: the length penalty's formula."""
    stops_when_full: np.ndarray
    """[A] bool: early_stopping=True."""
    judges_by_longest: np.ndarray
    """[A] bool: early_stopping="never" with a length penalty that favours length."""
    finished_scores: np.ndarray
    """[A, M] float32, under the length penalty; -inf where nothing is finished yet."""
    finished_tokens: np.ndarray
    """[A, M, L] int32."""
    finished_log_probs: np.ndarray
    """[A, M, L] float32."""
    finished_lengths: np.ndarray
    """[A, M] int64; 0 where nothing is finished yet."""
    finished_reasons: np.ndarray
    """[A, M] int64: a REASON."""

    def __len__(self) -> int:
        return len(self.slots)

    @classmethod
    def fresh(cls, slots: np.ndarray, options: list[DecodingOptions], *, start_id: int) -> "Lanes":
        """Return new lanes over empty slots [A, M], one for each of `options`; only each lane's first beam is alive."""
        num_lanes, width = slots.shape
        scores = np.full((num_lanes, width), -np.inf, np.float32)
        scores[:, 0] = 0
        return cls(
            slots=slots,
            next_tokens=np.full((num_lanes, width), start_id, np.int32),
            scores=scores,
            tokens=np.zeros((num_lanes, width, _FIRST_CAPACITY), np.int32),
            log_probs=np.zeros((num_lanes, width, _FIRST_CAPACITY), np.float32),
            num_tokens=np.zeros(num_lanes, np.int64),
            max_new_tokens=np.array([min(each.max_new_tokens, MOST_TOKENS) for each in options], np.int64),
            exponent=np.array([each.length_penalty for each in options], np.float64),
            is_paper=np.array([each.length_penalty_formula == "paper" for each in options], bool),
            stops_when_full=np.array([each.early_stopping is True for each in options], bool),
            judges_by_longest=np.array(
                [each.early_stopping == "never" and each.length_penalty > 0 for each in options], bool
            ),
            finished_scores=np.full((num_lanes, width), -np.inf, np.float32),
            finished_tokens=np.zeros((num_lanes, width, _FIRST_CAPACITY), np.int32),
            finished_log_probs=np.zeros((num_lanes, width, _FIRST_CAPACITY), np.float32),
            finished_lengths=np.zeros((num_lanes, width), np.int64),
            finished_reasons=np.zeros((num_lanes, width), np.int64),
        )

    def joined(self, other: "Lanes") -> "Lanes":
        """Return the lanes of both, self's first."""
        capacity = max(self.tokens.shape[2], other.tokens.shape[2])
        self.make_room(capacity)
        other.make_room(capacity)
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)]
        return Lanes(*(np.concatenate(pair) for pair in pairs))

    def kept(self, lanes: np.ndarray) -> "Lanes":
        """Return the lanes of a mask [A]."""
        return Lanes(*(getattr(self, f.name)[lanes] for f in dataclasses.fields(self)))

    def make_room(self, num_tokens: int) -> None:
        """Let every buffer hold `num_tokens` tokens."""
        capacity = self.tokens.shape[2]
        if num_tokens > capacity:
            more = ((0, 0), (0, 0), (0, max(num_tokens, 2 * capacity) - capacity))
            for name in ("tokens", "log_probs", "finished_tokens", "finished_log_probs"):
                setattr(self, name, np.pad(getattr(self, name), more))

    def extend_first(self, lane: int, ids: Sequence[int], log_probs: np.ndarray) -> None:
        """Write tokens [n] and their log-probabilities to a lane's first beam; what is fed next stays."""
        start, end = int(self.num_tokens[lane]), int(self.num_tokens[lane]) + len(ids)
        self.make_room(end)
        self.tokens[lane, 0, start:end] = ids
        self.log_probs[lane, 0, start:end] = log_probs
        # Numerics: always added from the front, so that how the tokens came changes no bit.
        self.scores[lane, 0] = np.cumsum(self.log_probs[lane, 0, :end])[-1] if end else 0
        self.num_tokens[lane] = end

    def collect(self, is_finishing: np.ndarray, picked: "Picked", reasons: np.ndarray) -> None:
        """Take the picked candidates of a mask [A, M] (the M best) into the finished hypotheses, keeping the best M.

        reasons [A, M]: why each ends. Of equal scores the one finished earlier stays.
        """
        width = is_finishing.shape[1]
        lanes = np.flatnonzero(is_finishing.any(axis=1))
        num_tokens = self.num_tokens[lanes]
        most = int(num_tokens.max()) + 1
        self.make_room(most)
        penalties = length_penalties(num_tokens + 1, self.exponent[lanes], self.is_paper[lanes])
        new_scores = np.where(
            is_finishing[lanes], picked.scores[lanes, :width] / penalties[:, None], np.float32(-np.inf)
        )
        parents = (lanes[:, None], picked.beams[lanes, :width])
        ends = (np.arange(len(lanes))[:, None], np.arange(width), num_tokens[:, None])
        new_tokens, new_log_probs = self.tokens[*parents, :most], self.log_probs[*parents, :most]
        new_tokens[ends], new_log_probs[ends] = picked.ids[lanes, :width], picked.log_probs[lanes, :width]
        new_lengths = np.repeat(num_tokens[:, None] + 1, width, axis=1)

        scores = np.concatenate([self.finished_scores[lanes], new_scores], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :width]
        rows = np.arange(len(lanes))[:, None]
        self.finished_scores[lanes] = scores[rows, best]
        for mine, new in (
            (self.finished_tokens[:, :, :most], new_tokens),
            (self.finished_log_probs[:, :, :most], new_log_probs),
            (self.finished_lengths, new_lengths),
            (self.finished_reasons, reasons[lanes]),
        ):
            mine[lanes] = np.concatenate([mine[lanes], new], axis=1)[rows, best]

    def continue_beams(self, picked: "Picked", *, has_moved: bool) -> None:
        """Make beam j of every lane continue its beam `picked.beams[:, j]` with one more token; all [A, M].

        has_moved: whether any continues another one's.
        """
        rows = np.arange(len(self))[:, None]
        most = int(self.num_tokens.max())
        self.make_room(most + 1)
        if has_moved:
            self.tokens[:, :, :most] = self.tokens[rows, picked.beams, :most]
            self.log_probs[:, :, :most] = self.log_probs[rows, picked.beams, :most]
        ends = (rows, np.arange(picked.beams.shape[1]), self.num_tokens[:, None])
        self.tokens[ends], self.log_probs[ends] = picked.ids, picked.log_probs
        self.next_tokens, self.scores = picked.ids, picked.scores
        self.num_tokens = self.num_tokens + 1

    def are_done(self) -> np.ndarray:
        """Return a mask [A] of the lanes that need no further step, after `continue_beams`.

        A lane is done when no beam is alive, or when M hypotheses are finished and either that is enough
        (early_stopping=True) or the best beam cannot beat the worst of them: at its present length (False), or, where
        longer is better, at the greatest length ("never"). Source: Hugging Face generation/utils.py, `_beam_search`.
        """
        best = self.scores.max(axis=1)  # not always the first: diversity puts beams in another order
        is_full = (self.finished_lengths > 0).all(axis=1)
        if not is_full.any():
            return best == -np.inf
        lengths = np.where(self.judges_by_longest, self.max_new_tokens, self.num_tokens)
        hoped_for = best / length_penalties(lengths, self.exponent, self.is_paper)
        cannot_improve = ~(hoped_for > self.finished_scores[:, -1])
        return (best == -np.inf) | (is_full & (self.stops_when_full | cannot_improve))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """The N = 2 M best continuations of every lane, best first (diverse groups: under the penalty), or M of them, each
    [A, N]."""

    scores: np.ndarray
    """float32: sum of log-probabilities, -inf where fewer are left."""
    beams: np.ndarray
    """int64: the beam that each continues."""
    ids: np.ndarray
    """int32: the token that each adds."""
    log_probs: np.ndarray
    """float32: that token's own."""

    def at(self, places: np.ndarray) -> "Picked":
        """Return those at places [A, M] of their lanes."""
        return Picked(*(taken(getattr(self, f.name), places) for f in dataclasses.fields(self)))

    def first(self, count: int) -> "Picked":
        """Return each lane's first ones."""
        return Picked(*(getattr(self, f.name)[:, :count] for f in dataclasses.fields(self)))


def taken(values_AN: np.ndarray, places_AM: np.ndarray) -> np.ndarray:
    """Return what stands at places [A, M] of each row of values [A, N].

    Speed: one flat index is half of what two indices take.
    """
    starts = np.arange(0, values_AN.size, values_AN.shape[1])
    return values_AN.reshape(-1).take(places_AM + starts[:, None])


def pick(scores_ANK: np.ndarray, ids_ANK: np.ndarray, log_probs_ANK: np.ndarray, order: np.ndarray) -> Picked:
    """Return the candidates that `order` [A, 2 M] names; candidates [A, N beams, K a beam]."""
    num_lanes, _, num_candidates = ids_ANK.shape
    return Picked(
        scores=taken(scores_ANK.reshape(num_lanes, -1), order),
        beams=order // num_candidates,
        ids=taken(ids_ANK.reshape(num_lanes, -1), order),
        log_probs=taken(log_probs_ANK.reshape(num_lanes, -1), order),
    )

"""Beam search, equal to Hugging Face's in sequences and scores, vectorised over requests.

Each step looks at the 2 M best continuations of a request's M beams. Those among the M best of them that end are
finished hypotheses; the M best of those that do not end run on. (With 2 M, M run on even if the best continuation of
every beam is EOS.) A hypothesis that reaches max_new_tokens is finished as it stands; no EOS is added to it.
Source: Hugging Face generation/utils.py, `_beam_search` (5.23), of which this keeps the float32 sums as well. Where
other options leave fewer than M continuations, beams die here, while there impossible ones run on.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5kit.decoding.diverse import best_candidates, best_diverse_candidates
from t5kit.decoding.faults import has_finite_scores, no_token_left, scores_not_finite
from t5kit.decoding.grammar import ConstraintFactory
from t5kit.decoding.lanes import REASON_EOS, REASON_LENGTH, REASON_STOP, Lanes, Picked, pick, taken
from t5kit.decoding.prefixes import (
    effective_prefix,
    feed_ahead,
    last_positions,
    prefix_log_probs,
    step_with_prefixes,
)
from t5kit.decoding.processors import EditPlan, EditPlanner
from t5kit.decoding.search import Failed, FinishReason, Found, Hypothesis, NewTokens, SearchRequest
from t5kit.decoding.stops import DetokenizerFactory, StopMatcher, new_matcher
from t5kit.errors import T5kitError
from t5kit.runtime import LogitEdits, Need, Runtime, StepInput, StepOutput


@dataclasses.dataclass(slots=True, eq=False)
class _Answers:
    """A request and the hypotheses of its lanes that are done."""

    request: SearchRequest
    num_lanes_alive: int
    hypotheses: list[Hypothesis] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True, eq=False)
class _Lane:
    """What has to be known of a lane beside its arrays."""

    answers: _Answers
    group: int
    prefix: tuple[int, ...]
    """Forced prefix, until it has been fed."""
    plan: EditPlan | None
    matchers: list[StopMatcher | None]
    """One a beam, having seen its tokens; None for a dead beam. Empty without stop strings."""


class BeamSearch:
    """The `Search` protocol for requests of `num_beams` beams in `num_groups` groups."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        num_beams: int,
        num_groups: int = 1,
        detokenizer_factory: DetokenizerFactory | None = None,
        constraint_factory: ConstraintFactory | None = None,
    ) -> None:
        self._runtime = runtime
        self._width = num_beams // num_groups
        self._num_groups = num_groups
        # A group can lose at most as many candidates to the penalty as earlier groups chose tokens.
        self._num_candidates = 2 * self._width + (num_groups - 1) * self._width
        self._detokenizer_factory = detokenizer_factory
        self._planner = EditPlanner(
            runtime.config,
            penalises_log_probs=True,
            detokenizer_factory=detokenizer_factory,
            constraint_factory=constraint_factory,
        )
        self._owners: list[_Lane] = []
        no_slots = np.empty((0, self._width), np.int32)
        self._lanes = Lanes.fresh(no_slots, [], start_id=runtime.config.decoder_start_id)
        self._edited: list[int] = []
        """Lanes with a plan."""
        self._watched: list[int] = []
        """Lanes with stop strings."""
        self._is_alive: np.ndarray | None = None
        """[A, M] mask of the beams asked for, or None for all."""
        self._lengths: np.ndarray | None = None
        """Lengths of the step asked for, if it was ragged."""
        self._prefixes: dict[int, int] = {}
        """Row of the step asked for -> its lane, for lanes that bring their prefix."""

    def admit(self, requests: list[SearchRequest]) -> None:
        per_lane = [request for request in requests for _ in range(self._num_groups)]
        owners: list[_Lane] = []
        for request in requests:
            answers = _Answers(request, self._num_groups)
            plan = self._planner.plan(request.options, request.encoder_input_ids)
            prefix = effective_prefix(request.options, self._detokenizer_factory)
            for group in range(self._num_groups):
                matcher = new_matcher(request.options.stop_strings, self._detokenizer_factory)
                matchers: list[StopMatcher | None] = [] if matcher is None else [matcher]
                if matcher is not None:
                    matcher.push_all(prefix[:-1])
                owners.append(_Lane(answers, group, prefix, plan, matchers))
        slots = self._runtime.open_slots([request.handle for request in per_lane for _ in range(self._width)])
        options = [request.options for request in per_lane]
        start_id = self._runtime.config.decoder_start_id
        lanes = Lanes.fresh(slots.reshape(-1, self._width), options, start_id=start_id)
        try:
            self._feed_ahead(lanes, owners)
        except T5kitError:
            self._runtime.close_slots(slots)
            raise
        # What can fail has been done: a refused admission changes nothing.
        self._lanes = self._lanes.joined(lanes)
        self._owners += owners
        self._index_lanes()

    def rows(self) -> StepInput | None:
        if not self._owners:
            return None
        lanes = self._lanes
        is_alive = lanes.scores != -np.inf
        if is_alive.all():
            self._is_alive, slots, tokens = None, lanes.slots.reshape(-1), lanes.next_tokens.reshape(-1)
        else:
            self._is_alive, slots, tokens = is_alive, lanes.slots[is_alive], lanes.next_tokens[is_alive]
        self._lengths, self._prefixes = None, {}
        edits: dict[int, LogitEdits] = {}
        if self._edited:
            first_rows = np.cumsum(is_alive.sum(axis=1)) - is_alive.sum(axis=1)
            for lane in self._edited:
                edits |= self._lane_edits(lane, int(first_rows[lane]), is_alive[lane])
        need = Need(top_k=self._num_candidates)
        if not self._prefixes:
            return StepInput.one_token_each(slots, tokens, edits=edits, need=need)
        prefixes = {row: self._owners[lane].prefix for row, lane in self._prefixes.items()}
        step = step_with_prefixes(slots, tokens, prefixes, edits=edits, need=need)
        self._lengths = step.lengths
        return step

    def advance(self, output: StepOutput) -> list[NewTokens | Found | Failed]:
        if self._lengths is not None:
            output = self._take_prefixes(output, self._lengths)
        events: list[NewTokens | Found | Failed] = []
        ids, log_probs = self._candidates(output, events)
        if not self._owners:
            return events
        picked = self._pick(ids, log_probs)
        exists = picked.scores != -np.inf
        reasons = self._reasons(picked, exists)
        ends = reasons >= 0
        width = self._width
        if ends.any():
            is_finishing = (ends & exists)[:, :width]
            if is_finishing.any():
                self._lanes.collect(is_finishing, picked, reasons[:, :width])
            # Those that end last, otherwise as they stand.
            going_on = np.argsort(ends, axis=1, kind="stable")[:, :width]
            ending = taken(ends, going_on)
            picked = picked.at(going_on)
            picked.scores[ending] = -np.inf
        else:
            picked = picked.first(width)
        is_done = self._continue(picked)
        if is_done.any():
            self._finish(is_done, events)
        return events

    def cancel(self, request_id: int) -> None:
        self._drop(np.array([owner.answers.request.request_id == request_id for owner in self._owners], bool))

    def _feed_ahead(self, lanes: Lanes, owners: Sequence[_Lane]) -> None:
        """Feed what is to be fed before new lanes' first step to the one beam that each has then."""
        asked = [(owner.prefix, owner.answers.request.options) for owner in owners]
        for lane, log_probs in feed_ahead(self._runtime, lanes.slots[:, 0], asked).items():
            prefix = owners[lane].prefix
            lanes.extend_first(lane, prefix[:-1], log_probs)
            lanes.next_tokens[lane, 0] = prefix[-2]
            owners[lane].prefix = prefix[-1:]

    # Within a step

    def _lane_edits(self, lane: int, first_row: int, is_alive: np.ndarray) -> dict[int, LogitEdits]:
        """Return row -> edits of one lane's living beams, the first of which stands at `first_row`."""
        owner = self._owners[lane]
        if owner.prefix:
            self._prefixes[first_row] = lane  # a fresh lane has one living beam
            return {}
        assert owner.plan is not None
        num_tokens = self._lanes.num_tokens[lane]
        edits = {}
        for row, beam in enumerate(np.flatnonzero(is_alive), first_row):
            row_edits = owner.plan.edits(self._lanes.tokens[lane, beam, :num_tokens])
            if row_edits is not None:
                edits[row] = row_edits
        return edits

    def _take_prefixes(self, output: StepOutput, lengths: np.ndarray) -> StepOutput:
        """Write all but the last token of each prefix to its lane; return the output of the last positions."""
        for row, lane in self._prefixes.items():
            prefix = self._owners[lane].prefix
            self._lanes.extend_first(lane, prefix[:-1], prefix_log_probs(output, lengths, row))
            self._owners[lane].prefix = ()
        return last_positions(output, lengths)

    def _candidates(
        self, output: StepOutput, events: list[NewTokens | Found | Failed]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and log-probabilities [A, M, K] of each beam's best continuations; -1 and -inf for a dead beam.

        Requests with scores that are not finite are dropped first, and reported.
        """
        shape = (len(self._lanes), self._width, output.top_ids.shape[1])
        log_sum_exp = output.log_sum_exp
        is_finite = has_finite_scores(output)
        is_broken = not is_finite.all()
        if is_broken:
            log_sum_exp = np.where(is_finite, log_sum_exp, np.float32(np.nan))
        ids, log_probs = output.top_ids, output.top_logits - log_sum_exp[:, None]
        if self._is_alive is not None:
            alive_ids, alive_log_probs = ids, log_probs
            ids = np.full(shape, -1, np.int32)
            log_probs = np.full(shape, -np.inf, np.float32)
            ids[self._is_alive], log_probs[self._is_alive] = alive_ids, alive_log_probs
        ids, log_probs = ids.reshape(shape), log_probs.reshape(shape)
        if not is_broken:
            return ids, log_probs
        errors: dict[int, T5kitError] = {}
        for lane in np.flatnonzero(np.isnan(log_probs).any(axis=(1, 2))):
            error = scores_not_finite(int(self._lanes.num_tokens[lane]))
            errors[self._owners[lane].answers.request.request_id] = error
        events.extend(Failed(request_id=request_id, error=error) for request_id, error in errors.items())
        dropped = np.array([owner.answers.request.request_id in errors for owner in self._owners], bool)
        self._drop(dropped)
        return ids[~dropped], log_probs[~dropped]

    def _pick(self, ids: np.ndarray, log_probs: np.ndarray) -> Picked:
        """Return the 2 M best continuations of every lane."""
        scores = self._lanes.scores[:, :, None] + log_probs
        flat_scores, flat_ids = scores.reshape(len(scores), -1), ids.reshape(len(ids), -1)
        if self._num_groups == 1:
            order = best_candidates(flat_scores, 2 * self._width)
        else:
            order = best_diverse_candidates(
                flat_scores,
                flat_ids,
                requests=[owner.answers.request.request_id for owner in self._owners],
                groups=np.array([owner.group for owner in self._owners]),
                penalties=np.array([owner.answers.request.options.diversity_penalty for owner in self._owners]),
                width=self._width,
            )
        return pick(scores, ids, log_probs, order)

    def _reasons(self, picked: Picked, exists: np.ndarray) -> np.ndarray:
        """Return why each picked continuation [A, 2 M] ends, int64, or -1 where it does not, or is none."""
        lanes = self._lanes
        is_longest = lanes.num_tokens + 1 >= lanes.max_new_tokens
        reasons = np.where(is_longest[:, None] & exists, REASON_LENGTH, -1)
        reasons[picked.ids == self._runtime.config.eos_id] = REASON_EOS
        for lane in self._watched:
            self._watch(lane, picked, reasons[lane])
        return reasons

    def _watch(self, lane: int, picked: Picked, reasons: np.ndarray) -> None:
        """Show a lane's continuations to matchers: mark in reasons [2 M] those that complete a stop string.

        Only the best M, and then as many as it takes to know the M beams that run on, are looked at.
        """
        owner, lanes = self._owners[lane], self._lanes
        stop_strings = owner.answers.request.options.stop_strings
        running: list[StopMatcher | None] = []
        for place in range(len(reasons)):
            if len(running) == self._width and place >= self._width:
                break
            if reasons[place] == REASON_EOS or np.isneginf(picked.scores[lane, place]):
                continue
            beam = picked.beams[lane, place]
            matcher = owner.matchers[beam]
            owner.matchers[beam] = None
            if matcher is None:  # another continuation of the same beam has it
                matcher = new_matcher(stop_strings, self._detokenizer_factory)
                assert matcher is not None
                matcher.push_all(lanes.tokens[lane, beam, : lanes.num_tokens[lane]])
            stop_string = matcher.push(picked.ids[lane, place])
            if stop_string is not None:
                reasons[place] = REASON_STOP + stop_strings.index(stop_string)
            elif len(running) < self._width:
                running.append(matcher)
        owner.matchers = running + [None] * (self._width - len(running))

    def _continue(self, picked: Picked) -> np.ndarray:
        """Let continuations [A, M] be the beams, dead where their score is -inf.

        Returns a mask [A] of the lanes that are done.
        """
        is_moved = picked.beams != np.arange(self._width)
        has_moved = bool(is_moved.any())
        self._lanes.continue_beams(picked, has_moved=has_moved)
        is_done, slots = self._lanes.are_done(), self._lanes.slots
        if has_moved:
            is_moved &= (picked.scores != -np.inf) & ~is_done[:, None]
            self._runtime.reorder_slots(slots[is_moved], taken(slots, picked.beams)[is_moved])
        return is_done

    def _finish(self, is_done: np.ndarray, events: list[NewTokens | Found | Failed]) -> None:
        for lane in np.flatnonzero(is_done).tolist():
            answers = self._owners[lane].answers
            answers.hypotheses.extend(self._hypotheses(lane))
            answers.num_lanes_alive -= 1
            if answers.num_lanes_alive:
                continue
            request_id = answers.request.request_id
            if answers.hypotheses:
                events.append(Found(request_id=request_id, hypotheses=_best(answers)))
            else:
                error = no_token_left(int(self._lanes.num_tokens[lane]) - 1)
                events.append(Failed(request_id=request_id, error=error))
        self._drop(is_done)

    def _hypotheses(self, lane: int) -> list[Hypothesis]:
        """Return what a lane has finished, best first."""
        lanes, stop_strings = self._lanes, self._owners[lane].answers.request.options.stop_strings
        found = []
        for number, length in enumerate(lanes.finished_lengths[lane].tolist()):
            if not length:
                continue
            code = int(lanes.finished_reasons[lane, number])
            stop_string = stop_strings[code - REASON_STOP] if code >= REASON_STOP else None
            reason: FinishReason = "eos" if code == REASON_EOS else "length" if code == REASON_LENGTH else "stop_string"
            found.append(
                Hypothesis(
                    token_ids=lanes.finished_tokens[lane, number, :length].copy(),
                    token_log_probs=lanes.finished_log_probs[lane, number, :length].copy(),
                    score=float(lanes.finished_scores[lane, number]),
                    finish_reason=reason,
                    stop_string=stop_string,
                )
            )
        return found

    # Coming and going

    def _drop(self, dropped: np.ndarray) -> None:
        """Close the slots of the lanes of a mask [A] and forget them."""
        if not dropped.any():
            return
        self._runtime.close_slots(self._lanes.slots[dropped].ravel())
        self._lanes = self._lanes.kept(~dropped)
        self._owners = [
            owner for owner, is_dropped in zip(self._owners, dropped.tolist(), strict=True) if not is_dropped
        ]
        self._index_lanes()

    def _index_lanes(self) -> None:
        self._edited = [lane for lane, owner in enumerate(self._owners) if owner.plan is not None]
        self._watched = [lane for lane, owner in enumerate(self._owners) if owner.matchers]


def _best(answers: _Answers) -> tuple[Hypothesis, ...]:
    """Return the num_return_sequences best hypotheses of all lanes, none twice (two groups may find the same)."""
    found: dict[bytes, Hypothesis] = {}
    for hypothesis in sorted(answers.hypotheses, key=lambda hypothesis: -hypothesis.score):
        found.setdefault(hypothesis.token_ids.tobytes(), hypothesis)
    return tuple(found.values())[: answers.request.options.num_return_sequences]

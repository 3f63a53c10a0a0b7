"""Search along one path an answer: greedy decoding and sampling differ only in how a row's next token is chosen.

All answers' states stand in arrays with one row an answer, so that the plain case costs a handful of NumPy calls a
step whatever the number of rows. Python touches a row only if its options ask for something that has to be looked at
token by token (edits, stop strings, streaming), and when it ends.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from t5kit.decoding.checks import MOST_TOKENS
from t5kit.decoding.faults import faulty_rows, no_token_left, scores_not_finite
from t5kit.decoding.grammar import ConstraintFactory
from t5kit.decoding.prefixes import (
    effective_prefix,
    feed_ahead,
    last_positions,
    prefix_log_probs,
    step_with_prefixes,
    take_rows,
)
from t5kit.decoding.processors import EditPlan, EditPlanner
from t5kit.decoding.search import Failed, FinishReason, Found, Hypothesis, NewTokens, SearchRequest
from t5kit.decoding.speculation import Drafter, judge, new_drafter, step_with_drafts
from t5kit.decoding.stops import DetokenizerFactory, StopMatcher, new_matcher
from t5kit.errors import T5kitError
from t5kit.runtime import LogitEdits, Need, Runtime, StepInput, StepOutput

MOST_DRAFTED_WITH_LOGITS = 256
"""Drafted tokens of a step that gives all logits, 128 KB a position at T5's vocabulary. Fewer change no answer."""
_FIRST_CAPACITY = 32


class TokenChooser(Protocol):
    """Chooses the next token of every row from the step's output; keeps what it must know of each row."""

    def admit(self, requests: Sequence[SearchRequest]) -> None:
        """Append rows: `num_paths` for each request, one for each of its answers."""
        ...

    def keep(self, rows: np.ndarray) -> None:
        """Forget all rows but those of `rows`, a mask [R]."""
        ...

    def need(self) -> Need:
        """Return what the next step must give."""
        ...

    def choose(
        self, output: StepOutput, positions: np.ndarray, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the chosen ids [Q] int32 and their edited logits [Q] float32; positions [Q] counts tokens before them.

        rows [Q] names the row that each output row belongs to; None: one output row for each row, in order.
        Every row of the output has a finite log-sum-exp and at least one candidate.
        """
        ...


@dataclasses.dataclass(slots=True, eq=False)
class _Answers:
    """A request and what was found for it so far."""

    request: SearchRequest
    hypotheses: list[Hypothesis | None]


@dataclasses.dataclass(slots=True, eq=False)
class _Path:
    """What has to be known of a row beside its arrays."""

    answers: _Answers
    number: int
    """Which of the request's answers this row is."""
    prefix: tuple[int, ...]
    """Forced prefix, until it has been fed."""
    plan: EditPlan | None
    matcher: StopMatcher | None
    drafter: Drafter | None
    is_unseen: bool = True
    """Nothing was shown to the matcher and the stream yet."""


@dataclasses.dataclass(slots=True, eq=False)
class _RowArrays:
    """The rows' states, R rows of room for L tokens."""

    slots: np.ndarray
    """[R] int32."""
    next_tokens: np.ndarray
    """[R] int32: what is fed next."""
    num_tokens: np.ndarray
    """[R] int64: tokens generated so far."""
    max_new_tokens: np.ndarray
    """[R] int64."""
    tokens: np.ndarray
    """[R, L] int32."""
    log_probs: np.ndarray
    """[R, L] float32."""

    def joined(self, other: "_RowArrays") -> "_RowArrays":
        capacity = max(self.tokens.shape[1], other.tokens.shape[1])
        self.make_room(capacity)
        other.make_room(capacity)
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)]
        return _RowArrays(*(np.concatenate(pair) for pair in pairs))

    def kept(self, rows: np.ndarray) -> "_RowArrays":
        return _RowArrays(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    def make_room(self, num_tokens: int) -> None:
        capacity = self.tokens.shape[1]
        if num_tokens > capacity:
            more = max(num_tokens, 2 * capacity) - capacity
            self.tokens = np.pad(self.tokens, ((0, 0), (0, more)))
            self.log_probs = np.pad(self.log_probs, ((0, 0), (0, more)))

    def extend(self, row: int, ids: Sequence[int], log_probs: np.ndarray) -> None:
        """Write tokens [n] to one row; what is fed next stays."""
        start = int(self.num_tokens[row])
        self.make_room(start + len(ids))
        self.tokens[row, start : start + len(ids)] = ids
        self.log_probs[row, start : start + len(ids)] = log_probs
        self.num_tokens[row] += len(ids)

    def append(self, ids: np.ndarray, log_probs: np.ndarray) -> None:
        """Write one more token to every row."""
        self.make_room(int(self.num_tokens.max()) + 1)
        rows = np.arange(len(ids))
        self.tokens[rows, self.num_tokens] = ids
        self.log_probs[rows, self.num_tokens] = log_probs
        self.num_tokens += 1
        self.next_tokens = ids


class PathSearch:
    """The `Search` protocol over a `TokenChooser`."""

    def __init__(
        self,
        runtime: Runtime,
        chooser: TokenChooser,
        *,
        detokenizer_factory: DetokenizerFactory | None = None,
        constraint_factory: ConstraintFactory | None = None,
    ) -> None:
        self._runtime = runtime
        self._chooser = chooser
        self._detokenizer_factory = detokenizer_factory
        self._planner = EditPlanner(
            runtime.config,
            penalises_log_probs=False,
            detokenizer_factory=detokenizer_factory,
            constraint_factory=constraint_factory,
        )
        self._paths: list[_Path] = []
        self._rows = _new_rows(np.empty(0, np.int32), np.empty(0, np.int64), start_id=0)
        self._edited: list[int] = []
        """Rows with a plan."""
        self._watched: list[int] = []
        """Rows with a matcher or a stream."""
        self._prefixes: dict[int, tuple[int, ...]] = {}
        """Rows not fed yet whose prefix comes with the first step."""
        self._lengths: np.ndarray | None = None
        """Lengths of the step asked for, if it was ragged."""
        self._speculating: list[int] = []
        """Rows with a drafter."""
        self._num_drafted: np.ndarray | None = None
        """[R] drafted tokens of the step asked for, if there were any."""
        self._drafts = np.empty(0, np.int64)
        """Those tokens, row after row."""

    def admit(self, requests: list[SearchRequest]) -> None:
        counts = [num_paths(request) for request in requests]
        handles = [request.handle for request, count in zip(requests, counts, strict=True) for _ in range(count)]
        limits = np.repeat([min(request.options.max_new_tokens, MOST_TOKENS) for request in requests], counts)
        paths: list[_Path] = []
        for request, count in zip(requests, counts, strict=True):
            options = request.options
            answers = _Answers(request, [None] * count)
            plan = self._planner.plan(options, request.encoder_input_ids)
            prefix = effective_prefix(options, self._detokenizer_factory)
            for number in range(count):
                matcher = new_matcher(options.stop_strings, self._detokenizer_factory)
                drafter = new_drafter(options.speculate, request.encoder_input_ids, eos_id=self._runtime.config.eos_id)
                paths.append(_Path(answers, number, prefix, plan, matcher, drafter))
        slots = self._runtime.open_slots(handles)
        rows = _new_rows(slots, limits, start_id=self._runtime.config.decoder_start_id)
        try:
            self._feed_ahead(rows, paths)
        except T5kitError:
            self._runtime.close_slots(slots)
            raise
        # What can fail has been done: a refused admission changes nothing.
        self._rows = self._rows.joined(rows)
        self._chooser.admit(requests)
        self._paths += paths
        self._index_paths()

    def _feed_ahead(self, rows: _RowArrays, paths: Sequence[_Path]) -> None:
        """Feed what is to be fed before new rows' first step."""
        asked = [(path.prefix, path.answers.request.options) for path in paths]
        for row, log_probs in feed_ahead(self._runtime, rows.slots, asked).items():
            prefix = paths[row].prefix
            rows.extend(row, prefix[:-1], log_probs)
            rows.next_tokens[row] = prefix[-2]
            paths[row].prefix = prefix[-1:]

    def rows(self) -> StepInput | None:
        if not self._paths:
            return None
        rows, need = self._rows, self._chooser.need()
        edits: dict[int, LogitEdits] = {}
        for row in self._edited:
            path = self._paths[row]
            assert path.plan is not None
            row_edits = path.plan.edits(rows.tokens[row, : rows.num_tokens[row]])
            if row_edits is not None:
                edits[row] = row_edits
        self._lengths = self._num_drafted = None
        drafts = self._propose() if self._speculating else {}
        if self._prefixes:
            step = step_with_prefixes(rows.slots, rows.next_tokens, self._prefixes, edits=edits, need=need)
            self._lengths = step.lengths
        else:
            step = StepInput.one_token_each(rows.slots, rows.next_tokens, edits=edits, need=need)
        if drafts:
            step, self._num_drafted = step_with_drafts(step, drafts, self._draft_edits(drafts))
            self._drafts = np.concatenate([np.asarray(drafts[row], np.int64) for row in sorted(drafts)])
            self._lengths = step.lengths
        return step

    def advance(self, output: StepOutput) -> list[NewTokens | Found | Failed]:
        events: list[NewTokens | Found | Failed] = []
        if self._num_drafted is not None:
            self._advance_drafted(output, events)
            return events
        if self._lengths is not None:
            output = self._take_prefixes(output, self._lengths)
        faulty = faulty_rows(output)
        if faulty is not None:
            output = take_rows(output, self._drop_faulty(faulty, output, events))
            if not self._paths:
                return events
        rows = self._rows
        ids, logits = self._chooser.choose(output, rows.num_tokens)
        ids = ids.copy()  # streams keep pieces of it
        rows.append(ids, logits - output.log_sum_exp)
        is_eos = ids == self._runtime.config.eos_id
        is_done = is_eos | (rows.num_tokens >= rows.max_new_tokens)
        stop_strings: dict[int, str] = {}
        for row in self._watched:
            found = self._watch(row, ids[row : row + 1], bool(is_eos[row]), events)
            if found is not None:
                stop_strings[row] = found[1]
                is_done[row] = True
        if self._speculating:
            self._observe()
        if is_done.any():
            self._finish(is_done, is_eos, stop_strings, events)
        return events

    def cancel(self, request_id: int) -> None:
        self._drop(np.array([path.answers.request.request_id == request_id for path in self._paths], bool))

    # Within a step

    def _take_prefixes(self, output: StepOutput, lengths: np.ndarray) -> StepOutput:
        """Write the prefixes to their rows; return the output of the last positions."""
        self._write_prefixes(output, lengths)
        return last_positions(output, lengths)

    def _write_prefixes(self, output: StepOutput, lengths: np.ndarray) -> None:
        """Write all but the last token of each prefix to its row."""
        for row, prefix in self._prefixes.items():
            self._rows.extend(row, prefix[:-1], prefix_log_probs(output, lengths, row))
            self._paths[row].prefix = ()
        self._prefixes = {}

    def _watch(
        self, row: int, new: np.ndarray, is_eos: bool, events: list[NewTokens | Found | Failed]
    ) -> tuple[int, str] | None:
        """Show a row's new tokens [n], EOS last if `is_eos`, to its stream and its matcher.

        Returns how many of them stand up to the stop string that ends the answer, and that string; None if none does.
        """
        path = self._paths[row]
        num_shown = 0
        if path.is_unseen:  # the prefix comes with the first token
            path.is_unseen = False
            num_shown = int(self._rows.num_tokens[row]) - len(new)
            new = self._rows.tokens[row, : self._rows.num_tokens[row]].copy()
        found = None if path.matcher is None else path.matcher.push_all(new[:-1] if is_eos else new)
        if path.answers.request.is_streamed:
            shown = new if found is None else new[: found[0]]
            events.append(NewTokens(request_id=path.answers.request.request_id, token_ids=shown))
        return None if found is None else (found[0] - num_shown, found[1])

    # Drafts

    def _propose(self) -> dict[int, list[int]]:
        """Return row -> draft, at least one token each; a row's tokens never come to more than max_new_tokens."""
        rooms = (self._rows.max_new_tokens - self._rows.num_tokens - 1).tolist()
        num_rows = len(self._paths)
        num_free = MOST_DRAFTED_WITH_LOGITS if self._chooser.need().logits else num_rows * MOST_TOKENS
        drafts: dict[int, list[int]] = {}
        for row in self._speculating:
            drafter = self._paths[row].drafter
            assert drafter is not None
            if self._prefixes.get(row):
                continue  # it is fed with its prefix, and knows nothing of it yet
            draft = drafter.propose(min(rooms[row], num_free), num_rows=num_rows)
            if draft:
                drafts[row] = draft
                num_free -= len(draft)
        return drafts

    def _draft_edits(self, drafts: dict[int, list[int]]) -> dict[tuple[int, int], LogitEdits]:
        """Return (row, offset) -> edits of what follows a row's drafted token `offset`, as if the draft stood."""
        edits: dict[tuple[int, int], LogitEdits] = {}
        for row, draft in drafts.items():
            plan = self._paths[row].plan
            if plan is None:
                continue
            history = np.append(self._rows.tokens[row, : self._rows.num_tokens[row]], draft).astype(np.int32)
            for offset in range(len(draft)):
                row_edits = plan.edits(history[: len(history) - len(draft) + offset + 1])
                if row_edits is not None:
                    edits[row, offset] = row_edits
        return edits

    def _advance_drafted(self, output: StepOutput, events: list[NewTokens | Found | Failed]) -> None:
        """Take the result of a step with drafts: several new tokens a row."""
        assert self._num_drafted is not None and self._lengths is not None
        counts, drafts = self._num_drafted, self._drafts
        if self._prefixes:
            self._write_prefixes(output, self._lengths)
        # Asked about are a row's last 1 + count positions; those before them are of its prefix.
        asked = take_rows(output, np.flatnonzero(_are_last(self._lengths, counts + 1)))
        own = last_positions(output, self._lengths, num_after=counts)
        is_faulty = faulty_rows(own)
        if is_faulty is not None:
            kept = self._drop_faulty(is_faulty, own, events)
            if not self._paths:
                return
            asked, drafts = take_rows(asked, np.repeat(kept, counts + 1)), drafts[np.repeat(kept, counts)]
            counts = counts[kept]
        ids, log_probs = self._choose_everywhere(asked, counts)
        verdict = judge(drafts, counts, ids)
        self._take_new_tokens(verdict.row_of, verdict.offsets, verdict.num_new, ids, log_probs)
        self._end_drafted(verdict.num_new, counts, events)

    def _choose_everywhere(self, asked: StepOutput, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the token chosen at each position asked about [P] and its log-probability; -1 at faulty positions.

        A fault after a drafted token is none yet: the draft may be wrong. The next step meets it again if it is not.
        """
        row_of = np.repeat(np.arange(len(counts)), counts + 1)
        starts = np.cumsum(counts + 1) - counts - 1
        positions = self._rows.num_tokens[row_of] + np.arange(len(row_of)) - starts[row_of]
        is_faulty = faulty_rows(asked)
        if is_faulty is None:
            ids, logits = self._chooser.choose(asked, positions, row_of)
            return ids, logits - asked.log_sum_exp
        sound = ~is_faulty
        chosen, logits = self._chooser.choose(take_rows(asked, sound), positions[sound], row_of[sound])
        ids, log_probs = np.full(len(row_of), -1, np.int32), np.zeros(len(row_of), np.float32)
        ids[sound], log_probs[sound] = chosen, logits - asked.log_sum_exp[sound]
        return ids, log_probs

    def _take_new_tokens(
        self, row_of: np.ndarray, offsets: np.ndarray, num_new: np.ndarray, ids: np.ndarray, log_probs: np.ndarray
    ) -> None:
        """Write the first num_new [R] of each row's chosen tokens to it."""
        rows = self._rows
        rows.make_room(int((rows.num_tokens + num_new).max()))
        stands = offsets < num_new[row_of]
        into = (row_of[stands], rows.num_tokens[row_of[stands]] + offsets[stands])
        rows.tokens[into], rows.log_probs[into] = ids[stands], log_probs[stands]
        rows.num_tokens = rows.num_tokens + num_new
        rows.next_tokens = rows.tokens[np.arange(len(num_new)), rows.num_tokens - 1]

    def _end_drafted(self, num_new: np.ndarray, counts: np.ndarray, events: list[NewTokens | Found | Failed]) -> None:
        """Show new tokens, roll back what was drafted wrongly, and finish what is done."""
        rows = self._rows
        is_eos = rows.next_tokens == self._runtime.config.eos_id  # a draft holds no EOS, so only the last can be
        is_done = is_eos | (rows.num_tokens >= rows.max_new_tokens)
        stop_strings: dict[int, str] = {}
        for row in self._watched:
            end = int(rows.num_tokens[row])
            new = rows.tokens[row, end - int(num_new[row]) : end].copy()
            found = self._watch(row, new, bool(is_eos[row]), events)
            if found is not None:
                rows.num_tokens[row] -= len(new) - found[0]
                is_eos[row], is_done[row] = False, True
                stop_strings[row] = found[1]
        if self._speculating:
            self._observe()
        is_cut = (num_new <= counts) & ~is_done
        if is_cut.any():
            self._runtime.rollback_slots(rows.slots[is_cut], rows.num_tokens[is_cut].astype(np.int32))
        if is_done.any():
            self._finish(is_done, is_eos, stop_strings, events)

    def _observe(self) -> None:
        """Show the drafters what they have not seen yet: new tokens, and a prefix fed with the first of them."""
        # Speed: one array call for all rows; a token at a time is the usual case.
        last_tokens, num_tokens = self._rows.next_tokens.tolist(), self._rows.num_tokens.tolist()
        for row in self._speculating:
            drafter = self._paths[row].drafter
            assert drafter is not None
            if drafter.num_observed == num_tokens[row] - 1:
                drafter.observe((last_tokens[row],))
            else:
                drafter.observe(self._rows.tokens[row, drafter.num_observed : num_tokens[row]].tolist())

    # Ends

    def _finish(
        self,
        is_done: np.ndarray,
        is_eos: np.ndarray,
        stop_strings: dict[int, str],
        events: list[NewTokens | Found | Failed],
    ) -> None:
        for row in np.flatnonzero(is_done):
            path, num_tokens = self._paths[row], self._rows.num_tokens[row]
            log_probs = self._rows.log_probs[row, :num_tokens].copy()
            reason: FinishReason = "stop_string" if row in stop_strings else "eos" if is_eos[row] else "length"
            answers = path.answers
            answers.hypotheses[path.number] = Hypothesis(
                token_ids=self._rows.tokens[row, :num_tokens].copy(),
                token_log_probs=log_probs,
                score=float(log_probs.sum(dtype=np.float64)),
                finish_reason=reason,
                stop_string=stop_strings.get(int(row)),
            )
            found = tuple(hypothesis for hypothesis in answers.hypotheses if hypothesis is not None)
            if len(found) == len(answers.hypotheses):
                events.append(Found(request_id=answers.request.request_id, hypotheses=found))
        self._drop(is_done)

    def _drop_faulty(
        self, faulty: np.ndarray, output: StepOutput, events: list[NewTokens | Found | Failed]
    ) -> np.ndarray:
        """Drop the requests of faulty rows [R] and report why; return a mask [R] of the rows that are left."""
        errors: dict[int, T5kitError] = {}
        for row in np.flatnonzero(faulty):
            request_id, num_tokens = self._paths[row].answers.request.request_id, int(self._rows.num_tokens[row])
            is_broken = output.top_ids[row, 0] >= 0 or not np.isfinite(output.log_sum_exp[row])
            errors[request_id] = scores_not_finite(num_tokens) if is_broken else no_token_left(num_tokens)
        events.extend(Failed(request_id=request_id, error=error) for request_id, error in errors.items())
        dropped = np.array([path.answers.request.request_id in errors for path in self._paths], bool)
        self._drop(dropped)
        return ~dropped

    # Coming and going

    def _drop(self, dropped: np.ndarray) -> None:
        """Close the slots of the rows of a mask [R] and forget them."""
        if not dropped.any():
            return
        kept = ~dropped
        self._runtime.close_slots(self._rows.slots[dropped])
        self._rows = self._rows.kept(kept)
        self._chooser.keep(kept)
        self._paths = [path for path, is_kept in zip(self._paths, kept.tolist(), strict=True) if is_kept]
        self._index_paths()

    def _index_paths(self) -> None:
        self._edited = [row for row, path in enumerate(self._paths) if path.plan is not None]
        self._watched = [
            row for row, path in enumerate(self._paths) if path.matcher is not None or path.answers.request.is_streamed
        ]
        self._speculating = [row for row, path in enumerate(self._paths) if path.drafter is not None]
        self._prefixes = {row: path.prefix for row, path in enumerate(self._paths) if path.prefix}


def _are_last(lengths: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return a mask [sum of lengths] of the last counts [R] positions of each row of lengths [R]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) >= np.repeat(ends - counts, lengths)


def num_paths(request: SearchRequest) -> int:
    """Return how many rows a request takes: one for each sample, or one."""
    return request.options.num_return_sequences if request.options.does_sample else 1


def _new_rows(slots: np.ndarray, max_new_tokens: np.ndarray, *, start_id: int) -> _RowArrays:
    num_rows = len(slots)
    return _RowArrays(
        slots=slots,
        next_tokens=np.full(num_rows, start_id, np.int32),
        num_tokens=np.zeros(num_rows, np.int64),
        max_new_tokens=max_new_tokens.astype(np.int64),
        tokens=np.zeros((num_rows, _FIRST_CAPACITY), np.int32),
        log_probs=np.zeros((num_rows, _FIRST_CAPACITY), np.float32),
    )

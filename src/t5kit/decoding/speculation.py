"""Copy-aware speculation: tokens that probably come next are looked up, fed together, and kept only if they are right.

Answers copy: names in translations, phrases in summaries, nearly everything in corrections. So the last tokens of an
answer are looked up in its prompt and in what it has said; what followed there is the draft. One step with all
positions feeds the draft, and gives for every position the token that plain decoding would have chosen. The draft's
longest right beginning stands, with the next token as a bonus; the rest is rolled back. Nothing else about a search
changes: with a runtime whose rows have the same bits in a long step and a short one, answers are the same to the bit.
Source: Leviathan et al. 2023 (verification); Saxena 2023, "Prompt lookup decoding" (drafts out of the prompt).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from t5kit.decoding.options import DEFAULT_DRAFT_TOKENS, Speculate
from t5kit.runtime import LogitEdits, StepInput

_KEY_SIZES = (3, 2)
"""Sizes of the n-grams looked up. Single tokens find more places, and more often the wrong ones."""
_BARRIER = -1
"""Stands in the text where no draft may go on: at EOS and at the prompt's end."""

# Speed: what one more token in a step costs, as a share of a step that feeds one token a row. FLAN-T5-small on one core
# (avx512): alone 0.20 of 2.2 ms in int8 and 0.10 of 6.3 ms in float32, beside 3 other rows 0.63 and 0.44 of a row's
# share, beside 15 others 0.52 in int8: a batch has read the weights already, so only the row's own arithmetic is saved.
_COST_ALONE, _COST_IN_COMPANY = 0.25, 0.65
_PRIOR_HITS, _PRIOR_TRIES = 1.8, 3.0
_KEPT_PER_TRY = 0.93
"""Tries are forgotten at this rate: about the last 14 count."""


class Drafter:
    """Drafts for one answer.

    max_tokens: most tokens of a draft. is_adaptive: draft only as far as the share of guesses that came true so far
    makes it pay; guesses are counted whether they were fed or not, so drafting stops and begins again by itself.

    >>> drafter = Drafter(np.array([5, 6, 7, 8, 9, 1]), eos_id=1, max_tokens=3, is_adaptive=False)
    >>> drafter.observe([5, 6])
    >>> drafter.propose(10, num_rows=1)
    [7, 8, 9]
    >>> drafter.observe([7, 20])
    >>> drafter.propose(10, num_rows=1)
    []
    """

    def __init__(self, encoder_input_ids: np.ndarray, *, eos_id: int, max_tokens: int, is_adaptive: bool) -> None:
        self._max_tokens = max_tokens
        self._is_adaptive = is_adaptive
        self._eos_id = eos_id
        self._text: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        """n-gram -> the place in the text after its first occurrence."""
        for token in encoder_input_ids.tolist():
            self._append(_BARRIER if token == eos_id else token)
        self._append(_BARRIER)
        self.num_observed = 0
        """Tokens of the answer that this drafter knows."""
        self._guess: int | None = None
        """Place in the text of the token that is expected next."""
        self._hits, self._tries = _PRIOR_HITS, _PRIOR_TRIES

    def propose(self, room: int, *, num_rows: int) -> list[int]:
        """Return at most `room` tokens that may come next, in a step of `num_rows` rows; empty if none are known."""
        if self._guess is None:
            return []
        length = min(room, self._max_tokens, self._worthwhile_tokens(num_rows))
        draft = self._text[self._guess : self._guess + max(0, length)]
        return draft[: draft.index(_BARRIER)] if _BARRIER in draft else draft

    def observe(self, tokens: Sequence[int]) -> None:
        """Take the answer's next tokens, at least one, and look up what may follow them."""
        is_right = self._guess is not None
        for token in tokens:
            if is_right:
                assert self._guess is not None
                is_right = self._text[self._guess] == token
                self._hits = self._hits * _KEPT_PER_TRY + is_right
                self._tries = self._tries * _KEPT_PER_TRY + 1
                self._guess += 1
            self._append(token)
            self.num_observed += 1
        if not is_right:
            self._guess = self._look_up()
        if self._guess is not None and self._text[self._guess] == _BARRIER:
            self._guess = None

    def _worthwhile_tokens(self, num_rows: int) -> int:
        """Return how many drafted tokens are each as likely to stand as they cost.

        Where each is right with chance q if those before it are, the j-th stands with q^j.
        """
        if not self._is_adaptive:
            return self._max_tokens
        cost = _COST_ALONE if num_rows == 1 else _COST_IN_COMPANY
        chance = self._hits / self._tries
        if chance < cost:
            return 0
        return self._max_tokens if chance > 0.999 else int(math.log(cost) / math.log(chance))

    def _look_up(self) -> int | None:
        for size in _KEY_SIZES:
            if self.num_observed >= size:
                place = self._places.get(tuple(self._text[-size:]))
                if place is not None:
                    return place
        return None

    def _append(self, token: int) -> None:
        """Add a token to the text and make the n-grams that end before it known."""
        text = self._text
        length = len(text)
        for size in _KEY_SIZES:
            if length >= size:
                self._places.setdefault(tuple(text[-size:]), length)
        text.append(token)


def new_drafter(speculate: Speculate, encoder_input_ids: np.ndarray, *, eos_id: int) -> Drafter | None:
    """Return a drafter for `DecodingOptions.speculate`, or None if that is 0."""
    if speculate == 0:
        return None
    if isinstance(speculate, str):
        return Drafter(encoder_input_ids, eos_id=eos_id, max_tokens=DEFAULT_DRAFT_TOKENS, is_adaptive=True)
    return Drafter(encoder_input_ids, eos_id=eos_id, max_tokens=speculate, is_adaptive=False)


def step_with_drafts(
    step: StepInput,
    drafts: Mapping[int, Sequence[int]],
    draft_edits: Mapping[tuple[int, int], LogitEdits],
) -> tuple[StepInput, np.ndarray]:
    """Return `step` with `drafts` (row -> at least one id) after the tokens that its rows bring, and their [R] counts.

    draft_edits: (row, offset) -> edits of the logits after the draft's token `offset`. The result asks for every
    position; edits of the rows' own tokens move along.
    """
    counts = np.zeros(len(step.slots), np.int64)
    counts[list(drafts)] = [len(draft) for draft in drafts.values()]
    ends = np.cumsum(step.lengths)
    rows = sorted(drafts)
    flat = np.array([token for row in rows for token in drafts[row]], np.int32)
    tokens = np.insert(step.tokens, np.repeat(ends[rows], counts[rows]), flat)
    num_before = np.cumsum(counts) - counts
    row_of = np.repeat(np.arange(len(step.slots)), step.lengths)
    edits: dict[int, LogitEdits] = {}
    for output_row, row_edits in step.edits.items():
        place = output_row if step.need.all_positions else int(ends[output_row]) - 1
        edits[place + int(num_before[row_of[place]])] = row_edits
    for (row, offset), row_edits in draft_edits.items():
        edits[int(ends[row]) + int(num_before[row]) + offset] = row_edits
    drafted = StepInput(
        slots=step.slots,
        tokens=tokens,
        lengths=(step.lengths + counts).astype(np.int32),
        edits=edits,
        need=dataclasses.replace(step.need, all_positions=True),
    )
    return drafted, counts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What a step says of its rows' drafts. R rows, P positions that were asked about, those of a row together."""

    row_of: np.ndarray
    """[P] int64: the row of each position."""
    offsets: np.ndarray
    """[P] int64: 0 for the position after a row's own token, j after its j-th drafted one."""
    num_new: np.ndarray
    """[R] int64: how many of the chosen tokens stand: those that confirm a draft, and the first that does not."""


def judge(drafts: np.ndarray, counts: np.ndarray, chosen: np.ndarray) -> Verdict:
    """Return how far each row's choices confirm its draft.

    Shapes: drafts [sum of counts], of all rows one after another; counts [R]; chosen [P = R + sum of counts], -1 where
    nothing could be chosen, which ends a row's new tokens before that place.
    """
    lengths = counts + 1
    starts = np.cumsum(lengths) - lengths
    row_of = np.repeat(np.arange(len(counts)), lengths)
    offsets = np.arange(len(chosen)) - starts[row_of]
    expected = np.full(len(chosen), -2, np.int64)  # after the last drafted token nothing is expected
    expected[offsets < counts[row_of]] = drafts
    num_confirmed = np.minimum.reduceat(np.where(chosen == expected, len(chosen), offsets), starts)
    has_next = chosen[starts + num_confirmed] >= 0
    return Verdict(row_of=row_of, offsets=offsets, num_new=num_confirmed + has_next)

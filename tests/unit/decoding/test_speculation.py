"""Drafts are found in the prompt and the answer, verified in one step, and never change what comes out."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions
from t5kit.decoding.speculation import Drafter, judge, step_with_drafts
from t5kit.errors import RequestError
from t5kit.runtime import LogitEdits, Need, Runtime, StepInput, StepOutput
from t5kit.scheduling import ContinuousScheduler, Event, GenerationRequest, RequestFailed, RequestFinished
from t5kit.testing.answers import NumberDetokenizer, run
from t5kit.testing.counting_runtime import CountingRuntime

EOS = 1


def drafter(prompt: Sequence[int], *, max_tokens: int = 8, is_adaptive: bool = False) -> Drafter:
    return Drafter(np.array([*prompt, EOS], np.int32), eos_id=EOS, max_tokens=max_tokens, is_adaptive=is_adaptive)


def test_what_follows_in_the_prompt_is_drafted_up_to_its_end() -> None:
    copying = drafter([5, 6, 7, 8, 9])
    assert copying.propose(99, num_rows=1) == []
    copying.observe([5])
    assert copying.propose(99, num_rows=1) == []  # one token is too little to go by
    copying.observe([6])
    assert copying.propose(99, num_rows=1) == [7, 8, 9]
    assert copying.propose(2, num_rows=1) == [7, 8]
    copying.observe([7, 8, 9])
    assert copying.propose(99, num_rows=1) == []  # EOS is never drafted


def test_a_draft_goes_on_where_it_came_true_and_is_looked_up_anew_where_not() -> None:
    copying = drafter([5, 6, 7, 5, 6, 8, 9, 10], max_tokens=2)
    copying.observe([5, 6])
    assert copying.propose(99, num_rows=1) == [7, 5]  # the first occurrence
    copying.observe([8])
    assert copying.propose(99, num_rows=1) == [9, 10]  # 5 6 8 stands once, and 6 8 too
    copying.observe([9])
    assert copying.propose(99, num_rows=1) == [10]


def test_the_answer_itself_is_a_source() -> None:
    repeating = drafter([3])
    repeating.observe([5, 6, 7, 5, 6])
    assert repeating.propose(99, num_rows=1) == [7, 5, 6]


def test_drafting_stops_where_guesses_fail_and_begins_again_where_they_come_true() -> None:
    prompt = list(range(10, 60))
    adaptive = drafter(prompt, is_adaptive=True)
    for token in range(10, 58, 2):  # each pair of the prompt is begun, and continued otherwise
        adaptive.observe([token, token + 1])
        adaptive.observe([7])
    assert adaptive.propose(99, num_rows=1) == []
    adaptive.observe([10, 11])
    assert adaptive.propose(99, num_rows=1) == []
    for token in range(12, 30):
        adaptive.observe([token])
    assert len(adaptive.propose(99, num_rows=1)) > 2


def test_drafts_are_shorter_where_weights_are_read_for_many_rows_anyway() -> None:
    adaptive = drafter(list(range(10, 60)), is_adaptive=True)
    adaptive.observe([10, 11, 12, 13])
    assert len(adaptive.propose(99, num_rows=64)) < len(adaptive.propose(99, num_rows=1))


def test_the_longest_right_beginning_stands_with_one_token_more() -> None:
    # rows: 7 8 confirmed and 9 follows; nothing drafted; 5 is wrong; 4 right, then nothing can be chosen
    counts = np.array([2, 0, 2, 1])
    drafts = np.array([7, 8, 5, 6, 4])
    chosen = np.array([7, 8, 9, 3, 6, 6, 2, 4, -1])
    verdict = judge(drafts, counts, chosen)
    assert verdict.num_new.tolist() == [3, 1, 1, 1]
    assert verdict.row_of.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3]
    assert verdict.offsets.tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("is_ragged", [False, True])
def test_drafts_stand_behind_their_rows_and_edits_move_along(is_ragged: bool) -> None:
    edits = [LogitEdits(forced_id=n) for n in range(5)]
    lengths = [1, 3, 1] if is_ragged else [1, 1, 1]
    tokens = [10, 20, 21, 22, 30] if is_ragged else [10, 20, 30]
    step = StepInput(
        slots=np.arange(3, dtype=np.int32),
        tokens=np.array(tokens, np.int32),
        lengths=np.array(lengths, np.int32),
        edits={0: edits[0], len(tokens) - 1: edits[1]},
        need=Need(all_positions=is_ragged),
    )
    drafted, counts = step_with_drafts(step, {2: [31, 32], 0: [11]}, {(0, 0): edits[2], (2, 1): edits[3]})
    assert counts.tolist() == [1, 0, 2]
    assert drafted.tokens.tolist() == [10, 11, *tokens[1:], 31, 32]
    assert drafted.lengths.tolist() == [2, lengths[1], 3]
    assert drafted.need.all_positions
    last = len(drafted.tokens) - 1
    assert drafted.edits == {0: edits[0], 1: edits[2], last - 2: edits[1], last: edits[3]}


class Copier(CountingRuntime):
    """Answers with a script, whatever it is fed, but only after the right past: `script[n]` follows n right tokens."""

    def __init__(self, runtime: Runtime, script: Sequence[int], *, fault_at: int = -1) -> None:
        super().__init__(runtime)
        self._script, self._fault_at = [self.config.decoder_start_id, *script], fault_at
        self._pasts: dict[int, list[int]] = {}
        self.num_fed = 0

    def close_slots(self, slots: np.ndarray) -> None:
        super().close_slots(slots)
        for slot in slots.tolist():
            del self._pasts[slot]

    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        super().rollback_slots(slots, lengths)
        for slot, length in zip(slots.tolist(), lengths.tolist(), strict=True):
            del self._pasts[slot][length:]

    def step(self, step: StepInput) -> StepOutput:
        output = super().step(step)
        self.num_fed += len(step.tokens)
        ids, sums = output.top_ids.copy(), output.log_sum_exp.copy()
        position = 0
        for row, (slot, length) in enumerate(zip(step.slots.tolist(), step.lengths.tolist(), strict=True)):
            past = self._pasts.setdefault(slot, [])
            for _ in range(length):
                past.append(int(step.tokens[position]))
                is_right = past == self._script[: len(past)] and len(past) < len(self._script)
                place = position if step.need.all_positions else row
                if not step.need.all_positions and len(past) < length:
                    continue
                ids[place, 0] = self._script[len(past)] if is_right else 90
                if len(past) == self._fault_at:
                    sums[place] = np.nan
                position += 1
        return dataclasses.replace(output, top_ids=ids, log_sum_exp=sums)


SCRIPT = [20, 21, 22, 23, 24, 25, 60, 26, 27, 28, 29, 30, 31, 32, 33, EOS]
PROMPT = np.array([*range(20, 34), EOS], np.int32)


def copied(runtime: CountingRuntime, options: DecodingOptions, *, is_streamed: bool = False) -> list[Event]:
    request = GenerationRequest(request_id=0, encoder_input_ids=PROMPT, options=options, is_streamed=is_streamed)
    events = run(ContinuousScheduler(runtime, detokenizer_factory=NumberDetokenizer), [request])
    assert runtime.has_nothing_open
    return events


def hypothesis_of(events: Sequence[Event]) -> tuple[list[int], str]:
    assert isinstance(events[-1], RequestFinished)
    (found,) = events[-1].hypotheses
    assert len(found.token_log_probs) == len(found.token_ids)
    return found.token_ids.tolist(), found.finish_reason


@pytest.mark.parametrize("speculate", [True, 3, "auto"])
def test_a_copied_answer_takes_few_steps(runtime: Runtime, speculate: bool | int | str) -> None:
    copier = Copier(runtime, SCRIPT)
    options = DecodingOptions(max_new_tokens=30, speculate=speculate)  # type: ignore[arg-type]
    assert hypothesis_of(copied(copier, options)) == (SCRIPT, "eos")
    assert copier.num_steps <= 9
    assert copier.num_fed < 2 * len(SCRIPT)


@pytest.mark.parametrize("most", range(1, 17))
def test_a_draft_never_goes_beyond_the_length_limit(runtime: Runtime, most: int) -> None:
    copier = Copier(runtime, SCRIPT)
    ids, reason = hypothesis_of(copied(copier, DecodingOptions(max_new_tokens=most, speculate=8)))
    assert ids == SCRIPT[:most]
    assert reason == ("length" if most < len(SCRIPT) else "eos")


def test_a_stop_string_inside_a_draft_ends_the_answer_there(runtime: Runtime) -> None:
    options = DecodingOptions(max_new_tokens=30, speculate=8, stop_strings=("<24",))
    for is_streamed in (False, True):
        events = copied(Copier(runtime, SCRIPT), options, is_streamed=is_streamed)
        assert hypothesis_of(events) == (SCRIPT[:5], "stop_string")
    streamed = [token for event in events[:-1] for token in event.token_ids.tolist()]  # type: ignore[union-attr]
    assert streamed == SCRIPT[:5]


@pytest.mark.parametrize("fault_at", range(1, len(SCRIPT)))
def test_a_fault_in_a_draft_is_reported_where_plain_decoding_meets_it(runtime: Runtime, fault_at: int) -> None:
    options = DecodingOptions(max_new_tokens=30)
    failures = []
    for speculate in (0, 8):
        drafted = dataclasses.replace(options, speculate=speculate)
        (event,) = copied(Copier(runtime, SCRIPT, fault_at=fault_at), drafted)
        assert isinstance(event, RequestFailed)
        failures.append(event.error)
    assert failures[0] == failures[1]


def test_a_fault_after_a_wrong_draft_is_none(runtime: Runtime) -> None:
    class FaultyOffThePath(Copier):
        def step(self, step: StepInput) -> StepOutput:
            output = super().step(step)
            off_the_path = output.top_ids[:, 0] == 90
            return dataclasses.replace(
                output, log_sum_exp=np.where(off_the_path, np.float32(np.nan), output.log_sum_exp)
            )

    faulty = FaultyOffThePath(runtime, SCRIPT)
    assert hypothesis_of(copied(faulty, DecodingOptions(max_new_tokens=30, speculate=8))) == (SCRIPT, "eos")
    assert faulty.num_fed > len(SCRIPT)  # some drafts were wrong


def test_words_that_mean_nothing_are_refused(config: T5Config) -> None:
    for wrong in ("on", -1, 65, 2.5, None):
        with pytest.raises(RequestError, match="speculate"):
            DecodingOptions(speculate=wrong)  # type: ignore[arg-type]
    assert DecodingOptions(speculate=True).speculate == 8
    assert DecodingOptions(speculate=False).speculate == 0

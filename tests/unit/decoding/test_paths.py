"""One path an answer: limits, prefixes, stops, streams and faults, over greedy decoding."""

import dataclasses

import numpy as np
import pytest

from t5kit.decoding import (
    DecodingOptions,
    Failed,
    Found,
    Hypothesis,
    NewTokens,
    Search,
    SearchRequest,
    answer_text,
    make_search,
    strategy_of,
)
from t5kit.errors import EngineError, RequestError
from t5kit.runtime import Runtime, StepInput, StepOutput
from t5kit.testing.answers import NumberDetokenizer, answers, random_prompts
from t5kit.testing.counting_runtime import CountingRuntime

LENGTHS = [4, 9, 1, 17, 6]


def greedy(runtime: Runtime, **options: object) -> list[Hypothesis]:
    made = DecodingOptions(**{"max_new_tokens": 12, **options})  # type: ignore[arg-type]
    return [found[0] for found in answers(runtime, random_prompts(runtime.config, LENGTHS), made)]


def model_log_probs(runtime: Runtime, number: int, token_ids: np.ndarray) -> np.ndarray:
    handles = runtime.encode([random_prompts(runtime.config, LENGTHS)[number]])
    (log_probs,) = runtime.score(handles, [token_ids])
    runtime.release(handles)
    return log_probs


def finish(search: Search, runtime: Runtime) -> list[NewTokens | Found | Failed]:
    events = []
    while (step := search.rows()) is not None:
        events.extend(search.advance(runtime.step(step)))
    return events


def test_greedy_takes_the_models_best_token(runtime: Runtime) -> None:
    for number, hypothesis in enumerate(greedy(runtime)):
        for position in range(len(hypothesis.token_ids)):
            slots = runtime.open_slots(runtime.encode([random_prompts(runtime.config, LENGTHS)[number]]))
            tokens = np.concatenate([[0], hypothesis.token_ids[:position]]).astype(np.int32)
            out = runtime.step(StepInput(slots=slots, tokens=tokens, lengths=np.array([len(tokens)], np.int32)))
            assert out.top_ids[0, 0] == hypothesis.token_ids[position]


def test_scores_are_the_models(runtime: Runtime) -> None:
    for number, hypothesis in enumerate(greedy(runtime)):
        expected = model_log_probs(runtime, number, hypothesis.token_ids)
        np.testing.assert_allclose(hypothesis.token_log_probs, expected, atol=1e-4)  # float32, other shapes of sums
        assert hypothesis.token_log_probs.dtype == np.float32
        assert hypothesis.score == pytest.approx(float(expected.sum()), abs=1e-4)


def test_a_cut_answer_gets_no_invented_eos(runtime: Runtime) -> None:
    whole = greedy(runtime)
    assert {hypothesis.finish_reason for hypothesis in whole} == {"eos", "length"}
    for limit in (1, 2, 5):
        for short, long in zip(greedy(runtime, max_new_tokens=limit), whole, strict=True):
            assert short.token_ids.tolist() == long.token_ids[:limit].tolist()
            assert short.finish_reason == ("eos" if short.token_ids[-1] == 1 else "length")
            assert 1 not in short.token_ids[:-1]


def test_a_very_large_limit_costs_nothing(runtime: Runtime) -> None:
    ended = [hypothesis for hypothesis in greedy(runtime) if hypothesis.finish_reason == "eos"]
    prompts = [
        prompt
        for prompt, hypothesis in zip(random_prompts(runtime.config, LENGTHS), greedy(runtime), strict=True)
        if hypothesis.finish_reason == "eos"
    ]
    for (again,), hypothesis in zip(
        answers(runtime, prompts, DecodingOptions(max_new_tokens=10**30)), ended, strict=True
    ):
        assert again.token_ids.tolist() == hypothesis.token_ids.tolist()


def test_min_new_tokens_counts_from_the_first_token(runtime: Runtime) -> None:
    for hypothesis in greedy(runtime, min_new_tokens=6):
        assert len(hypothesis.token_ids) > 6 or hypothesis.token_ids.tolist().index(1) == 6


def test_forced_eos_ends_every_answer_at_the_limit(runtime: Runtime) -> None:
    plain = greedy(runtime)
    for number, (hypothesis, other) in enumerate(zip(greedy(runtime, forced_eos=True), plain, strict=True)):
        assert hypothesis.finish_reason == "eos"
        assert hypothesis.token_ids[:-1].tolist() == other.token_ids[: len(hypothesis.token_ids) - 1].tolist()
        expected = model_log_probs(runtime, number, hypothesis.token_ids)
        np.testing.assert_allclose(hypothesis.token_log_probs, expected, atol=1e-4)


@pytest.mark.parametrize("prefix", [(20,), (20, 21), (30, 31, 32, 33, 34, 35, 36)])
def test_a_forced_prefix_counts_in_length_and_score(runtime: Runtime, prefix: tuple[int, ...]) -> None:
    runtime = CountingRuntime(runtime)
    for number, hypothesis in enumerate(greedy(runtime, forced_prefix_ids=prefix)):
        assert tuple(hypothesis.token_ids[: len(prefix)].tolist()) == prefix
        assert len(hypothesis.token_ids) <= 12
        expected = model_log_probs(runtime, number, hypothesis.token_ids)
        np.testing.assert_allclose(hypothesis.token_log_probs, expected, atol=1e-4)
    assert runtime.num_steps <= 12 - len(prefix) + 1  # the prefix was fed in one step


class SizedRuntime(CountingRuntime):
    """Keeps how many tokens and how many rows of dense logits its steps had."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.num_tokens: list[int] = []
        self.num_dense: list[int] = []

    def step(self, step: StepInput) -> StepOutput:
        output = super().step(step)
        self.num_tokens.append(len(step.tokens))
        self.num_dense.append(0 if output.logits is None else len(output.logits))
        return output


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"does_sample": True, "seed": 1, "num_return_sequences": 3},
        {"does_sample": True, "seed": 1, "num_return_sequences": 3, "top_k": 5},
        {"does_sample": True, "seed": 1, "stop_strings": ("31><32",), "speculate": 4},
    ],
    ids=["greedy", "beam", "diverse", "sampling", "top_k", "stop"],
)
@pytest.mark.parametrize("length", [2, 3, 9])
def test_prefixes_are_fed_in_pieces_where_a_step_would_be_large(
    runtime: Runtime, more: dict[str, object], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tuple(range(25, 25 + length))
    options = DecodingOptions(max_new_tokens=14, forced_prefix_ids=prefix, **more)  # type: ignore[arg-type]
    prompts = random_prompts(runtime.config, LENGTHS)
    plain, sized = SizedRuntime(runtime), SizedRuntime(runtime)
    expected = answers(plain, prompts, options)
    monkeypatch.setattr("t5kit.decoding.prefixes.MOST_FED_AHEAD", 5)
    found = answers(sized, prompts, options)
    num_rows = len(prompts) * options.num_beams * options.num_return_sequences
    num_fed = min(length, 8) if options.stop_strings else length  # 31 and 32 end the answer there
    assert max(sized.num_tokens) <= max(5, num_rows + 4 * len(prompts))
    if options.does_sample and not options.top_k:  # not even where all of them would fit into one step
        assert max(plain.num_dense) <= num_rows + 4 * len(prompts) and plain.num_tokens[0] == num_rows * (num_fed - 1)
    for old, new in zip(expected, found, strict=True):
        assert [h.token_ids.tolist() for h in old] == [h.token_ids.tolist() for h in new]
        for one, other in zip(old, new, strict=True):
            np.testing.assert_allclose(one.token_log_probs, other.token_log_probs, atol=1e-4)
            assert one.score == pytest.approx(other.score, abs=1e-4) and one.finish_reason == other.finish_reason


def test_a_fault_in_what_is_fed_ahead_refuses_the_admission(runtime: Runtime) -> None:
    options = DecodingOptions(max_new_tokens=8, forced_prefix_ids=(5, 6, 7, 8, 9), does_sample=True, seed=1)
    prompts = random_prompts(runtime.config, LENGTHS)
    faulty = FaultyRuntime(runtime, {int(prompts[1][0])})
    search = make_search(strategy_of(options), faulty)
    handles = faulty.encode(prompts)
    requests = [
        SearchRequest(request_id=number, handle=handle, encoder_input_ids=prompt, options=options)
        for number, (handle, prompt) in enumerate(zip(handles, prompts, strict=True))
    ]
    with pytest.raises(EngineError, match="NaN or infinite scores after"):
        search.admit(requests)
    assert search.rows() is None
    search.admit([request for request in requests if request.request_id != 1])
    faulty.release(handles)
    assert {event.request_id for event in finish(search, faulty) if isinstance(event, Found)} == {0, 2, 3, 4}
    assert faulty.has_nothing_open


def test_drafts_are_few_where_a_step_gives_all_logits(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    options = DecodingOptions(
        max_new_tokens=14, does_sample=True, temperature=0.1, seed=3, speculate=8, forced_prefix_ids=(9, 10, 11)
    )
    prompts = [np.array([9, 10, 11, 12] * 6 + [1], np.int32)] * 4
    plain = SizedRuntime(runtime)
    expected = answers(plain, prompts, options)
    monkeypatch.setattr("t5kit.decoding.paths.MOST_DRAFTED_WITH_LOGITS", 3)
    few = SizedRuntime(runtime)
    found = answers(few, prompts, options)
    assert [h.token_ids.tolist() for (h,) in expected] == [h.token_ids.tolist() for (h,) in found]
    assert max(plain.num_dense) > len(prompts) + 3 >= max(few.num_dense)


def test_a_prefix_may_be_all_there_is(runtime: Runtime) -> None:
    for hypothesis in greedy(runtime, forced_prefix_ids=(20, 21), max_new_tokens=2):
        assert (hypothesis.token_ids.tolist(), hypothesis.finish_reason) == ([20, 21], "length")
    for hypothesis in greedy(runtime, forced_prefix_ids=(20, 21, 1), min_new_tokens=8):
        assert (hypothesis.token_ids.tolist(), hypothesis.finish_reason) == ([20, 21, 1], "eos")


def test_the_same_prefix_as_without_changes_nothing(runtime: Runtime) -> None:
    plain = greedy(runtime)
    for number, hypothesis in enumerate(plain):
        prefix = tuple(hypothesis.token_ids[:3].tolist())
        again = greedy(runtime, forced_prefix_ids=prefix)[number]
        assert again.token_ids.tolist() == hypothesis.token_ids.tolist()
        np.testing.assert_allclose(again.token_log_probs, hypothesis.token_log_probs, atol=1e-4)


def test_a_stop_string_ends_the_answer_with_the_token_that_completes_it(runtime: Runtime) -> None:
    plain = greedy(runtime, min_new_tokens=4)
    for number, hypothesis in enumerate(plain):
        text = answer_text(hypothesis.token_ids[:4], NumberDetokenizer(), ())
        stop = text[2:-2]  # from inside a token to inside another one
        found = greedy(runtime, min_new_tokens=4, stop_strings=("never", stop))[number]
        assert (found.finish_reason, found.stop_string) == ("stop_string", stop)
        ids = found.token_ids.tolist()
        assert ids == hypothesis.token_ids[: len(ids)].tolist()
        assert stop in answer_text(ids, NumberDetokenizer(), ())
        assert stop not in answer_text(ids[:-1], NumberDetokenizer(), ())
        assert answer_text(ids, NumberDetokenizer(), [stop]) == text[: text.index(stop)]


def test_eos_counts_before_a_stop_string(runtime: Runtime) -> None:
    for hypothesis in greedy(runtime, stop_strings=("<1>",)):
        assert hypothesis.finish_reason in ("eos", "length")
        assert hypothesis.stop_string is None


def test_a_stop_string_inside_the_prefix_ends_the_answer_there(runtime: Runtime) -> None:
    for hypothesis in greedy(runtime, forced_prefix_ids=(20, 21, 22, 23), stop_strings=("1><2",)):
        assert (hypothesis.token_ids.tolist(), hypothesis.stop_string) == ([20, 21, 22], "1><2")


def test_streamed_tokens_are_the_answer(runtime: Runtime) -> None:
    prompts = random_prompts(runtime.config, LENGTHS)
    options = DecodingOptions(max_new_tokens=12, forced_prefix_ids=(9, 8))
    search = make_search(strategy_of(options), runtime)
    handles = runtime.encode(prompts)
    search.admit(
        [
            SearchRequest(
                request_id=number, handle=handle, encoder_input_ids=prompt, options=options, is_streamed=number != 2
            )
            for number, (handle, prompt) in enumerate(zip(handles, prompts, strict=True))
        ]
    )
    streamed: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    for event in finish(search, runtime):
        assert not isinstance(event, Failed)
        if isinstance(event, NewTokens):
            assert len(event.token_ids)
            streamed[event.request_id].extend(event.token_ids.tolist())
        else:
            expected = event.hypotheses[0].token_ids.tolist() if event.request_id != 2 else []
            assert streamed[event.request_id] == expected


class FaultyRuntime(CountingRuntime):
    """Gives NaN for the rows of some slots from their third token on, or infinity for what is edited."""

    def __init__(self, runtime: Runtime, faulty_prompts: set[int], *, in_edited: bool = False) -> None:
        super().__init__(runtime)
        self._in_edited = in_edited
        self._faulty_prompts, self._faulty_slots, self._prompts = faulty_prompts, set(), {}

    def encode(self, sequences: list[np.ndarray]) -> list[int]:  # type: ignore[override]
        handles = super().encode(sequences)
        self._prompts |= {handle: int(ids[0]) for handle, ids in zip(handles, sequences, strict=True)}
        return handles

    def open_slots(self, handles: list[int]) -> np.ndarray:  # type: ignore[override]
        slots = super().open_slots(handles)
        wrong = [
            slot for slot, handle in zip(slots, handles, strict=True) if self._prompts[handle] in self._faulty_prompts
        ]
        self._faulty_slots.update(wrong)
        return slots

    def step(self, step: StepInput) -> StepOutput:
        out = super().step(step)
        is_faulty = np.isin(step.slots, list(self._faulty_slots)) & (self.slot_lengths(step.slots) >= 3)
        rows = np.repeat(is_faulty, step.lengths) if step.need.all_positions else is_faulty
        if self._in_edited:
            return dataclasses.replace(out, top_logits=np.where(rows[:, None], np.float32(np.inf), out.top_logits))
        return dataclasses.replace(out, log_sum_exp=np.where(rows, np.float32(np.nan), out.log_sum_exp))


@pytest.mark.parametrize("in_edited", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(max_new_tokens=6),
        DecodingOptions(max_new_tokens=6, num_beams=3),
        DecodingOptions(max_new_tokens=6, num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
        DecodingOptions(max_new_tokens=6, does_sample=True, seed=1, num_return_sequences=3),
        DecodingOptions(max_new_tokens=6, does_sample=True, seed=1, top_k=5),
        DecodingOptions(max_new_tokens=6, forced_prefix_ids=(5, 6, 7)),
        DecodingOptions(max_new_tokens=6, forced_prefix_ids=(5, 6, 7), num_beams=2),
    ],
    ids=["greedy", "beam", "diverse", "sampling", "top_k", "prefix", "beam with prefix"],
)
def test_scores_that_are_not_finite_fail_their_own_request_alone(
    runtime: Runtime, options: DecodingOptions, in_edited: bool
) -> None:
    prompts = random_prompts(runtime.config, LENGTHS)
    expected = answers(runtime, prompts, dataclasses.replace(options, min_new_tokens=5))
    options = dataclasses.replace(options, min_new_tokens=5)
    faulty = FaultyRuntime(runtime, {int(prompts[1][0]), int(prompts[3][0])}, in_edited=in_edited)
    search = make_search(strategy_of(options), faulty)
    handles = faulty.encode(prompts)
    search.admit(
        [
            SearchRequest(request_id=number, handle=handle, encoder_input_ids=prompt, options=options)
            for number, (handle, prompt) in enumerate(zip(handles, prompts, strict=True))
        ]
    )
    faulty.release(handles)
    outcomes = {event.request_id: event for event in finish(search, faulty)}
    for number, event in outcomes.items():
        if number in (1, 3):
            assert isinstance(event, Failed)
            assert isinstance(event.error, EngineError)
            assert "NaN" in str(event.error)
        else:
            assert isinstance(event, Found)
            assert [h.token_ids.tolist() for h in event.hypotheses] == [h.token_ids.tolist() for h in expected[number]]
    assert len(outcomes) == len(prompts)
    assert faulty.has_nothing_open


@pytest.mark.parametrize(
    "more", [{}, {"num_beams": 3}, {"does_sample": True, "seed": 0}, {"does_sample": True, "top_k": 3}]
)
def test_options_that_leave_no_token_fail_their_own_request_alone(runtime: Runtime, more: dict[str, object]) -> None:
    good = DecodingOptions(max_new_tokens=6, **more)  # type: ignore[arg-type]
    stuck = dataclasses.replace(good, allowed_outputs=((7, 8, 1),), suppressed_ids=(8,))
    prompts = random_prompts(runtime.config, [4, 5, 6])
    counting = CountingRuntime(runtime)
    search = make_search(strategy_of(good), counting)
    handles = counting.encode(prompts)
    search.admit(
        [
            SearchRequest(request_id=number, handle=handle, encoder_input_ids=prompt, options=options)
            for number, (handle, prompt, options) in enumerate(zip(handles, prompts, [good, stuck, good], strict=True))
        ]
    )
    counting.release(handles)
    outcomes = {event.request_id: event for event in finish(search, counting)}
    failed = outcomes[1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RequestError)
    assert "After 1 new tokens" in str(failed.error)
    assert isinstance(outcomes[0], Found)
    assert isinstance(outcomes[2], Found)
    assert counting.has_nothing_open


@pytest.mark.parametrize(
    "options", [DecodingOptions(), DecodingOptions(num_beams=3), DecodingOptions(does_sample=True)]
)
def test_requests_join_and_leave_between_any_two_steps(runtime: Runtime, options: DecodingOptions) -> None:
    options = dataclasses.replace(options, max_new_tokens=10, seed=5, min_new_tokens=4)
    prompts = random_prompts(runtime.config, LENGTHS)
    expected = answers(runtime, prompts, options)
    counting = CountingRuntime(runtime)
    search = make_search(strategy_of(options), counting)
    handles = counting.encode(prompts)
    events: list[NewTokens | Found | Failed] = []
    for number, (handle, prompt) in enumerate(zip(handles, prompts, strict=True)):
        search.admit([SearchRequest(request_id=number, handle=handle, encoder_input_ids=prompt, options=options)])
        for _ in range(number + 1):
            step = search.rows()
            assert step is not None
            events.extend(search.advance(counting.step(step)))
        if number == 2:
            search.cancel(2)
            search.cancel(99)
    events.extend(finish(search, counting))
    counting.release(handles)
    found = {event.request_id: event.hypotheses for event in events if isinstance(event, Found)}
    assert sorted(found) == [0, 1, 3, 4]
    for number, hypotheses in found.items():
        assert hypotheses[0].token_ids.tolist() == expected[number][0].token_ids.tolist()
    assert counting.has_nothing_open

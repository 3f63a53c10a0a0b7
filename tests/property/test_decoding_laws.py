"""Laws of decoding, over random requests with random options on tiny models of several families."""

import dataclasses
import functools
import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from t5kit.decoding import DecodingOptions, Hypothesis, answer_text
from t5kit.decoding.options import Speculate
from t5kit.errors import RequestError
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.scheduling import (
    ContinuousScheduler,
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    TokensGenerated,
)
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.answers import NumberDetokenizer, run, tensors_that_end
from t5kit.testing.counting_runtime import CountingRuntime

FAMILIES = ("t5", "t5_v1_1", "umt5", "byt5")
LARGEST_ID = 95
laws = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@functools.cache
def reference(family: str) -> Runtime:
    return ReferenceRuntime(TINY_CONFIGS[family], tensors_that_end(TINY_CONFIGS[family], seed=1))


runtimes = st.sampled_from(FAMILIES).map(reference)
token_ids = st.integers(2, LARGEST_ID)
prompts = st.lists(token_ids, max_size=12).map(lambda ids: np.array([*ids, 1], np.int32))


@st.composite
def options(draw: st.DrawFn) -> DecodingOptions:
    """Any options that can be fulfilled together."""
    said: dict[str, Any] = {"max_new_tokens": draw(st.integers(1, 7))}
    match draw(st.sampled_from(["greedy", "beam", "diverse", "sampling"])):
        case "beam":
            said["num_beams"] = draw(st.integers(2, 4))
            said["num_return_sequences"] = draw(st.integers(1, said["num_beams"]))
        case "diverse":
            groups, width = draw(st.integers(2, 3)), draw(st.integers(1, 2))
            said |= {
                "num_beams": groups * width,
                "num_beam_groups": groups,
                "diversity_penalty": draw(st.floats(0.1, 5)),
            }
            said["num_return_sequences"] = draw(st.integers(1, groups * width))
        case "sampling":
            said |= {"does_sample": True, "seed": draw(st.integers(0, 9)), "temperature": draw(st.floats(0.3, 3))}
            said["num_return_sequences"] = draw(st.integers(1, 3))
            said["top_k"] = draw(st.sampled_from([0, 0, 1, 5, 50, 10_000]))
            said["top_p"] = draw(st.sampled_from([1.0, 1.0, 0.9, 0.1]))
            said["min_p"] = draw(st.sampled_from([0.0, 0.0, 0.3]))
            said["typical_p"] = draw(st.sampled_from([1.0, 1.0, 0.5]))
    if "num_beams" in said:
        said["length_penalty"] = draw(st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]))
        said["length_penalty_formula"] = draw(st.sampled_from(["power", "paper"]))
        said["early_stopping"] = draw(st.sampled_from([False, True, "never"]))
    if draw(st.booleans()):
        said["min_new_tokens"] = draw(st.integers(0, said["max_new_tokens"]))
    if draw(st.booleans()):
        said["repetition_penalty"] = draw(st.sampled_from([0.7, 1.3, 2.0]))
    if draw(st.booleans()):
        said["no_repeat_ngram_size"] = draw(st.integers(0, 3))
        said["encoder_no_repeat_ngram_size"] = draw(st.integers(0, 3))
    if draw(st.booleans()):
        said["suppressed_ids"] = tuple(draw(st.lists(token_ids, max_size=4)))
        biased = draw(st.lists(st.tuples(token_ids, st.floats(-3, 3)), max_size=3, unique_by=lambda pair: pair[0]))
        said["logit_bias"] = tuple(biased)
    if draw(st.integers(0, 3)) == 0:
        longest = said["max_new_tokens"]
        said["forced_prefix_ids"] = tuple(draw(st.lists(token_ids, min_size=1, max_size=longest)))
    if draw(st.integers(0, 3)) == 0:
        said["stop_strings"] = tuple(
            draw(st.lists(st.text("0123456789<>", min_size=1, max_size=3), min_size=1, max_size=2))
        )
    if draw(st.integers(0, 4)) == 0:
        said["forced_eos"] = True
    return DecodingOptions(**said)


def requests(pairs: Sequence[tuple[np.ndarray, DecodingOptions]], *, streams: bool = False) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            request_id=number,
            encoder_input_ids=prompt,
            options=each,
            is_streamed=streams and each.num_beams == each.num_return_sequences == 1,
        )
        for number, (prompt, each) in enumerate(pairs)
    ]


def answer(runtime: Runtime, made: Sequence[GenerationRequest], **limits: Any) -> list[Event]:
    counting = CountingRuntime(runtime)
    events = run(ContinuousScheduler(counting, detokenizer_factory=NumberDetokenizer, **limits), made)
    assert counting.has_nothing_open
    final = [event for event in events if not isinstance(event, TokensGenerated)]
    assert sorted(event.request_id for event in final) == sorted(request.request_id for request in made)
    return events


def comparable(events: Sequence[Event]) -> dict[int, object]:
    """What each request came to, without its timings."""
    outcomes: dict[int, object] = {}
    for event in events:
        if isinstance(event, RequestFinished):
            outcomes[event.request_id] = [
                (each.token_ids.tolist(), each.finish_reason, each.stop_string) for each in event.hypotheses
            ]
        elif isinstance(event, RequestFailed):
            assert event.error_type == "RequestError"  # options that exclude every token
            outcomes[event.request_id] = event.error
    return outcomes


def hypotheses(events: Sequence[Event]) -> list[tuple[int, Hypothesis]]:
    """Every answer with its request's id; events without any say nothing and are drawn anew."""
    comparable(events)  # failed are those alone whose options exclude every token
    finished = [event for event in events if isinstance(event, RequestFinished)]
    assume(finished)
    return [(event.request_id, each) for event in finished for each in event.hypotheses]


@laws
@given(
    runtime=runtimes,
    pairs=st.lists(st.tuples(prompts, options()), min_size=2, max_size=5),
    max_batch_rows=st.sampled_from([6, 10, 256]),
    max_encoder_tokens=st.sampled_from([1, 12, 40, 2048]),
    max_prompt_tokens=st.sampled_from([1, 20, 65536]),
    order=st.randoms(use_true_random=False),
)
def test_an_answer_depends_on_its_own_request_only(
    runtime: Runtime,
    pairs: list[tuple[np.ndarray, DecodingOptions]],
    max_batch_rows: int,
    max_encoder_tokens: int,
    max_prompt_tokens: int,
    order: random.Random,
) -> None:
    made = requests(pairs)
    together = comparable(
        answer(
            runtime,
            made,
            max_batch_rows=max_batch_rows,
            max_encoder_tokens=max_encoder_tokens,
            max_prompt_tokens=max_prompt_tokens,
        )
    )
    alone = [comparable(answer(runtime, [request])) for request in made]
    assert together == functools.reduce(lambda a, b: a | b, alone)
    order.shuffle(made)
    assert comparable(answer(runtime, made)) == together


@laws
@given(
    runtime=runtimes,
    pairs=st.lists(st.tuples(prompts, options()), min_size=2, max_size=6),
    max_batch_rows=st.sampled_from([6, 256]),
    moments=st.randoms(use_true_random=False),
)
def test_requests_may_come_and_go_at_any_step(
    runtime: Runtime, pairs: list[tuple[np.ndarray, DecodingOptions]], max_batch_rows: int, moments: random.Random
) -> None:
    made = requests(pairs)
    alone = functools.reduce(lambda a, b: a | b, (comparable(answer(runtime, [request])) for request in made))
    counting = CountingRuntime(runtime)
    working = ContinuousScheduler(counting, detokenizer_factory=NumberDetokenizer, max_batch_rows=max_batch_rows)
    to_come, cancelled, events = list(made), set[int](), list[Event]()
    while to_come or working.has_work:
        while to_come and moments.random() < 0.5:
            working.submit([to_come.pop(moments.randrange(len(to_come)))])
        if moments.random() < 0.1 and working.alive_ids:
            cancelled.add(moments.choice(working.alive_ids))
            working.cancel(max(cancelled))
        events += working.step()
    assert counting.has_nothing_open
    answered = comparable(events)
    assert answered == {number: alone[number] for number in answered}
    assert set(alone) - set(answered) <= cancelled


repetitive_prompts = st.lists(st.integers(2, 4), max_size=12).map(lambda ids: np.array([*ids, 1], np.int32))


@laws
@given(
    runtime=runtimes,
    pairs=st.lists(st.tuples(repetitive_prompts, options()), min_size=1, max_size=4),
    speculate=st.lists(st.sampled_from([0, 1, 2, 8, "auto"]), min_size=4, max_size=4),
)
def test_speculation_changes_no_answer(
    runtime: Runtime, pairs: list[tuple[np.ndarray, DecodingOptions]], speculate: list[Speculate]
) -> None:
    pairs = [(prompt, dataclasses.replace(each, max_new_tokens=each.max_new_tokens + 8)) for prompt, each in pairs]
    drafted = [
        (prompt, dataclasses.replace(each, speculate=how))
        for (prompt, each), how in zip(pairs, speculate, strict=False)
    ]
    for streams in (False, True):
        plain, speculative = (answer(runtime, requests(each, streams=streams)) for each in (pairs, drafted))
        assert comparable(speculative) == comparable(plain)
        for (_, found), (_, expected) in zip(hypotheses(speculative), hypotheses(plain), strict=True):
            if len(found.token_ids) == len(expected.token_ids):
                np.testing.assert_allclose(found.token_log_probs, expected.token_log_probs, atol=1e-4)
        joined = [
            [token for each in events if isinstance(each, TokensGenerated) for token in each.token_ids.tolist()]
            for events in (plain, speculative)
        ]
        assert sorted(joined[0]) == sorted(joined[1])


@laws
@given(runtime=runtimes, pairs=st.lists(st.tuples(prompts, options()), min_size=1, max_size=3))
def test_streamed_tokens_joined_are_the_answer(
    runtime: Runtime, pairs: list[tuple[np.ndarray, DecodingOptions]]
) -> None:
    events = answer(runtime, requests(pairs, streams=True))
    assert comparable(events) == comparable(answer(runtime, requests(pairs)))
    for event in events:
        if isinstance(event, RequestFinished):
            pieces = [
                each.token_ids.tolist()
                for each in events
                if isinstance(each, TokensGenerated) and each.request_id == event.request_id
            ]
            assert list(itertools.chain(*pieces)) in ([], event.hypotheses[0].token_ids.tolist())


@laws
@given(runtime=runtimes, pairs=st.lists(st.tuples(prompts, options()), min_size=1, max_size=3))
def test_every_answer_is_what_its_finish_reason_says(
    runtime: Runtime, pairs: list[tuple[np.ndarray, DecodingOptions]]
) -> None:
    for number, hypothesis in hypotheses(answer(runtime, requests(pairs))):
        asked = pairs[number][1]
        ids = hypothesis.token_ids.tolist()
        text = answer_text([token for token in ids if token != 1], NumberDetokenizer(), ())
        stops = [stop for stop in asked.stop_strings if stop in text]
        assert 1 <= len(ids) <= asked.max_new_tokens
        assert 1 not in ids[:-1]
        assert (hypothesis.finish_reason == "eos") == (ids[-1] == 1)
        assert (hypothesis.finish_reason == "stop_string") == bool(stops)
        assert (hypothesis.stop_string in stops) == bool(stops)
        if hypothesis.finish_reason == "length":
            assert len(ids) == asked.max_new_tokens
            assert not asked.forced_eos or len(asked.forced_prefix_ids) == asked.max_new_tokens
        if hypothesis.finish_reason == "eos" and not asked.forced_eos:
            assert len(ids) > asked.min_new_tokens
        prefix = list(asked.forced_prefix_ids)
        assert ids[: len(prefix)] == prefix or (stops and ids == prefix[: len(ids)])
        assert not set(ids[len(prefix) :]) & set(asked.suppressed_ids)
        assert len(hypothesis.token_log_probs) == len(ids)
        assert np.isfinite(hypothesis.token_log_probs).all()


@laws
@given(runtime=runtimes, pairs=st.lists(st.tuples(prompts, options()), min_size=1, max_size=3))
def test_scores_are_the_models_own_where_nothing_edits(
    runtime: Runtime, pairs: list[tuple[np.ndarray, DecodingOptions]]
) -> None:
    plain = [
        (prompt, dataclasses.replace(each, repetition_penalty=1.0, logit_bias=(), forced_eos=False))
        for prompt, each in pairs
    ]
    for number, hypothesis in hypotheses(answer(runtime, requests(plain))):
        prompt, asked = plain[number]
        handles = runtime.encode([prompt])
        (expected,) = runtime.score(handles, [hypothesis.token_ids])
        runtime.release(handles)
        # float32: sums over other shapes differ by some units in the last place of logits of magnitude ten.
        np.testing.assert_allclose(hypothesis.token_log_probs, expected, atol=1e-4)
        n = len(expected)
        divisor = (
            n**asked.length_penalty
            if asked.length_penalty_formula == "power"
            else ((5 + n) / 6) ** asked.length_penalty
        )
        total = float(expected.sum(dtype=np.float64))
        assert hypothesis.score == pytest.approx(total / divisor if asked.num_beams > 1 else total, abs=1e-4, rel=1e-4)


@laws
@given(
    runtime=runtimes,
    prompt=prompts,
    asked=options(),
    outputs=st.lists(st.lists(st.integers(2, 9), max_size=4).map(lambda ids: (*ids, 1)), min_size=1, max_size=6),
)
def test_answers_from_a_set_are_in_it(
    runtime: Runtime, prompt: np.ndarray, asked: DecodingOptions, outputs: list[tuple[int, ...]]
) -> None:
    constrained = dataclasses.replace(
        asked,
        allowed_outputs=tuple(outputs),
        max_new_tokens=max(map(len, outputs)),
        min_new_tokens=0,
        forced_prefix_ids=(),
        stop_strings=(),
    )
    for _, hypothesis in hypotheses(answer(runtime, requests([(prompt, constrained)]))):
        assert tuple(hypothesis.token_ids.tolist()) in outputs


@laws
@given(runtime=runtimes, prompt=prompts, asked=options(), index=st.integers(0, 3))
def test_a_forbidden_text_is_no_answer_and_is_all_that_is_lost(
    runtime: Runtime, prompt: np.ndarray, asked: DecodingOptions, index: int
) -> None:
    asked = dataclasses.replace(asked, forced_eos=False)
    before = [hypothesis for _, hypothesis in hypotheses(answer(runtime, requests([(prompt, asked)])))]
    ended = [each for each in before if each.finish_reason == "eos"]
    assume(ended)
    unwanted = text_before_eos(ended[index % len(ended)])
    forbidding = dataclasses.replace(asked, forbidden_texts=(f" {unwanted}\n",))
    after = [hypothesis for _, hypothesis in hypotheses(answer(runtime, requests([(prompt, forbidding)])))]
    assert all(text_before_eos(each) != unwanted for each in after if each.finish_reason == "eos")
    if asked.num_beams == 1:
        for first, second in zip(before, after, strict=True):
            if first.finish_reason != "eos" or text_before_eos(first) != unwanted:
                assert second.token_ids.tolist() == first.token_ids.tolist()
            else:  # the same until it would have ended
                assert second.token_ids.tolist()[: len(first.token_ids) - 1] == first.token_ids.tolist()[:-1]


def text_before_eos(hypothesis: Hypothesis) -> str:
    return answer_text(hypothesis.token_ids[:-1], NumberDetokenizer(), ())


@laws
@given(runtime=runtimes, prompt=prompts, asked=options())
def test_hypotheses_are_distinct_and_best_first(runtime: Runtime, prompt: np.ndarray, asked: DecodingOptions) -> None:
    if asked.does_sample:
        return
    found = [hypothesis for _, hypothesis in hypotheses(answer(runtime, requests([(prompt, asked)])))]
    assert len(found) <= asked.num_return_sequences
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert len({each.token_ids.tobytes() for each in found}) == len(found)


def test_wrong_options_never_pass_construction() -> None:
    for wrong in ({"num_beams": 0}, {"top_p": 0.0}, {"min_new_tokens": 9, "max_new_tokens": 3}):
        with pytest.raises(RequestError):
            DecodingOptions(**wrong)

"""The scheduler as a service: fair turns, deadlines, kept prompts, probes between steps, long prompts that let others
pass, and adapters."""

import dataclasses
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from t5kit.checkpoint.adapters import Adapter, LowRankMap, linear_map_shapes
from t5kit.config import T5Config
from t5kit.decoding import Constraint, DecodingOptions, Grammar
from t5kit.errors import ConfigError, EngineError, RequestError
from t5kit.runtime import ReferenceRuntime, Runtime, StepInput, StepOutput
from t5kit.runtime.native import NativeRuntime
from t5kit.runtime.pooling import pool
from t5kit.scheduling import (
    ContinuousScheduler,
    EmbedFinished,
    EmbedRequest,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    SchedulingService,
    ScoreFinished,
    ScoreRequest,
    ServiceEvent,
    ServiceLimits,
    ServiceRequest,
    TraceFinished,
    TraceRequest,
    probes,
)
from t5kit.scheduling.memory import prompt_bytes
from t5kit.scheduling.probes import run_probes
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.answers import NumberDetokenizer, random_prompts, tensors_that_end
from t5kit.testing.counting_runtime import CountingRuntime
from t5kit.testing.tiny import random_tensors

OPTIONS = DecodingOptions(max_new_tokens=6)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowEncoder(CountingRuntime):
    """Encoding takes a hundredth of a second a token, a step a tenth; remembers what was done."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        super().__init__(runtime)
        self.clock = clock
        self.history: list[str] = []

    def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
        num_tokens = sum(len(ids) for ids in sequences)
        self.clock.now += 0.01 * num_tokens
        self.history.append(f"encode {num_tokens}")
        return super().encode(sequences)

    def step(self, step):  # type: ignore[no-untyped-def]
        self.clock.now += 0.1
        self.history.append("step")
        return super().step(step)


def generation(number: int, prompt: np.ndarray, options: DecodingOptions = OPTIONS) -> GenerationRequest:
    return GenerationRequest(request_id=number, encoder_input_ids=prompt, options=options)


def drained(service: SchedulingService) -> list[ServiceEvent]:
    events = []
    while service.has_work:
        events += service.step()
    return events


def failures(events: Sequence[ServiceEvent]) -> list[RequestFailed]:
    return [event for event in events if isinstance(event, RequestFailed)]


def test_every_request_is_answered_as_by_the_scheduler_alone(runtime: CountingRuntime, config: T5Config) -> None:
    prompts = random_prompts(config, [3, 30, 9, 41, 1, 17] * 4)
    limits = ServiceLimits(max_encoder_tokens=40, max_batch_rows=9)
    service = SchedulingService(runtime, detokenizer_factory=NumberDetokenizer, limits=limits)
    every_options = (
        OPTIONS,
        DecodingOptions(max_new_tokens=5, num_beams=3, num_return_sequences=2),
        DecodingOptions(max_new_tokens=5, does_sample=True, seed=1),
        DecodingOptions(max_new_tokens=7, speculate=3),
    )
    requests = [generation(n, prompt, every_options[n % 4]) for n, prompt in enumerate(prompts)]
    service.submit([ServiceRequest(work=each, client=f"client {each.request_id % 3}") for each in requests])
    found = {event.request_id: event.hypotheses for event in drained(service) if isinstance(event, RequestFinished)}
    alone = ContinuousScheduler(runtime, detokenizer_factory=NumberDetokenizer)
    alone.submit(requests)
    while alone.has_work:
        for event in alone.step():
            assert isinstance(event, RequestFinished)
            expected = [(each.token_ids.tolist(), each.score) for each in event.hypotheses]
            assert [(each.token_ids.tolist(), each.score) for each in found[event.request_id]] == expected
    service.close()
    assert runtime.has_nothing_open


def test_a_short_request_does_not_wait_for_another_clients_long_ones(reference: Runtime, config: T5Config) -> None:
    clock = Clock()
    runtime = SlowEncoder(reference, clock)
    service = SchedulingService(runtime, limits=ServiceLimits(max_encoder_tokens=50), clock=clock)
    long = random_prompts(config, [200] * 8)
    service.submit([ServiceRequest(work=generation(n, each), client="a") for n, each in enumerate(long)])
    service.step()
    service.submit([ServiceRequest(work=generation(99, random_prompts(config, [5])[0]), client="b")])
    service.step()
    service.step()
    assert "encode 5" in runtime.history[:5]


def test_after_a_long_prompt_running_answers_get_as_much_time(reference: Runtime, config: T5Config) -> None:
    clock = Clock()
    runtime = SlowEncoder(reference, clock)
    service = SchedulingService(runtime, limits=ServiceLimits(max_encoder_tokens=50), clock=clock)
    options = DecodingOptions(max_new_tokens=60, min_new_tokens=60)
    prompts = random_prompts(config, [5, 100, 100, 6], seed=2)
    service.submit([ServiceRequest(work=generation(0, prompts[0], options))])
    service.step()
    service.submit([ServiceRequest(work=generation(n, prompts[n], options), client=str(n)) for n in (1, 2, 3)])
    drained(service)
    after_first = runtime.history[runtime.history.index("encode 100") :]
    second = after_first[1:].index("encode 100")
    # The run took 1 s, half of which a prompt of 50 tokens would have taken too: 0.5 s are 5 steps.
    assert after_first[1 : 1 + second].count("step") == 5
    service.close()
    assert runtime.has_nothing_open


def test_a_prompt_that_lets_others_pass_is_passed_by_those_that_come_later(
    reference: Runtime, config: T5Config
) -> None:
    clock = Clock()
    runtime = SlowEncoder(reference, clock)
    service = SchedulingService(runtime, limits=ServiceLimits(max_encoder_tokens=50), clock=clock)
    options = DecodingOptions(max_new_tokens=60, min_new_tokens=60)
    prompts = random_prompts(config, [5, 100, 100, 100, 6], seed=2)
    service.submit([ServiceRequest(work=generation(0, prompts[0], options))])
    service.step()
    service.submit([ServiceRequest(work=generation(n, prompts[n], options), client="long") for n in (1, 2, 3)])
    service.step()
    service.step()  # the first long prompt is encoded, the second waits until answers had their time
    service.submit([ServiceRequest(work=generation(4, prompts[4], options), client="short")])
    drained(service)
    encoded = [each for each in runtime.history if each != "step"]
    assert encoded == ["encode 5", "encode 100", "encode 6", "encode 100", "encode 100"]


def test_long_prompts_are_encoded_one_after_another_while_nobody_waits_for_tokens(
    reference: Runtime, config: T5Config
) -> None:
    clock = Clock()
    runtime = SlowEncoder(reference, clock)
    service = SchedulingService(runtime, limits=ServiceLimits(max_encoder_tokens=50, max_batch_rows=1), clock=clock)
    service.submit(
        [ServiceRequest(work=generation(n, each)) for n, each in enumerate(random_prompts(config, [99, 98]))]
    )
    assert len([event for event in drained(service) if isinstance(event, RequestFinished)]) == 2


LONG = DecodingOptions(max_new_tokens=60, min_new_tokens=60)


def steps_until_done(service: SchedulingService, request_id: int) -> int:
    """Return in which of the next steps a request ends."""
    for number in range(1, 500):
        if any(event.request_id == request_id for event in service.step()):
            return number
    raise AssertionError


@pytest.mark.parametrize(
    "limits",
    [
        {"max_batch_rows": 16},
        {"max_prompt_tokens": 16 * 9},
        {
            "max_cache_bytes": 16 * (16 + 64) * 2 * 3 * (8 + 16) * 4
        },  # pages of 16 tokens: 9 of a prompt, 60 of an answer
    ],
)
def test_a_newcomer_does_not_wait_for_all_that_another_client_has_begun(
    runtime: CountingRuntime, config: T5Config, limits: dict[str, int]
) -> None:
    service = SchedulingService(runtime, limits=ServiceLimits(max_kept_bytes=0, **limits))
    prompts = random_prompts(config, [9] * 60)
    service.submit([ServiceRequest(work=generation(n, prompts[n], LONG), client="many") for n in range(50)])
    for _ in range(5):
        service.step()
    assert service.counts().scheduler.num_alive == 14, "an eighth is left"
    service.submit([ServiceRequest(work=generation(50, prompts[50], LONG), client="many")])
    service.submit([ServiceRequest(work=generation(51, prompts[51], OPTIONS), client="few")])
    assert steps_until_done(service, 51) <= 7
    service.submit([ServiceRequest(work=generation(n, prompts[n], OPTIONS), client="few") for n in (52, 53)])
    assert steps_until_done(service, 52) <= 7, "a newcomer again"
    finished = [event for event in drained(service) if isinstance(event, RequestFinished)]
    assert len(finished) == 52
    service.close()
    assert runtime.has_nothing_open


def test_a_newcomer_may_ask_for_more_than_those_that_wait(runtime: CountingRuntime, config: T5Config) -> None:
    service = SchedulingService(runtime, limits=ServiceLimits(max_batch_rows=16, max_encoder_tokens=20))
    prompts = random_prompts(config, [9] * 51)
    service.submit([ServiceRequest(work=generation(n, prompts[n], LONG), client="many") for n in range(50)])
    for _ in range(20):
        service.step()
    longer = DecodingOptions(max_new_tokens=400, min_new_tokens=30)
    service.submit([ServiceRequest(work=generation(50, prompts[50], longer), client="new", timeout_s=None)])
    service.step()
    assert service.counts().scheduler.num_alive == 15
    service.close()


def test_rows_that_no_reserve_is_kept_of_keep_nobody_else_waiting(runtime: CountingRuntime, config: T5Config) -> None:
    service = SchedulingService(runtime, limits=ServiceLimits(max_batch_rows=16))
    prompts = random_prompts(config, [9] * 8)
    service.submit([ServiceRequest(work=generation(n, prompts[n], LONG), client=str(n % 2)) for n in range(2)])
    service.step()
    many = dataclasses.replace(LONG, does_sample=True, num_return_sequences=15, seed=1)
    service.submit([ServiceRequest(work=generation(2, prompts[2], many), client="0")])
    service.step()
    service.submit([ServiceRequest(work=generation(n, prompts[n], OPTIONS), client="1") for n in (3, 4)])
    assert steps_until_done(service, 3) <= 7
    assert steps_until_done(service, 2) <= 130, "it has its turn when its client's other answer is done"
    drained(service)
    service.close()
    assert runtime.has_nothing_open


def test_requests_without_a_client_may_take_all(runtime: CountingRuntime, config: T5Config) -> None:
    scheduler = ContinuousScheduler(runtime, max_batch_rows=16)
    scheduler.submit([generation(n, prompt, LONG) for n, prompt in enumerate(random_prompts(config, [9] * 20))])
    scheduler.step()
    assert scheduler.counts().num_rows == 16
    scheduler.close()


def test_a_request_past_its_deadline_fails_and_frees_what_it_held(reference: Runtime, config: T5Config) -> None:
    clock = Clock()
    runtime = SlowEncoder(reference, clock)
    service = SchedulingService(runtime, limits=ServiceLimits(max_kept_bytes=0), clock=clock)
    options = DecodingOptions(max_new_tokens=100, min_new_tokens=100)
    prompts = random_prompts(config, [5, 6])
    service.submit([ServiceRequest(work=generation(0, prompts[0], options), timeout_s=1.0)])
    service.submit([ServiceRequest(work=generation(1, prompts[1], OPTIONS), timeout_s=1000.0)])
    events = drained(service)
    assert [(each.request_id, each.error_type) for each in failures(events)] == [(0, "DeadlineError")]
    assert {event.request_id for event in events} == {0, 1}
    assert runtime.has_nothing_open and service.counts().num_expired == 1


def test_a_limit_beyond_all_floats_waits_its_turn(runtime: CountingRuntime, config: T5Config) -> None:
    service = SchedulingService(runtime)
    prompts = random_prompts(config, [5, 6])
    long = DecodingOptions(max_new_tokens=10**400, stop_strings=())
    wide = DecodingOptions(max_new_tokens=4, num_beams=10**400)
    service.submit(
        [ServiceRequest(work=generation(0, prompts[0], wide)), ServiceRequest(work=generation(1, prompts[1]))]
    )
    assert [each.request_id for each in failures(drained(service))] == [0]
    service.submit([ServiceRequest(work=generation(2, prompts[0], long))])
    service.step()
    service.cancel(2)
    assert not service.has_work


def test_the_deadline_of_an_answer_is_not_that_of_the_next_request_of_its_id(
    reference: Runtime, config: T5Config
) -> None:
    clock = Clock()
    service = SchedulingService(SlowEncoder(reference, clock), limits=ServiceLimits(max_kept_bytes=0), clock=clock)
    prompts = random_prompts(config, [5, 6])
    long = DecodingOptions(max_new_tokens=100, min_new_tokens=100)
    service.submit([ServiceRequest(work=generation(2, prompts[1], long))])
    service.submit([ServiceRequest(work=generation(1, prompts[0], DecodingOptions(max_new_tokens=1)), timeout_s=1.0)])
    events = []
    while not any(event.request_id == 1 for event in events):
        events += service.step()
    assert clock.now < 1.0
    service.submit([ServiceRequest(work=generation(1, prompts[0], long))])
    assert failures(drained(service)) == [] and clock.now > 1.0


def test_a_cancelled_request_is_gone_wherever_it_was(runtime: CountingRuntime, config: T5Config) -> None:
    limits = ServiceLimits(max_encoder_tokens=10, max_batch_rows=1, max_kept_bytes=0)
    service = SchedulingService(runtime, limits=limits)
    prompts = random_prompts(config, [9, 8, 7, 6])
    service.submit([ServiceRequest(work=generation(n, each)) for n, each in enumerate(prompts)])
    score = ScoreRequest(request_id=9, encoder_input_ids=prompts[0], targets=(prompts[1],))
    service.submit([ServiceRequest(work=score)])
    service.cancel(9)
    service.step()  # 0 is alive, the others wait
    for request_id in (0, 1, 3, 77):
        service.cancel(request_id)
    assert {event.request_id for event in drained(service)} == {2}
    assert runtime.has_nothing_open


@pytest.mark.parametrize(
    "limits", [{"max_batch_rows": 0}, {"max_encoder_tokens": -1}, {"max_kept_bytes": -1}, {"max_cache_bytes": 0}]
)
def test_limits_that_cannot_be_are_refused_before_an_engine_is_started(limits: dict[str, int]) -> None:
    ((name, value),) = limits.items()
    with pytest.raises(ConfigError, match=f"{name} = {value} must be"):
        ServiceLimits(**limits)


def test_a_prompt_that_comes_back_is_not_encoded_again(runtime: CountingRuntime, config: T5Config) -> None:
    service = SchedulingService(runtime)
    first, second = random_prompts(config, [9, 8])
    found = []
    for number, prompt in enumerate((first, second, first)):
        service.submit([ServiceRequest(work=generation(number, prompt))])
        (event,) = drained(service)
        assert isinstance(event, RequestFinished)
        found.append(event.hypotheses[0])
    assert runtime.num_encoded == 2
    assert service.counts().scheduler.num_shared_prompts == 1
    assert found[0].token_log_probs.tobytes() == found[2].token_log_probs.tobytes()
    service.close()
    assert runtime.has_nothing_open


def test_kept_prompts_stay_within_their_bytes_and_give_way_to_requests(
    runtime: CountingRuntime, config: T5Config
) -> None:
    bytes_per_prompt = 16 * 2 * 3 * (8 + 16) * 4  # 2 layers, 3 heads, 8 key and 16 padded value numbers
    service = SchedulingService(runtime, limits=ServiceLimits(max_kept_bytes=3 * bytes_per_prompt))
    prompts = random_prompts(config, [16] * 10)
    for number, prompt in enumerate(prompts):
        service.submit([ServiceRequest(work=generation(number, prompt))])
        drained(service)
        assert service.counts().scheduler.cache_bytes <= 3 * bytes_per_prompt
    service.submit([ServiceRequest(work=generation(20, prompts[7])), ServiceRequest(work=generation(21, prompts[0]))])
    drained(service)
    assert runtime.num_encoded == 11  # 7 was kept, 0 was not
    tight = ServiceLimits(max_kept_bytes=2**30, max_prompt_tokens=32, max_cache_bytes=4 * bytes_per_prompt)
    service.close()
    service = SchedulingService(runtime, limits=tight)
    for number, prompt in enumerate(prompts):
        service.submit([ServiceRequest(work=generation(number, prompt))])
        (event,) = drained(service)
        assert isinstance(event, RequestFinished)
        assert sum(count for count in runtime.references.values()) <= 2
    service.close()
    assert runtime.has_nothing_open


def test_probes_give_what_the_runtime_gives_and_run_beside_answers(runtime: CountingRuntime, config: T5Config) -> None:
    service = SchedulingService(runtime, limits=ServiceLimits(max_encoder_tokens=30))
    prompts = random_prompts(config, [9, 8, 12, 5])
    service.submit([ServiceRequest(work=generation(0, prompts[0], DecodingOptions(max_new_tokens=20)))])
    targets = tuple(random_prompts(config, [3, 4], seed=5))
    works = [
        ScoreRequest(request_id=1, encoder_input_ids=prompts[1], targets=targets),
        EmbedRequest(request_id=2, encoder_input_ids=prompts[2], pooling=("max",)),
        ScoreRequest(request_id=3, encoder_input_ids=prompts[1], targets=targets[:1]),
        TraceRequest(request_id=4, encoder_input_ids=prompts[3], target_ids=targets[0], num_alternatives=3),
    ]
    service.submit([ServiceRequest(work=work) for work in works])
    events = {event.request_id: event for event in drained(service)}
    handles = runtime.encode([prompts[1]] * 2)
    expected = runtime.score(handles, list(targets))
    runtime.release(handles)
    scores, again, vector, trace = (events[number] for number in (1, 3, 2, 4))
    assert isinstance(scores, ScoreFinished) and isinstance(again, ScoreFinished)
    assert all(np.array_equal(a, b) for a, b in zip(scores.token_log_probs, expected, strict=True))
    assert np.array_equal(again.token_log_probs[0], expected[0])
    assert isinstance(vector, EmbedFinished)
    assert np.array_equal(vector.vector, pool(runtime.encoder_states([prompts[2]])[0], ["max"]))
    assert isinstance(trace, TraceFinished)
    assert trace.top_ids.shape == trace.top_log_probs.shape == (3, 3)
    assert trace.cross_attention is not None and trace.cross_attention.shape == (3, 5)
    assert np.allclose(trace.cross_attention.sum(axis=1), 1, atol=1e-5)
    assert isinstance(events[0], RequestFinished)
    service.close()
    assert runtime.has_nothing_open


def test_a_trace_without_attention_asks_the_engine_for_none(runtime: CountingRuntime, config: T5Config) -> None:
    prompt, target = random_prompts(config, [9, 4])
    work = TraceRequest(request_id=0, encoder_input_ids=prompt, target_ids=target)
    needs: list[bool] = []

    class Recording(CountingRuntime):
        """Notes whether attention was asked for."""

        def step(self, step: StepInput) -> StepOutput:
            needs.append(step.need.cross_attention)
            return super().step(step)

    whole, plain = run_probes(Recording(runtime), [work, dataclasses.replace(work, request_id=1, has_attention=False)])
    assert isinstance(whole, TraceFinished) and isinstance(plain, TraceFinished)
    assert needs == [True, False] and plain.cross_attention is None
    assert np.array_equal(whole.top_log_probs, plain.top_log_probs) and np.array_equal(whole.top_ids, plain.top_ids)


def test_the_attention_of_a_trace_is_held_in_bounded_pieces(
    runtime: CountingRuntime, config: T5Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, target = random_prompts(config, [9, 8])
    work = TraceRequest(request_id=0, encoder_input_ids=prompt, target_ids=target, num_alternatives=3)
    lengths: list[int] = []

    class Recording(CountingRuntime):
        """Notes how many tokens are fed at a time, and tells if their attention is larger than it may be."""

        def step(self, step: StepInput) -> StepOutput:
            output = super().step(step)
            if step.need.cross_attention:
                lengths.append(len(step.tokens))
                assert output.cross_attention is not None and output.cross_attention[0].nbytes <= most
            return output

    most = 2**27
    (whole,) = run_probes(Recording(runtime), [work])
    most = 3 * 4 * config.num_decoder_layers * config.num_heads * 9
    monkeypatch.setattr(probes, "_MAX_ATTENTION_BYTES", most)
    (pieces,) = run_probes(Recording(runtime), [work])
    assert lengths == [8, 3, 3, 2]
    assert isinstance(whole, TraceFinished) and isinstance(pieces, TraceFinished)
    assert whole.cross_attention is not None and pieces.cross_attention is not None
    assert np.array_equal(whole.top_ids, pieces.top_ids)
    # Float32: the reference multiplies matrices of other shapes, in another order.
    assert np.allclose(whole.top_log_probs, pieces.top_log_probs, atol=1e-5)
    assert np.allclose(whole.cross_attention, pieces.cross_attention, atol=1e-6)
    monkeypatch.setattr(probes, "_MAX_ATTENTION_BYTES", 1)
    most = 4 * config.num_decoder_layers * config.num_heads * 9
    run_probes(Recording(runtime), [work])
    assert lengths[4:] == [1] * 8, "never less than a token"
    assert runtime.has_nothing_open


def test_probes_with_more_caches_than_all_answers_may_take_are_refused(
    runtime: CountingRuntime, config: T5Config
) -> None:
    page = 16 * 2 * 3 * (8 + 16) * 4  # 16 tokens; 2 layers, 3 heads, 8 key and 16 padded value numbers
    service = SchedulingService(runtime, limits=ServiceLimits(max_cache_bytes=3 * page))
    short, long = random_prompts(config, [16, 33])
    works = [
        TraceRequest(request_id=0, encoder_input_ids=short, target_ids=long),
        TraceRequest(request_id=1, encoder_input_ids=short, target_ids=short),
        ScoreRequest(request_id=2, encoder_input_ids=short, targets=(short, short, short)),
        ScoreRequest(request_id=3, encoder_input_ids=short, targets=(short, short)),
        EmbedRequest(request_id=4, encoder_input_ids=np.tile(short, 9)),
    ]
    service.submit([ServiceRequest(work=work) for work in works])
    refused = failures(drained(service))
    assert [(each.request_id, each.error_type) for each in refused] == [(0, "RequestError"), (2, "RequestError")]
    assert f"33 can take {4 * page:,} bytes of caches, more than max_cache_bytes = {3 * page:,}" in refused[0].error


def test_a_probe_waits_until_its_caches_have_room_beside_the_answers() -> None:
    pytest.importorskip("t5kit._native")
    config = TINY_CONFIGS["t5_v1_1"]
    engine = NativeRuntime(config, random_tensors(config), weights="float32", threads=1)
    most_held = 0

    class Watched(CountingRuntime):
        def score(self, handles: Sequence[int], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
            nonlocal most_held
            most_held = max(most_held, engine.cache_bytes + sum(prompt_bytes(config, len(ids)) for ids in targets))
            return super().score(handles, targets)

    page = prompt_bytes(config, 16)
    service = SchedulingService(Watched(engine), limits=ServiceLimits(max_cache_bytes=10 * page, max_kept_bytes=page))
    options = DecodingOptions(max_new_tokens=48, min_new_tokens=48)
    prompts = random_prompts(config, [16] * 9)
    service.submit([ServiceRequest(work=generation(number, prompt, options)) for number, prompt in enumerate(prompts)])
    events = service.step()
    target = random_prompts(config, [100])[0]
    small = [
        ScoreRequest(request_id=20 + i, encoder_input_ids=each[-1:], targets=(each[-1:],))
        for i, each in enumerate(prompts)
    ]
    large = ScoreRequest(request_id=10, encoder_input_ids=prompts[0], targets=(target,))
    service.submit([ServiceRequest(work=work) for work in (large, *small)])
    events += drained(service)
    assert not failures(events) and len(events) == 9 + 1 + 9
    assert 8 * page <= most_held <= 10 * page
    order = [event.request_id for event in events]
    assert order.index(10) < order.index(8), "answers that came before the probe do not pass it for ever"


def test_the_trace_of_a_greedy_answer_has_the_answer_as_its_likeliest(
    runtime: CountingRuntime, config: T5Config
) -> None:
    (prompt,) = random_prompts(config, [9])
    service = SchedulingService(runtime)
    service.submit([ServiceRequest(work=generation(0, prompt))])
    (answer,) = drained(service)
    assert isinstance(answer, RequestFinished)
    (hypothesis,) = answer.hypotheses
    work = TraceRequest(request_id=1, encoder_input_ids=prompt, target_ids=hypothesis.token_ids)
    service.submit([ServiceRequest(work=work)])
    (trace,) = drained(service)
    assert isinstance(trace, TraceFinished)
    assert trace.top_ids[:, 0].tolist() == hypothesis.token_ids.tolist()
    assert np.allclose(trace.top_log_probs[:, 0], trace.token_log_probs, atol=1e-5)
    assert np.allclose(trace.token_log_probs, hypothesis.token_log_probs, atol=1e-5)


def test_a_bad_probe_fails_alone(runtime: CountingRuntime, config: T5Config) -> None:
    good, bad = random_prompts(config, [4, 4])
    bad[0] = config.vocab_size
    works = [
        ScoreRequest(request_id=0, encoder_input_ids=bad, targets=(good,)),
        ScoreRequest(request_id=1, encoder_input_ids=good, targets=(good,)),
        ScoreRequest(request_id=2, encoder_input_ids=good, targets=(bad,)),
        EmbedRequest(request_id=3, encoder_input_ids=bad),
        TraceRequest(request_id=4, encoder_input_ids=good, target_ids=bad),
    ]
    events = run_probes(runtime, works)
    assert {event.request_id for event in events if isinstance(event, RequestFailed)} == {0, 2, 3, 4}
    assert runtime.has_nothing_open


def test_wrong_requests_are_refused_by_the_next_step(runtime: CountingRuntime, config: T5Config) -> None:
    service = SchedulingService(runtime)
    (prompt,) = random_prompts(config, [4])
    service.submit(
        [
            ServiceRequest(work=generation(0, prompt), priority="urgent"),  # type: ignore[arg-type]
            ServiceRequest(work=generation(1, prompt), adapter="french"),
            ServiceRequest(work=generation(2, prompt)),
            ServiceRequest(work=generation(2, prompt)),
        ]
    )
    events = drained(service)
    errors = {event.request_id: event.error for event in failures(events)}
    assert "high, normal, low" in errors[0] and "no adapter 'french'" in errors[1] and "in use" in errors[2]


def an_adapter(config: T5Config, *, seed: int) -> Adapter:
    generator = np.random.Generator(np.random.Philox(seed))
    maps = {
        name: LowRankMap(
            a=generator.standard_normal((2, inputs)).astype(np.float32),
            b=generator.standard_normal((outputs, 2)).astype(np.float32),
        )
        for name, (outputs, inputs) in linear_map_shapes(config).items()
        if name.endswith((".q", ".v"))
    }
    return Adapter(source="test", maps=maps)


def test_requests_under_different_adapters_run_together_and_do_not_share_prompts(config: T5Config) -> None:
    runtime = ReferenceRuntime(config, tensors_that_end(config))
    names = {"a": runtime.add_adapter(an_adapter(config, seed=1)), "b": runtime.add_adapter(an_adapter(config, seed=2))}
    prompts = random_prompts(config, [9, 9])
    options = DecodingOptions(max_new_tokens=6, min_new_tokens=6)
    works = [generation(n, prompts[n % 2], options) for n in range(6)]
    adapters = ["", "", "a", "a", "b", "b"]

    def answers(service: SchedulingService, chosen: Sequence[int]) -> dict[int, list[int]]:
        service.submit([ServiceRequest(work=works[n], adapter=adapters[n]) for n in chosen])
        events = drained(service)
        return {e.request_id: e.hypotheses[0].token_ids.tolist() for e in events if isinstance(e, RequestFinished)}

    together = answers(SchedulingService(runtime, adapters=names), range(6))
    for n in range(6):
        assert answers(SchedulingService(runtime, adapters=names), [n])[n] == together[n]
    assert len({str(together[n]) for n in (0, 2, 4)}) == 3


def test_an_adapter_on_a_runtime_without_them_is_refused(runtime: CountingRuntime, config: T5Config) -> None:
    class Plain(CountingRuntime):
        """Knows no adapters."""

    plain = Plain(runtime)
    scheduler = ContinuousScheduler(plain)
    (prompt,) = random_prompts(config, [4])
    scheduler.submit([dataclasses.replace(generation(0, prompt), adapter=1)])
    (event,) = scheduler.step()
    assert isinstance(event, RequestFailed) and event.error_type == EngineError.__name__
    with pytest.raises(RequestError, match="max_kept_bytes"):
        ContinuousScheduler(plain, max_kept_bytes=-1)


class Anything:
    """A constraint that permits every id."""

    def allowed(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.ones(TINY_CONFIGS["t5_v1_1"].vocab_size, bool)


class SlowTranslator:
    """A ConstraintFactory that ends when it is let, and counts what it was asked for."""

    def __init__(self) -> None:
        self.may_end, self.asked = threading.Event(), list[str]()

    def __call__(self, grammar: Grammar) -> Constraint:
        self.asked.append(grammar.text)
        assert self.may_end.wait(30)
        if grammar.text == "broken":
            raise RequestError("no such grammar")
        return Anything()


def constrained(text: str) -> DecodingOptions:
    return dataclasses.replace(OPTIONS, grammar=Grammar("regex", text))


def test_answers_go_on_while_a_grammar_is_translated(runtime: CountingRuntime, config: T5Config) -> None:
    prompts, translator = random_prompts(config, [3, 4, 5, 6, 7]), SlowTranslator()
    service = SchedulingService(runtime, constraint_factory=translator)
    texts = [None, "a", "a", "broken", None]
    options = [OPTIONS if text is None else constrained(text) for text in texts]
    service.submit([ServiceRequest(work=generation(n, prompts[n], options[n])) for n in range(5)])
    events = []
    while len(events) < 2:
        events += service.step()
    assert {event.request_id for event in events} == {0, 4}, "what has no grammar does not wait for it"
    assert service.step() == [] and service.has_work and service.counts().num_queued == 3
    translator.may_end.set()
    later = {event.request_id: event for event in drained(service)}
    assert translator.asked == ["a", "broken"], "one for all that ask for it"
    (failed,) = failures(list(later.values()))
    assert failed.request_id == 3 and failed.error == "no such grammar" and failed.error_type == "RequestError"
    plain = SchedulingService(runtime)
    plain.submit([ServiceRequest(work=generation(n, prompts[n])) for n in (1, 2)])
    for event in drained(plain):
        assert isinstance(event, RequestFinished)
        found = later[event.request_id]
        assert isinstance(found, RequestFinished)
        np.testing.assert_array_equal(found.hypotheses[0].token_ids, event.hypotheses[0].token_ids)
    service.submit([ServiceRequest(work=generation(9, prompts[0], constrained("a")))])
    assert len(drained(service)) == 1 and translator.asked.count("a") == 2, "none outlives its requests"
    for each in (service, plain):
        each.close()
    assert runtime.has_nothing_open


def test_a_request_may_leave_while_its_grammar_is_translated(runtime: CountingRuntime, config: T5Config) -> None:
    clock, translator = Clock(), SlowTranslator()
    service = SchedulingService(runtime, constraint_factory=translator, clock=clock)
    (prompt,) = random_prompts(config, [4])
    service.submit([ServiceRequest(work=generation(n, prompt, constrained(str(n))), timeout_s=5.0) for n in range(3)])
    while not translator.asked:
        time.sleep(0.001)
    service.cancel(0)
    clock.now = 6.0
    events = service.step()
    assert [(event.request_id, event.error_type) for event in failures(events)] == [
        (1, "DeadlineError"),
        (2, "DeadlineError"),
    ]
    assert not service.has_work
    translator.may_end.set()
    service.submit([ServiceRequest(work=generation(0, prompt, constrained("later")))])
    assert len(drained(service)) == 1
    assert translator.asked == ["0", "later"], "what nobody waits for any more is not begun"
    service.close()

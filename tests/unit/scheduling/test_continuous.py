"""Continuous batching: every request is answered or fails by itself, rows are refilled, and nothing is left open."""

import dataclasses
import itertools
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy as np
import pytest

from t5kit.decoding import Constraint, DecodingOptions, Grammar
from t5kit.errors import EngineError, RequestError
from t5kit.runtime import StepInput, StepOutput
from t5kit.runtime.interrupts import interrupts_between_blocks, interrupts_wait
from t5kit.runtime.native import NativeRuntime
from t5kit.scheduling import (
    ContinuousScheduler,
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    TokensGenerated,
    request_bytes,
)
from t5kit.scheduling.memory import prompt_bytes
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.answers import NumberDetokenizer, random_prompts, run
from t5kit.testing.counting_runtime import CountingRuntime
from t5kit.testing.tiny import random_tensors

GREEDY = DecodingOptions(max_new_tokens=8)
MIXED = (
    GREEDY,
    DecodingOptions(max_new_tokens=6, num_beams=3, num_return_sequences=2),
    DecodingOptions(max_new_tokens=5, does_sample=True, seed=1, num_return_sequences=3),
    DecodingOptions(max_new_tokens=7, does_sample=True, seed=1, top_k=5),
    DecodingOptions(max_new_tokens=8, num_beams=4, num_beam_groups=2, diversity_penalty=0.4),
    DecodingOptions(max_new_tokens=8, forced_prefix_ids=(5, 6, 7), repetition_penalty=1.4),
    DecodingOptions(max_new_tokens=8, num_beams=3, stop_strings=("3><",), no_repeat_ngram_size=2),
)


def requests(
    prompts: Sequence[np.ndarray], options: Sequence[DecodingOptions] = (GREEDY,), *, is_streamed: bool = False
) -> list[GenerationRequest]:
    return [
        GenerationRequest(request_id=number, encoder_input_ids=prompt, options=each, is_streamed=is_streamed)
        for number, (prompt, each) in enumerate(zip(prompts, itertools.cycle(options), strict=False))
    ]


def scheduler(runtime: CountingRuntime, **limits: Any) -> ContinuousScheduler:
    return ContinuousScheduler(runtime, detokenizer_factory=NumberDetokenizer, **limits)


def ids_by_request(events: Sequence[Event]) -> dict[int, list[list[int]]]:
    return {
        event.request_id: [hypothesis.token_ids.tolist() for hypothesis in event.hypotheses]
        for event in events
        if isinstance(event, RequestFinished)
    }


@pytest.mark.parametrize("max_batch_rows", [4, 7, 256])
def test_batches_of_any_size_give_the_same_answers(runtime: CountingRuntime, max_batch_rows: int) -> None:
    prompts = random_prompts(runtime.config, [3, 18, 7, 1, 9, 4, 12, 5, 2])
    together = ids_by_request(run(scheduler(runtime, max_batch_rows=max_batch_rows), requests(prompts, MIXED)))
    assert sorted(together) == list(range(len(prompts)))
    for request in requests(prompts, MIXED):
        alone = ids_by_request(run(scheduler(runtime), [request]))
        assert together[request.request_id] == alone[request.request_id]
    assert runtime.has_nothing_open


def test_all_searches_of_a_batch_share_each_step(runtime: CountingRuntime) -> None:
    prompts = random_prompts(runtime.config, [3, 18, 7])
    long = DecodingOptions(max_new_tokens=8, min_new_tokens=8)
    sampled = DecodingOptions(max_new_tokens=8, min_new_tokens=8, does_sample=True, top_k=3, seed=0)
    run(scheduler(runtime), requests(prompts, (long, sampled)))
    assert runtime.num_steps == 8


def test_equal_prompts_are_encoded_once(runtime: CountingRuntime) -> None:
    one, other = random_prompts(runtime.config, [6, 6])
    events = run(scheduler(runtime), requests([one, other, one.copy(), one.astype(np.int64), other], MIXED[:3]))
    assert runtime.num_encoded == 2
    assert len(ids_by_request(events)) == 5
    assert runtime.has_nothing_open


def test_equal_prompts_of_different_batches_are_encoded_once(runtime: CountingRuntime) -> None:
    one, other, third = random_prompts(runtime.config, [6, 6, 6])
    prompts = [one, other, one, third, other, one, one, other, one]
    events = run(scheduler(runtime, max_batch_rows=2), requests(prompts))
    assert runtime.num_encoded == 3
    assert len(ids_by_request(events)) == len(prompts)
    assert runtime.has_nothing_open


def test_a_prompt_kept_for_the_next_batch_is_freed_when_nobody_wants_it(runtime: CountingRuntime) -> None:
    (prompt,) = random_prompts(runtime.config, [6])
    working = scheduler(runtime, max_batch_rows=1)
    working.submit(requests([prompt, prompt]))
    working.step()
    assert any(runtime.references.values())
    working.cancel(1)
    assert not any(runtime.references.values())
    working.close()
    assert runtime.has_nothing_open


def test_the_encoder_is_given_chunks_of_bounded_size(runtime: CountingRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[list[int]] = []
    encode = CountingRuntime.encode

    def recording(self: CountingRuntime, sequences: Sequence[np.ndarray]) -> list[int]:
        chunks.append([len(ids) for ids in sequences])
        return encode(self, sequences)

    monkeypatch.setattr(CountingRuntime, "encode", recording)
    prompts = random_prompts(runtime.config, [3, 30, 7, 8, 9, 2, 4])
    run(scheduler(runtime, max_encoder_tokens=20), requests(prompts))
    assert chunks == [[30], [9, 8], [7, 4], [3, 2]]  # longest first; a prompt over the limit goes alone


def test_later_submissions_come_later(runtime: CountingRuntime) -> None:
    made = requests(random_prompts(runtime.config, [3, 4, 20, 21]))
    working = scheduler(runtime, max_batch_rows=2)
    working.submit(made[:2])
    working.submit(made[2:])
    events = []
    while working.has_work:
        events += working.step()
    queued = {event.request_id: event.timings.queued_s for event in events if isinstance(event, RequestFinished)}
    assert max(queued[0], queued[1]) < min(queued[2], queued[3])


def test_a_finished_answer_frees_its_row_for_the_next_prompt_at_once(runtime: CountingRuntime) -> None:
    short, long = (DecodingOptions(max_new_tokens=n, min_new_tokens=n) for n in (2, 9))
    made = requests(random_prompts(runtime.config, [9, 8, 7, 6, 5]), [long, short, short, short, short])
    working = scheduler(runtime, max_batch_rows=2)
    working.submit(made)
    while working.has_work:
        working.step()
    assert runtime.num_steps == 9  # the four short ones run one after another beside the long one
    assert runtime.num_rows == 9 + 4 * 2


def test_running_answers_are_fed_between_two_encoder_runs(runtime: CountingRuntime) -> None:
    options = DecodingOptions(max_new_tokens=20, min_new_tokens=20)
    working = scheduler(runtime, max_encoder_tokens=40)
    working.submit(requests(random_prompts(runtime.config, [20] * 10), [options]))
    encoded: list[int] = []
    rows: list[int] = []
    while len(encoded) < 6:
        fed = runtime.num_rows
        working.step()
        encoded.append(runtime.num_encoded)
        rows.append(runtime.num_rows - fed)
    assert encoded == [2, 4, 6, 8, 10, 10]  # no run takes more than 40 tokens
    assert rows == [2, 4, 6, 8, 10, 10]  # and everyone admitted is fed in every step
    working.close()


def test_few_short_prompts_wait_until_an_encoder_run_is_worth_while(runtime: CountingRuntime) -> None:
    lengths = itertools.cycle([6, 7, 8, 9])
    options = [DecodingOptions(max_new_tokens=n, min_new_tokens=n) for n in itertools.islice(lengths, 48)]
    chunks: list[int] = []

    class Recording(CountingRuntime):
        def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
            chunks.append(len(sequences))
            return super().encode(sequences)

    recording = Recording(runtime)
    events = run(scheduler(recording, max_batch_rows=16), requests(random_prompts(runtime.config, [4] * 48), options))
    assert len(ids_by_request(events)) == 48
    assert min(chunks[:-1]) >= 4  # a quarter of the rows


def test_limits_hold_at_every_step(runtime: CountingRuntime) -> None:
    config = runtime.config
    options = [MIXED[0], MIXED[1], MIXED[4], MIXED[2]]
    made = requests(random_prompts(config, [3, 40, 17, 5, 30, 9, 22, 2, 11, 28]), options)
    most = 2 * max(request_bytes(config, len(each.encoder_input_ids), each.options) for each in made)
    working = scheduler(runtime, max_batch_rows=9, max_prompt_tokens=60, max_cache_bytes=most)
    working.submit(made)
    by_id = {request.request_id: request for request in made}
    events: list[Event] = []
    num_together = 0
    while working.has_work:
        events += working.step()
        done = {event.request_id for event in events}
        alive = [by_id[request_id] for request_id in working.alive_ids if request_id not in done]
        num_together = max(num_together, len(alive))
        assert len(runtime.open_slot_ids) <= 9
        assert sum(len(each.encoder_input_ids) for each in alive) <= 60
        assert sum(request_bytes(config, len(each.encoder_input_ids), each.options) for each in alive) <= most
    assert len(ids_by_request(events)) == len(made)
    assert num_together > 1
    assert runtime.has_nothing_open


@pytest.mark.parametrize("family", ["t5", "mt5", "byt5"])
def test_the_engine_holds_no_more_than_was_told_beforehand(family: str) -> None:
    pytest.importorskip("t5kit._native")
    config = dataclasses.replace(TINY_CONFIGS[family], d_kv=9)
    engine = NativeRuntime(config, random_tensors(config), weights="float32", threads=1)
    long = [dataclasses.replace(each, max_new_tokens=37, min_new_tokens=37, stop_strings=()) for each in MIXED]
    made = requests(random_prompts(config, [3, 16, 17, 40, 5, 33, 64]), long)
    told = [request_bytes(config, len(each.encoder_input_ids), each.options) for each in made]
    for request, most in zip(made, told, strict=True):
        assert 0 < most_held(scheduler(engine), engine, [request]) <= most
    rows = len(made[0].encoder_input_ids), made[0].options
    assert most_held(scheduler(engine), engine, made[:1]) == request_bytes(config, *rows), "a greedy text takes it all"
    for limit in (max(told), 2 * max(told)):
        assert most_held(scheduler(engine, max_cache_bytes=limit), engine, made) <= limit


def test_kept_prompts_give_way_to_many_short_ones_page_by_page() -> None:
    pytest.importorskip("t5kit._native")
    config = TINY_CONFIGS["t5_v1_1"]
    engine = NativeRuntime(config, random_tensors(config), weights="float32", threads=1)
    long, short = random_prompts(config, [160] * 3), random_prompts(config, [2] * 30)
    limit = prompt_bytes(config, 16) * 36
    working = scheduler(engine, max_cache_bytes=limit, max_kept_bytes=limit)
    options = [DecodingOptions(max_new_tokens=3, min_new_tokens=3)]
    run(working, requests(long, options))
    assert engine.cache_bytes == 3 * prompt_bytes(config, 160)
    working.submit([dataclasses.replace(each, request_id=100 + each.request_id) for each in requests(short, options)])
    while working.has_work:
        working.step()
        assert 0 < engine.cache_bytes <= limit


def test_spare_pages_give_way_to_prompts() -> None:
    """Long answers and then long prompts: what the first left behind is not kept beside the second."""
    pytest.importorskip("t5kit._native")
    config = TINY_CONFIGS["t5_v1_1"]
    engine = NativeRuntime(config, random_tensors(config), weights="float32", threads=1)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, engine.cache_bytes)
        assert engine.cache_bytes + engine.spare_cache_bytes <= most

    short, long = random_prompts(config, [4] * 8), random_prompts(config, [200] * 4)
    for _ in range(3):
        slots = engine.open_slots(engine.encode(short))
        for position in range(40):
            engine.step(StepInput.one_token_each(slots, np.full(8, 3 + position, np.int32)))
            look()
        engine.close_slots(slots)
        assert engine.spare_cache_bytes > 0
        look()
        handles = engine.encode(long)
        look()
        engine.release(handles)
        look()


def most_held(working: ContinuousScheduler, engine: Any, made: Sequence[GenerationRequest]) -> int:
    """Return the most bytes of caches between two steps, with all requests answered and nothing kept."""
    working.submit(made)
    most, events = 0, []
    while working.has_work:
        events += working.step()
        most = max(most, engine.cache_bytes)
    assert len(ids_by_request(events)) == len(made) and engine.cache_bytes == 0
    return most


def test_a_prompt_longer_than_all_limits_on_tokens_goes_alone(runtime: CountingRuntime) -> None:
    made = requests(random_prompts(runtime.config, [30, 5, 31, 4]))
    events = run(scheduler(runtime, max_prompt_tokens=10, max_encoder_tokens=10), made)
    assert sorted(ids_by_request(events)) == [0, 1, 2, 3]


def test_a_request_that_can_never_fit_into_memory_is_told_what_it_takes(runtime: CountingRuntime) -> None:
    made = requests(random_prompts(runtime.config, [5, 5]), [GREEDY, DecodingOptions(max_new_tokens=8000, num_beams=8)])
    fits = request_bytes(runtime.config, 5, GREEDY)
    events = run(scheduler(runtime, max_cache_bytes=fits), made)
    assert list(ids_by_request(events)) == [0]
    (failed,) = (event for event in events if isinstance(event, RequestFailed))
    assert failed.error_type == "RequestError"
    assert f"{request_bytes(runtime.config, 5, made[1].options):,} bytes" in failed.error
    assert "max_cache_bytes" in failed.error


def test_the_estimate_is_keys_and_values_of_all_layers_in_float32() -> None:
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], num_decoder_layers=3, num_heads=2, d_kv=64)
    # 3 layers x 2 heads x (64 + 64) numbers x 4 bytes a token; pages of 16 tokens
    assert request_bytes(config, 17, DecodingOptions(max_new_tokens=16, num_beams=4)) == 3072 * (32 + 4 * 16)


def test_rows_that_need_no_dense_logits_never_share_a_step_with_those_that_do(
    runtime: CountingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs: list[tuple[int, bool]] = []
    step = CountingRuntime.step

    def recording(self: CountingRuntime, fed: StepInput) -> StepOutput:
        needs.append((len(fed.slots), fed.need.logits))
        return step(self, fed)

    monkeypatch.setattr(CountingRuntime, "step", recording)
    long = {"max_new_tokens": 5, "min_new_tokens": 5}
    options = [DecodingOptions(**long), DecodingOptions(**long, does_sample=True, seed=1)]  # type: ignore[arg-type]
    run(scheduler(runtime), requests(random_prompts(runtime.config, [5, 6, 7]), options))
    assert needs == [(2, False), (1, True)] * 5


def test_streams_join_to_the_answers_and_end_with_them(runtime: CountingRuntime) -> None:
    prompts = random_prompts(runtime.config, [3, 18, 7])
    events = run(scheduler(runtime), requests(prompts, (GREEDY, MIXED[3], MIXED[5]), is_streamed=True))
    answers = ids_by_request(events)
    for number in range(3):
        mine = [event for event in events if event.request_id == number]
        assert isinstance(mine[-1], RequestFinished)
        pieces = [event.token_ids.tolist() for event in mine[:-1] if isinstance(event, TokensGenerated)]
        assert len(pieces) == len(mine) - 1
        assert list(itertools.chain(*pieces)) == answers[number][0]
    assert answers == ids_by_request(run(scheduler(runtime), requests(prompts, (GREEDY, MIXED[3], MIXED[5]))))


def test_requests_that_cannot_be_answered_fail_alone(runtime: CountingRuntime) -> None:
    prompts = random_prompts(runtime.config, [3, 4, 5, 6, 7, 8])
    made = requests(prompts, MIXED)
    made += [
        GenerationRequest(request_id=10, encoder_input_ids=np.array([5, 96, 1], np.int32)),
        GenerationRequest(request_id=11, encoder_input_ids=np.array([], np.int32)),
        GenerationRequest(request_id=12, encoder_input_ids=np.array([[5, 1]], np.int32)),
        GenerationRequest(request_id=13, encoder_input_ids=[5, 1]),  # type: ignore[arg-type]
        GenerationRequest(request_id=14, encoder_input_ids=np.array([0.5, 1.0])),
        GenerationRequest(
            request_id=15, encoder_input_ids=prompts[0], options=DecodingOptions(forced_prefix_ids=(500,))
        ),
        GenerationRequest(request_id=16, encoder_input_ids=prompts[0], options=DecodingOptions(num_beams=10**9)),
        GenerationRequest(request_id=18, encoder_input_ids=prompts[0], sample_stream=-1),
        GenerationRequest(
            request_id=17,
            encoder_input_ids=prompts[0],
            options=DecodingOptions(allowed_outputs=((7, 8, 1),), suppressed_ids=(8,)),
        ),
    ]
    events = run(scheduler(runtime), made)
    failed = {event.request_id: event for event in events if isinstance(event, RequestFailed)}
    assert sorted(failed) == list(range(10, 19))
    assert {event.error_type for event in failed.values()} == {"RequestError"}
    assert "96" in failed[10].error
    assert "num_beams" in failed[16].error
    assert sorted(ids_by_request(events)) == list(range(6))
    assert len(events) == len(made)
    assert runtime.has_nothing_open


def test_stop_strings_without_a_detokenizer_are_refused(runtime: CountingRuntime) -> None:
    (request,) = requests(random_prompts(runtime.config, [3]), [DecodingOptions(stop_strings=("x",))])
    (event,) = run(ContinuousScheduler(runtime), [request])
    assert isinstance(event, RequestFailed)
    assert "detokenizer" in event.error


def test_a_grammar_that_is_refused_takes_no_other_request_for_the_same_text_with_it(runtime: CountingRuntime) -> None:
    def refuse(grammar: Grammar) -> Constraint:
        raise RequestError(f"no such {grammar.kind}")

    made = requests(random_prompts(runtime.config, [5]) * 3, [GREEDY, DecodingOptions(grammar=Grammar("regex", "a"))])
    events = run(ContinuousScheduler(runtime, constraint_factory=refuse), made)
    assert sorted(ids_by_request(events)) == [0, 2]
    assert [event.request_id for event in events if isinstance(event, RequestFailed)] == [1]
    assert runtime.num_encoded == 1 and runtime.has_nothing_open


class EncoderThatRefuses(CountingRuntime):
    """Fails on any chunk that holds a prompt of seven tokens."""

    def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
        if any(len(ids) == 7 for ids in sequences):
            raise EngineError("out of memory")
        return super().encode(sequences)


def test_a_prompt_that_the_encoder_refuses_fails_alone(reference: CountingRuntime) -> None:
    runtime = EncoderThatRefuses(reference)
    prompts = random_prompts(runtime.config, [3, 7, 5, 7, 2])
    events = run(scheduler(runtime), requests(prompts, MIXED))
    assert sorted(ids_by_request(events)) == [0, 2, 4]
    failed = {event.request_id: event for event in events if isinstance(event, RequestFailed)}
    assert {number: (each.error, each.error_type) for number, each in failed.items()} == {
        1: ("out of memory", "EngineError"),
        3: ("out of memory", "EngineError"),
    }
    assert runtime.has_nothing_open


class DecoderThatBreaks(CountingRuntime):
    """Fails once, at its fourth step."""

    def step(self, step: StepInput) -> StepOutput:
        if self.num_steps == 3:
            self.num_steps += 1
            raise EngineError("the device is gone")
        return super().step(step)


def test_a_step_that_fails_fails_its_batch_and_the_next_one_goes_on(reference: CountingRuntime) -> None:
    runtime = DecoderThatBreaks(reference)
    long = [
        DecodingOptions(max_new_tokens=8, min_new_tokens=6),
        DecodingOptions(max_new_tokens=8, min_new_tokens=6, num_beams=2),
    ]
    events = run(scheduler(runtime, max_batch_rows=3), requests(random_prompts(runtime.config, [9, 8, 3, 2]), long))
    failed = [event.request_id for event in events if isinstance(event, RequestFailed)]
    assert sorted(failed) == [0, 1]
    assert sorted(ids_by_request(events)) == [2, 3]
    assert runtime.has_nothing_open


@pytest.mark.parametrize("options", MIXED)
def test_cancelling_frees_everything_at_once(runtime: CountingRuntime, options: DecodingOptions) -> None:
    prompts = random_prompts(runtime.config, [9, 8, 7, 6])
    working = scheduler(runtime, max_batch_rows=12)
    working.submit(requests(prompts, [options, DecodingOptions(max_new_tokens=8, min_new_tokens=8)]))
    events = working.step()
    num_open = len(runtime.open_slot_ids)
    working.cancel(0)
    working.cancel(0)
    working.cancel(77)
    assert len(runtime.open_slot_ids) < num_open
    working.cancel(3)  # may still be waiting
    while working.has_work:
        events += working.step()
    assert sorted(ids_by_request(events)) == [1, 2]
    assert runtime.has_nothing_open


def test_closing_cancels_everything_and_the_scheduler_can_be_used_again(runtime: CountingRuntime) -> None:
    prompts = random_prompts(runtime.config, [9, 8, 7, 6])
    working = scheduler(runtime, max_batch_rows=3)
    working.submit(requests(prompts, MIXED[:2]))
    working.step()
    working.close()
    assert not working.has_work
    assert working.step() == []
    assert runtime.has_nothing_open
    assert sorted(ids_by_request(run(working, requests(prompts)))) == [0, 1, 2, 3]


def test_an_id_in_use_is_refused_and_one_that_is_done_is_not(runtime: CountingRuntime) -> None:
    made = requests(random_prompts(runtime.config, [3, 4]))
    working = scheduler(runtime)
    working.submit(made[:1])
    with pytest.raises(RequestError, match="in use"):
        working.submit(made)
    with pytest.raises(RequestError, match="in use"):
        scheduler(runtime).submit([made[0], made[0]])
    while working.has_work:
        working.step()
    assert len(run(working, made)) == 2


def test_timings_add_up(runtime: CountingRuntime) -> None:
    times = itertools.count(100)
    working = ContinuousScheduler(runtime, max_batch_rows=1, clock=lambda: float(next(times)))
    events = run(working, requests(random_prompts(runtime.config, [5, 4])))
    for event in events:
        assert isinstance(event, RequestFinished)
        timings = event.timings
        assert timings.encode_s == 1
        assert 0 < timings.queued_s < timings.queued_s + timings.encode_s < timings.first_token_s < timings.total_s
    assert events[0].timings.queued_s == 1  # type: ignore[union-attr]
    assert events[1].timings.queued_s > events[0].timings.total_s - 2  # type: ignore[union-attr]


def test_nonsense_limits_are_refused(runtime: CountingRuntime) -> None:
    for limits in (
        {"max_batch_rows": 0},
        {"max_encoder_tokens": 0},
        {"max_prompt_tokens": -1},
        {"max_cache_bytes": 0},
        {"max_batch_rows": 2.5},
    ):
        with pytest.raises(RequestError):
            scheduler(runtime, **limits)


def test_no_work_gives_no_events(runtime: CountingRuntime) -> None:
    idle = scheduler(runtime)
    idle.submit([])
    assert not idle.has_work
    assert idle.step() == []


class StopError(Exception):
    """What a program's own handler raises."""


def stop(number: int, frame: FrameType | None) -> None:
    raise StopError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGALRM])
@pytest.mark.parametrize("share", [number / 40 for number in range(40)])
def test_an_interrupt_between_any_two_lines_leaves_nothing_open(
    runtime: CountingRuntime, number: signal.Signals, share: float
) -> None:
    prompts = random_prompts(runtime.config, [3, 18, 7, 1, 9, 4, 12])
    asked = requests(prompts, MIXED)
    num_lines = count_lines(lambda: run(scheduler(runtime, max_batch_rows=8), asked))
    answering = scheduler(runtime, max_batch_rows=8)
    usual = signal.signal(number, stop)
    try:
        with pytest.raises(StopError):
            count_lines(lambda: run(answering, asked), interrupted_at=int(share * num_lines), number=number)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, usual)
    answering.close()
    assert runtime.has_nothing_open


def test_every_signal_within_a_step_is_delivered() -> None:
    delivered = []
    usual = signal.signal(signal.SIGTERM, lambda number, frame: delivered.append(number))
    try:
        with interrupts_wait():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert delivered == []
        assert delivered == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, usual)


def test_signals_between_blocks_take_effect_at_the_end_of_the_next() -> None:
    delivered = []

    def note(number: int, frame: FrameType | None) -> None:
        delivered.append(number)
        signal.signal(number, signal.SIG_IGN)  # as a handler that asks only once

    usual = signal.signal(signal.SIGALRM, note)
    try:
        with interrupts_between_blocks():
            signal.raise_signal(signal.SIGALRM)
            assert delivered == []
            with interrupts_wait():
                pass
            assert delivered == [signal.SIGALRM]
            signal.raise_signal(signal.SIGALRM)  # ignored from now on, within the block too
            with interrupts_wait():
                pass
        assert delivered == [signal.SIGALRM]
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
        signal.signal(signal.SIGALRM, stop)
        with pytest.raises(StopError), interrupts_between_blocks():
            signal.raise_signal(signal.SIGALRM)
        assert signal.getsignal(signal.SIGALRM) is stop
    finally:
        signal.signal(signal.SIGALRM, usual)


def count_lines(work: Callable[[], object], interrupted_at: int = -1, number: signal.Signals = signal.SIGINT) -> int:
    """Return how many lines of searches, schedulers and runtimes `work` runs; send a signal before one of them."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        nonlocal count
        if "t5kit" not in frame.f_code.co_filename or frame.f_code.co_filename.endswith("interrupts.py"):
            return None
        if event == "line":
            count += 1
            if count == interrupted_at + 1:
                signal.raise_signal(number)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count

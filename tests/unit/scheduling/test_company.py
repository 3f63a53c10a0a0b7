"""A thousand requests of every kind, in random order and company, on the native engine: each has its own bits."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions, Hypothesis
from t5kit.runtime import ReferenceRuntime
from t5kit.runtime.native import NativeRuntime, unavailable_reason
from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFailed, RequestFinished
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.answers import NumberDetokenizer, random_prompts, run, tensors_that_end
from t5kit.testing.counting_runtime import CountingRuntime

pytestmark = pytest.mark.skipif(unavailable_reason() is not None, reason="the native engine is not built")

NUM_REQUESTS = 1000
Bits = list[tuple[bytes, bytes, float, str, str | None]] | str


def random_options(generator: np.random.Generator) -> DecodingOptions:
    """Return options of any kind: greedy, sampled, beams, groups, constrained, edited, ended by text."""
    most = int(generator.integers(1, 20))
    options: dict[str, object] = {"max_new_tokens": most}
    if generator.random() < 0.5:
        options["speculate"] = [1, 3, 8, "auto"][generator.integers(4)]
    match generator.integers(5):
        case 0:
            options |= {"does_sample": True, "seed": int(generator.integers(9)), "temperature": 0.7}
            options["top_k"] = int(generator.choice([0, 5, 40]))
            options["num_return_sequences"] = int(generator.integers(1, 4))
        case 1 | 2:
            options |= {"num_beams": int(generator.integers(2, 6)), "length_penalty": float(generator.choice([0, 1]))}
            options["num_return_sequences"] = int(generator.integers(1, 3))
        case 3 if generator.random() < 0.5:
            options |= {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}
    if generator.random() < 0.2:
        options["repetition_penalty"] = 1.3
    if generator.random() < 0.2:
        options["no_repeat_ngram_size"] = 2
    if generator.random() < 0.2:
        options["min_new_tokens"] = int(generator.integers(0, most + 1))
    if generator.random() < 0.1:
        options["forced_prefix_ids"] = tuple(generator.integers(2, 90, min(3, most)).tolist())
    elif generator.random() < 0.1:
        outputs = [(*generator.integers(2, 9, n).tolist(), 1) for n in (1, 2, 3)]
        options |= {"allowed_outputs": tuple(outputs), "max_new_tokens": 4, "min_new_tokens": 0}
        options["no_repeat_ngram_size"] = 0
    if generator.random() < 0.1:
        options["forbidden_texts"] = tuple(f"<{token}>" for token in range(2, 90, 3))
    if generator.random() < 0.1:
        options["stop_strings"] = (f"{generator.integers(10)}><",)
    return DecodingOptions(**options)  # type: ignore[arg-type]


@functools.cache
def thousand_requests(config: T5Config) -> tuple[GenerationRequest, ...]:
    generator = np.random.Generator(np.random.Philox(3))
    prompts = random_prompts(config, generator.integers(1, 60, 300).tolist())  # so that prompts come again
    return tuple(
        GenerationRequest(
            request_id=number,
            encoder_input_ids=prompts[generator.integers(300)],
            options=random_options(generator),
            sample_stream=int(generator.integers(3)),
        )
        for number in range(NUM_REQUESTS)
    )


def bits(hypotheses: Sequence[Hypothesis]) -> Bits:
    return [
        (each.token_ids.tobytes(), each.token_log_probs.tobytes(), each.score, each.finish_reason, each.stop_string)
        for each in hypotheses
    ]


def answers(scheduler: ContinuousScheduler, requests: Sequence[GenerationRequest]) -> dict[int, Bits]:
    found: dict[int, Bits] = {}
    for event in run(scheduler, requests):
        if isinstance(event, RequestFinished):
            found[event.request_id] = bits(event.hypotheses)
        elif isinstance(event, RequestFailed):
            found[event.request_id] = event.error  # options that exclude every token
    return found


@pytest.mark.parametrize(
    "weights",
    [
        "float32",
        "int8",
        pytest.param("bfloat16", marks=pytest.mark.slow),
        pytest.param("int4", marks=pytest.mark.slow),
    ],
)
def test_a_thousand_mixed_requests_in_any_company_are_each_as_if_alone(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    native = NativeRuntime(config, tensors_that_end(config), weights=weights, threads=1)  # type: ignore[arg-type]
    runtime = CountingRuntime(native)
    requests = thousand_requests(config)
    alone: dict[int, Bits] = {}
    for request in requests:
        # Alone means without drafts too: a draft is company.
        plain = dataclasses.replace(request, options=dataclasses.replace(request.options, speculate=0))
        alone |= answers(ContinuousScheduler(runtime, detokenizer_factory=NumberDetokenizer), [plain])
    assert sum(isinstance(each, list) for each in alone.values()) > 0.9 * NUM_REQUESTS
    monkeypatch.setattr("t5kit.decoding.prefixes.MOST_FED_AHEAD", 5)  # with others a prefix is fed ahead, in pieces
    generator = np.random.Generator(np.random.Philox(4))
    every_limits: tuple[dict[str, Any], ...] = (
        {},
        {"max_batch_rows": 11, "max_encoder_tokens": 90},
        {"max_prompt_tokens": 100},
    )
    for limits in every_limits:
        shuffled = [requests[place] for place in generator.permutation(NUM_REQUESTS)]
        scheduler = ContinuousScheduler(runtime, detokenizer_factory=NumberDetokenizer, **limits)
        assert answers(scheduler, shuffled) == alone
    assert runtime.has_nothing_open
    native.close()


def ids_of(found: dict[int, Bits]) -> dict[int, object]:
    """Return the token ids and ends of each request's answers; what scores differ by in their last bits is left out."""
    return {
        number: [(ids, reason, stop) for ids, _, _, reason, stop in each] if isinstance(each, list) else each
        for number, each in found.items()
    }


def test_every_option_gives_the_reference_runtimes_answers() -> None:
    """On two threads, several at once; sampled and searched alike, scores that tie within rounding apart."""
    config = TINY_CONFIGS["t5_v1_1"]
    requests = thousand_requests(config)
    runtimes = (
        NativeRuntime(config, tensors_that_end(config), weights="float32", threads=2),
        ReferenceRuntime(config, tensors_that_end(config)),
    )
    native, reference = (
        ids_of(answers(ContinuousScheduler(runtime, detokenizer_factory=NumberDetokenizer), requests))
        for runtime in runtimes
    )
    differing = [number for number in reference if native[number] != reference[number]]
    assert len(differing) <= NUM_REQUESTS // 200, differing

"""Answers from tiny models in one call, for tests of decoding and scheduling."""

from collections.abc import Sequence

import numpy as np

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions, DetokenizerFactory, Hypothesis
from t5kit.runtime import Runtime
from t5kit.scheduling import (
    ContinuousScheduler,
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    Scheduler,
)
from t5kit.testing.tiny import random_tensors


class NumberDetokenizer:
    """Writes each id as a number in angle brackets, 5, 12 -> "<5><12>", so that stop strings easily cross tokens."""

    def push(self, token_id: int) -> str:
        """Return the token's text."""
        return f"<{token_id}>"

    def finish(self) -> str:
        """Return "": nothing is held back."""
        return ""


def tensors_that_end(
    config: T5Config, *, seed: int = 0, eos_gain: float = 3.0, head_gain: float = 0.5
) -> list[TensorView]:
    """Return `random_tensors` with a larger output row for EOS and a flatter head, so that many answers end.

    With a tied head the embedding stays as it is but for EOS's row.
    """
    views = []
    head = "shared.weight" if config.is_tied else "lm_head.weight"
    for view in random_tensors(config, seed=seed):
        if view.name == head:
            values = view.to_float32() * np.float32(1.0 if config.is_tied else head_gain)
            values[config.eos_id] *= eos_gain
            view = TensorView(name=view.name, dtype="F32", shape=view.shape, data=values.data.cast("B"))
        views.append(view)
    return views


def random_prompts(config: T5Config, lengths: Sequence[int], *, seed: int = 0) -> list[np.ndarray]:
    """Return one prompt of random ids for each length, EOS at its end."""
    generator = np.random.Generator(np.random.Philox(seed))
    prompts = [generator.integers(2, config.vocab_size, length).astype(np.int32) for length in lengths]
    for prompt in prompts:
        prompt[-1] = config.eos_id
    return prompts


def run(scheduler: Scheduler, requests: Sequence[GenerationRequest]) -> list[Event]:
    """Submit requests and return all events, in the order they came."""
    scheduler.submit(requests)
    events: list[Event] = []
    while scheduler.has_work:
        events.extend(scheduler.step())
    return events


def answers(
    runtime: Runtime,
    prompts: Sequence[np.ndarray],
    options: DecodingOptions | Sequence[DecodingOptions],
    *,
    detokenizer_factory: DetokenizerFactory | None = NumberDetokenizer,
    max_batch_rows: int = 256,
) -> list[tuple[Hypothesis, ...]]:
    """Return every prompt's hypotheses; options are shared or one a prompt. A failure is an AssertionError."""
    per_prompt = [options] * len(prompts) if isinstance(options, DecodingOptions) else options
    requests = [
        GenerationRequest(request_id=number, encoder_input_ids=prompt, options=each)
        for number, (prompt, each) in enumerate(zip(prompts, per_prompt, strict=True))
    ]
    scheduler = ContinuousScheduler(runtime, detokenizer_factory=detokenizer_factory, max_batch_rows=max_batch_rows)
    found: dict[int, tuple[Hypothesis, ...]] = {}
    for event in run(scheduler, requests):
        assert not isinstance(event, RequestFailed), event
        if isinstance(event, RequestFinished):
            found[event.request_id] = event.hypotheses
    return [found[request.request_id] for request in requests]

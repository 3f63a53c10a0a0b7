"""What a runtime opens for a block is closed again, whichever of its calls a signal's handler ends."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

from t5kit.api.ranking import relevance_scores
from t5kit.evaluation.answering import log_probabilities
from t5kit.explanation.alignment import cross_attention
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.scheduling.probes import ScoreRequest, TraceRequest, run_probes
from t5kit.testing.counting_runtime import CountingRuntime
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

CONFIG = TINY_CONFIGS["t5"]
PROMPTS = [np.array([5, 9, 1], np.int32), np.array([7, 1], np.int32), np.array([5, 9, 1], np.int32)]
TARGET = np.array([4, 1], np.int32)


class StopError(Exception):
    """What a program's own handler raises."""


class InterruptedRuntime(CountingRuntime):
    """One of whose calls a signal reaches before it gives what it opened."""

    def __init__(self, runtime: Runtime, call: str) -> None:
        super().__init__(runtime)
        usual: Callable[..., Any] = getattr(self, call)

        def interrupted(*arguments: object) -> object:
            result = usual(*arguments)
            signal.raise_signal(signal.SIGALRM)
            return result

        setattr(self, call, interrupted)


WORKS: dict[str, Callable[[Runtime], object]] = {
    "score": lambda runtime: log_probabilities(runtime, PROMPTS, [TARGET] * 3),
    "rank": lambda runtime: relevance_scores(runtime, PROMPTS, (4, 5), max_bytes=None),
    "align": lambda runtime: cross_attention(runtime, PROMPTS[0], TARGET),
    "probe score": lambda runtime: run_probes(
        runtime, [ScoreRequest(request_id=1, encoder_input_ids=PROMPTS[0], targets=(TARGET,))]
    ),
    "probe trace": lambda runtime: run_probes(
        runtime, [TraceRequest(request_id=1, encoder_input_ids=PROMPTS[0], target_ids=TARGET)]
    ),
}


@pytest.mark.parametrize("call", ["encode", "score", "open_slots", "step", "close_slots", "release"])
@pytest.mark.parametrize("work", WORKS)
def test_nothing_stays_open_when_a_handler_raises(work: str, call: str) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise StopError

    runtime = InterruptedRuntime(ReferenceRuntime(CONFIG, random_tensors(CONFIG)), call)
    usual = signal.signal(signal.SIGALRM, stop)
    try:
        WORKS[work](runtime)
    except StopError:
        pass
    else:
        assert call in ("score", "step", "open_slots", "close_slots"), "this work has no such call"
    finally:
        signal.signal(signal.SIGALRM, usual)
    assert runtime.has_nothing_open

"""The reference runtime against the conformance suite, and against the facts of T5."""

from collections.abc import Iterable

import numpy as np
import pytest

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import Head, T5Config
from t5kit.errors import EngineError
from t5kit.runtime.protocol import StepInput, StepOutput
from t5kit.runtime.reference import ReferenceRuntime, relative_position_buckets
from t5kit.testing.runtime_conformance import RuntimeConformance
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors


class TestReferenceRuntime(RuntimeConformance):
    tolerance = 1e-5

    def close_to_alone(self) -> float:
        return 0.0

    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> ReferenceRuntime:
        return ReferenceRuntime(config, tensors)


def test_a_score_that_fails_leaves_no_slot_open(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TINY_CONFIGS["t5"]
    runtime = ReferenceRuntime(config, random_tensors(config))
    handles = runtime.encode([np.int32([5, 1])])

    def fail(*arguments: object) -> StepOutput:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(runtime, "_output", fail)
        with pytest.raises(MemoryError):
            runtime.score(handles, [np.int32([6, 1])])
        (slot,) = slots = runtime.open_slots(handles)
        with pytest.raises(MemoryError):
            runtime.step(StepInput.one_token_each(slots, np.int32([0])))
        assert runtime.slot_lengths(slots).tolist() == [0]
        with pytest.raises(EngineError, match="not open"):
            runtime.slot_lengths(np.int32([slot - 1]))
    runtime.close_slots(slots)
    runtime.release(handles)
    with pytest.raises(EngineError, match="not open"):
        runtime.retain(handles)


def first_distances(*, is_bidirectional: bool) -> list[int]:
    distances = np.arange(400)
    buckets = relative_position_buckets(-distances, is_bidirectional=is_bidirectional, num_buckets=32, max_distance=128)
    return [int(np.argmax(buckets == bucket)) for bucket in range(buckets.max() + 1)]


def test_decoder_buckets_begin_at_the_published_distances() -> None:
    expected = [
        *range(17),
        19,
        21,
        24,
        27,
        31,
        35,
        40,
        46,
        52,
        59,
        67,
        77,
        87,
        99,
        113,
    ]  # run against mesh's formula
    assert first_distances(is_bidirectional=False) == expected


def test_encoder_buckets_begin_at_the_published_distances() -> None:
    assert first_distances(is_bidirectional=True) == [*range(9), 12, 16, 23, 32, 46, 64, 91]


def test_encoder_bucket_16_is_never_used() -> None:
    relative = np.arange(-300, 300)
    buckets = relative_position_buckets(relative, is_bidirectional=True, num_buckets=32, max_distance=128)
    assert sorted(set(buckets.tolist())) == [i for i in range(32) if i != 16]


def test_longt5_is_refused_by_name() -> None:
    config = T5Config(encoder_attention="local", vocab_size=96, d_model=8, d_ff=8)
    with pytest.raises(EngineError, match="local"):
        ReferenceRuntime(config, [])


def test_a_missing_tensor_is_named() -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    with pytest.raises(EngineError, match=r"lm_head\.weight"):
        ReferenceRuntime(config, [view for view in random_tensors(config) if view.name != "lm_head.weight"])


def test_an_encoder_alone_gives_states_and_refuses_to_generate() -> None:
    config = T5Config(
        vocab_size=96, d_model=16, d_kv=4, d_ff=16, num_encoder_layers=1, num_decoder_layers=0, head=Head.ENCODER
    )
    runtime = ReferenceRuntime(config, random_tensors(config))
    (states,) = runtime.encoder_states([np.array([5, 6, 1], np.int32)])
    assert states.shape == (3, 16)
    with pytest.raises(EngineError, match="cannot generate"):
        runtime.encode([np.array([5, 6, 1], np.int32)])

"""What the torch runtime promises beyond the conformance suite: company, bounds, failures, weights, live modules."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import Head, T5Config, tensor_shapes
from t5kit.errors import CheckpointError, EngineError, RequestError
from t5kit.model.loading import load_model
from t5kit.runtime import (
    ReferenceRuntime,
    torch_cache,
    torch_decoder,
    torch_encoder,
    torch_output,
    torch_runtime,
    torch_store,
)
from t5kit.runtime.torch_runtime import TorchRuntime
from t5kit.testing.runtime_conformance import feed, prompts
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

TOLERANCE = 3e-5  # see test_torch_runtime.py


@pytest.fixture
def config() -> T5Config:
    return TINY_CONFIGS["t5_v1_1"]


def close(actual: np.ndarray | None, expected: np.ndarray | None, tolerance: float = TOLERANCE) -> None:
    assert actual is not None and expected is not None
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def opened(config: T5Config) -> TorchRuntime:
    return TorchRuntime(config, random_tensors(config), weights="float32", device="cpu")


def texts(config: T5Config, lengths: Iterable[int]) -> list[np.ndarray]:
    generator = np.random.Generator(np.random.Philox(11))
    return [generator.integers(2, config.vocab_size, length).astype(np.int32) for length in lengths]


def logits_of(runtime: TorchRuntime, sequences: list[np.ndarray], tokens: list[int]) -> np.ndarray:
    """Feed the same tokens to a slot on each text; return the last logits [n, V]."""
    slots = runtime.open_slots(runtime.encode(sequences))
    logits = feed(runtime, slots, [tokens] * len(slots), logits=True).logits
    assert logits is not None
    return logits


# Company


@pytest.mark.parametrize("lengths", [[1, 1], [128, 3], [7, 7, 7], [33, 32, 31, 1, 64, 65], [5] * 9 + [90]])
def test_a_batch_gives_what_each_text_gives_alone(config: T5Config, lengths: list[int]) -> None:
    runtime, sequences = opened(config), texts(config, lengths)
    together = runtime.open_slots(runtime.encode(sequences))
    tokens = [0, 5, 9]
    steps = [feed(runtime, together, [[token]] * len(together), logits=True).logits for token in tokens]
    for i, ids in enumerate(sequences):
        alone = runtime.open_slots(runtime.encode([ids]))
        for token, logits in zip(tokens, steps, strict=True):
            assert logits is not None
            close(logits[i : i + 1], feed(runtime, alone, [[token]], logits=True).logits)


def test_some_slots_step_while_others_wait(config: T5Config) -> None:
    runtime, sequences = opened(config), texts(config, [9, 17, 40, 9, 33, 64, 2, 5])
    slots = runtime.open_slots(runtime.encode(sequences))
    feed(runtime, slots, [[0]] * 8)
    fed = {row: [0] for row in range(8)}
    # out of order, one alone, every second, too few for a run: each asks for another way of reading the cache
    for token, rows in enumerate([[7, 0], [3], [0, 2, 4, 6], [1, 3, 5, 7, 0], [2, 3, 4]], 10):
        feed(runtime, slots[rows], [[token]] * len(rows))
        for row in rows:
            fed[row].append(token)
    logits = feed(runtime, slots, [[3]] * 8, logits=True).logits
    assert logits is not None
    for i, ids in enumerate(sequences):
        close(logits[i : i + 1], logits_of(runtime, [ids], [*fed[i], 3]))


def test_uninitialised_memory_never_reaches_a_result(config: T5Config, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = torch_cache.CacheShape.allocate
    monkeypatch.setattr(torch_cache.CacheShape, "allocate", lambda *sizes: allocate(*sizes).fill_(math.nan))
    runtime = opened(config)
    slots = runtime.open_slots(runtime.encode(texts(config, [3, 40, 17, 31])))
    for token in range(20):  # past a growth of the arena
        out = feed(runtime, slots, [[token], [token] * 2, [token], [token]], logits=True)
        assert out.logits is not None and np.isfinite(out.logits).all()
    out = feed(runtime, runtime.fork_slots(slots[[1, 1, 0]]), [[4]] * 3, logits=True)
    assert out.logits is not None and np.isfinite(out.logits).all()


def test_slots_of_unequal_lengths_exchange_their_pasts(config: T5Config) -> None:
    runtime = opened(config)
    (handle,) = runtime.encode(prompts(config)[2:3])
    pasts = [[0, *range(3, 3 + n)] for n in (2, 20, 5, 40, 1, 17, 3)]  # three sizes of arenas
    slots = runtime.open_slots([handle] * len(pasts))
    feed(runtime, slots, pasts)
    parents = [3, 0, 1, 2, 5, 4, 3]
    runtime.reorder_slots(slots, slots[parents])
    assert runtime.slot_lengths(slots).tolist() == [len(pasts[parent]) for parent in parents]
    logits = feed(runtime, slots, [[9]] * len(pasts), logits=True).logits
    assert logits is not None
    for i, parent in enumerate(parents):
        alone = feed(runtime, runtime.open_slots([handle]), [[*pasts[parent], 9]], logits=True).logits
        close(logits[i : i + 1], alone)


# Bounds: what is cut into pieces gives what the whole gives


def test_long_feeds_in_pieces_equal_one_pass(config: T5Config, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [list(range(3, 60)), [4], list(range(30)), list(range(5, 50))]
    outputs = []
    for is_cut in (False, True):
        if is_cut:
            monkeypatch.setattr(torch_runtime, "_MAX_PIECE_TOKENS", 8)
            monkeypatch.setattr(torch_runtime, "_MAX_PASS_SCORES", 2000)
        runtime = opened(config)
        slots = runtime.open_slots(runtime.encode(prompts(config)[:4]))
        feed(runtime, slots[:2], [[0, 9], [0]])
        outputs.append(feed(runtime, slots, tokens, logits=True, all_positions=True, hidden=True, cross_attention=True))
    whole, cut = outputs
    close(cut.logits, whole.logits)
    close(cut.hidden, whole.hidden)
    assert cut.cross_attention is not None and whole.cross_attention is not None
    for actual, expected in zip(cut.cross_attention, whole.cross_attention, strict=True):
        assert actual.shape == expected.shape
        close(actual, expected)


def test_scores_in_chunks_equal_scores_at_once(config: T5Config, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, targets = opened(config), texts(config, [4, 1, 30, 2, 7])
    handles = runtime.encode(prompts(config))
    whole = runtime.score(handles, targets)
    monkeypatch.setattr(torch_runtime, "_MAX_SCORING_BYTES", 40 * config.num_decoder_layers * 2 * 24 * 4)
    monkeypatch.setattr(torch_output, "_MAX_LOGITS_BYTES", 3 * 4 * config.vocab_size)
    for cut, expected in zip(runtime.score(handles, targets), whole, strict=True):
        close(cut, expected)
    assert not runtime._slots


@pytest.mark.parametrize("family", ["t5_v1_1", "umt5"])
def test_long_inputs_in_blocks_equal_one_block(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TINY_CONFIGS[family]
    sequences = texts(config, [150, 70, 150])
    states, logits = opened(config).encoder_states(sequences), logits_of(opened(config), sequences, [0])
    monkeypatch.setattr(torch_encoder, "_MAX_BIAS_ELEMENTS", 100)
    monkeypatch.setattr(torch_encoder, "_MAX_RUN_TOKENS", {"cpu": 80, "cuda": 80})
    monkeypatch.setattr(torch_runtime, "_MAX_CROSS_ELEMENTS", 1000)
    for actual, expected in zip(opened(config).encoder_states(sequences), states, strict=True):
        close(actual, expected)
    close(logits_of(opened(config), sequences, [0]), logits)


def test_distances_beyond_the_first_table_equal_the_references(config: T5Config) -> None:
    sequences, reference = texts(config, [700]), ReferenceRuntime(config, random_tensors(config))
    close(opened(config).encoder_states(sequences)[0], reference.encoder_states(sequences)[0])


# Failures


def test_a_step_that_fails_leaves_the_slots_as_they_were(config: T5Config, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = opened(config)
    slots = runtime.open_slots(runtime.encode(prompts(config)))
    feed(runtime, slots, [[0]] * 5)
    expected = feed(runtime, runtime.fork_slots(slots), [[7]] * 5, logits=True).logits
    monkeypatch.setattr(torch_runtime, "_MAX_PIECE_TOKENS", 2)
    run, calls = torch_decoder.Decoder.run, []

    def fail_the_second_time(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return run(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch_decoder.Decoder, "run", fail_the_second_time)
    with pytest.raises(MemoryError):
        feed(runtime, slots, [[1, 2, 3, 4, 5]] * 5)
    assert runtime.slot_lengths(slots).tolist() == [1] * 5
    close(feed(runtime, slots, [[7]] * 5, logits=True).logits, expected)


def test_an_encoding_that_fails_keeps_nothing(config: T5Config, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = opened(config)

    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch_encoder.Encoder, "_run", fail)
    with pytest.raises(MemoryError):
        runtime.encode(prompts(config))
    assert not runtime._cross_pool._arenas


def test_released_memory_is_freed(config: T5Config) -> None:
    runtime = opened(config)
    handles = runtime.encode(prompts(config))
    slots = runtime.open_slots(handles * 3)
    feed(runtime, slots, [[0]] * len(slots))
    runtime.close_slots(slots)
    runtime.release(handles)
    assert not runtime._cross_pool._arenas and not runtime._own_pool._arenas


def test_longt5_is_refused_by_name() -> None:
    with pytest.raises(EngineError, match="local"):
        TorchRuntime(T5Config(encoder_attention="local", vocab_size=96, d_model=8, d_ff=8), [])


def test_missing_and_misshapen_tensors_are_named(config: T5Config) -> None:
    tensors = random_tensors(config)
    with pytest.raises(EngineError, match=r"lm_head\.weight"):
        TorchRuntime(config, [view for view in tensors if view.name != "lm_head.weight"])
    wrong = [dataclasses.replace(v, shape=v.shape[::-1]) if v.name == "lm_head.weight" else v for v in tensors]
    with pytest.raises(EngineError, match=r"lm_head\.weight.*\[32, 96\].*\[96, 32\]"):
        TorchRuntime(config, wrong)


def test_a_tensor_that_is_no_float_is_named(config: T5Config) -> None:
    shape = tensor_shapes(config)["lm_head.weight"]
    integers = TensorView.from_array("lm_head.weight", np.zeros(shape, np.int8))
    tensors = [integers if view.name == "lm_head.weight" else view for view in random_tensors(config)]
    with pytest.raises(CheckpointError, match=r"lm_head\.weight.*I8"):
        TorchRuntime(config, tensors)


@pytest.mark.parametrize(
    "arguments",
    [dict(weights="int8"), dict(weights="fp32"), dict(device="tpu"), dict(device="gpu"), dict(threads=0)],
)
def test_unknown_words_are_request_errors(config: T5Config, arguments: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=next(iter(arguments))):
        TorchRuntime(config, random_tensors(config), **arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_an_engine_error(config: T5Config) -> None:
    with pytest.raises(EngineError, match="no CUDA device"):
        TorchRuntime(config, random_tensors(config), device="cuda")


def test_values_beyond_float16_are_refused_with_the_way_out(config: T5Config) -> None:
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    huge = TensorView.from_array(name, np.full(tensor_shapes(config)[name], 1e5, np.float32))
    tensors = [huge if view.name == name else view for view in random_tensors(config)]
    with pytest.raises(CheckpointError, match=r"wo\.weight.*bfloat16"):
        TorchRuntime(config, tensors, weights="float16")


# Weights


@pytest.mark.parametrize(("stored", "expected"), [("F32", "float32"), ("BF16", "bfloat16"), ("F16", "float32")])
def test_auto_is_the_folders_dtype_but_for_float16_on_a_processor(config: T5Config, stored: str, expected: str) -> None:
    runtime = TorchRuntime(config, [view.converted(stored) for view in random_tensors(config)], device="cpu")
    assert runtime.description.weights == expected
    assert runtime.description.threads == torch.get_num_threads()


@pytest.mark.parametrize("has_half_linear", [True, False])
def test_float16_does_not_overflow_where_wo_does(
    config: T5Config, has_half_linear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_half_linear:
        monkeypatch.setattr(torch_store, "has_half_linear", lambda: False)
    tensors = []
    for view in random_tensors(config):
        scale = np.float32(10_000 if "DenseReluDense.wo" in view.name else 1)
        tensors.append(TensorView.from_array(view.name, view.to_float32() * scale))
    reference = ReferenceRuntime(config, tensors)
    embedded = tensors[0].to_float32()
    assert np.abs(reference._feed_forward(embedded, "encoder.block.0.layer.1", {})).max() > 65504
    actual = TorchRuntime(config, tensors, weights="float16", device="cpu").encoder_states(prompts(config))
    for states, expected in zip(actual, reference.encoder_states(prompts(config)), strict=True):
        close(states, expected, 0.05)


def test_misaligned_tensors_are_read_right(config: T5Config) -> None:
    tensors = []
    for view in random_tensors(config):
        shifted = memoryview(b"\0" + bytes(view.data))[1:]
        tensors.append(TensorView(name=view.name, dtype=view.dtype, shape=view.shape, data=shifted))
    shifted_runtime = TorchRuntime(config, tensors, device="cpu")
    close(logits_of(shifted_runtime, prompts(config), [0]), logits_of(opened(config), prompts(config), [0]), 0)


def test_encoders_and_classifiers_give_states_and_refuse_to_generate(config: T5Config) -> None:
    for head in (Head.ENCODER, Head.TOKEN_CLASSIFICATION, Head.SEQUENCE_CLASSIFICATION):
        num_labels = 0 if head is Head.ENCODER else 3
        num_decoder_layers = 2 if head is Head.SEQUENCE_CLASSIFICATION else 0
        each = dataclasses.replace(config, head=head, num_labels=num_labels, num_decoder_layers=num_decoder_layers)
        runtime = TorchRuntime(each, random_tensors(each), device="cpu")
        expected = ReferenceRuntime(each, random_tensors(each)).encoder_states(prompts(each))
        for actual, state in zip(runtime.encoder_states(prompts(each)), expected, strict=True):
            close(actual, state)
        with pytest.raises(EngineError, match="cannot generate"):
            runtime.encode(prompts(each))


# Live modules


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_a_live_module_gives_what_its_tensors_give_and_is_left_alone(family: str) -> None:
    config = TINY_CONFIGS[family]
    module = load_model(config, random_tensors(config))
    runtime = TorchRuntime.from_module(module)
    before = logits_of(runtime, prompts(config), [0, 4])
    np.testing.assert_array_equal(before, logits_of(opened(config), prompts(config), [0, 4]))
    with torch.no_grad():
        for values in module.parameters():
            values.mul_(2)  # training goes on
    np.testing.assert_array_equal(logits_of(runtime, prompts(config), [0, 4]), before)
    assert not np.allclose(logits_of(TorchRuntime.from_module(module), prompts(config), [0, 4]), before)
    assert all(values.requires_grad and values.grad is None for values in module.parameters())


def test_a_live_classifier_gives_its_encoder_states(config: T5Config) -> None:
    each = dataclasses.replace(config, head=Head.SEQUENCE_CLASSIFICATION, num_labels=3)
    runtime = TorchRuntime.from_module(load_model(each, random_tensors(each)))
    expected = ReferenceRuntime(each, random_tensors(each)).encoder_states(prompts(each))
    for actual, state in zip(runtime.encoder_states(prompts(each)), expected, strict=True):
        close(actual, state)


def test_a_surrounding_autocast_changes_nothing(config: T5Config) -> None:
    runtime = opened(config)
    expected = logits_of(runtime, prompts(config), [0, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(logits_of(runtime, prompts(config), [0, 4]), expected)

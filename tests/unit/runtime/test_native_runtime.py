"""The native runtime against the conformance suite, for every kernel set of this machine and every precision."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from t5kit.checkpoint import open_folder
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import EngineError
from t5kit.runtime import LogitEdits, Need, ReferenceRuntime, Runtime, StepInput
from t5kit.runtime.native import INT8_LOG_SUM_EXP_BOUND, NativeRuntime, NativeWeights
from t5kit.testing.runtime_conformance import RuntimeConformance
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

_native = pytest.importorskip("t5kit._native")

KERNELS = ("avx512", "avx512_fine", "avx2", "portable", "amx", "amx_emulated")
AGAINST_REFERENCE = ("test_encoder_states_equal_the_references", "test_steps_equal_the_references")


class NativeConformance(RuntimeConformance):
    weights = "float32"

    @pytest.fixture(params=KERNELS, autouse=True)
    def kernels(self, request: pytest.FixtureRequest) -> str:
        has_tiles = request.param.startswith("amx")
        needed = "avx512" if request.param == "amx_emulated" else request.param
        if needed not in _native.available_kernels():
            pytest.skip(f"this processor has no {needed}")
        vectors = [name for name in _native.available_kernels() if name != "amx"]
        if self.weights == "bfloat16" and request.param != vectors[0] and not has_tiles:
            pytest.skip("bfloat16 of the other sets is in tests/unit/native/test_kernels.py")
        if has_tiles and self.weights not in ("bfloat16", "int8"):
            pytest.skip("avx512 under another name")
        if self.weights == "int8" and request.param == "avx512" and request.node.originalname in AGAINST_REFERENCE:
            pytest.skip(
                "its coarser encoder is in tests/unit/native/test_kernels.py and tests/parity/test_real_weights.py"
            )
        if self.weights == "float32" and request.param == "avx512_fine":
            pytest.skip("avx512 under another name")
        self.kernel_set = request.param
        if request.param == "portable":
            # It rounds every product before adding it; against float64 these ill-conditioned random models then lose
            # up to five times what the reference itself loses.
            self.tolerance = max(self.tolerance, 3e-5)
        if has_tiles:
            self.tolerance = 1e-3  # activations are two bfloat16, as exact as the 16-bit integers of int8
        return request.param

    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> Runtime:
        return NativeRuntime(config, tensors, weights=self.weights, threads=2, kernels=self.kernel_set)

    def reference_tensors(self, config: T5Config) -> Iterable[TensorView]:
        return emulated(config, self.weights)

    def close_to_alone(self) -> float:
        return 0.0  # a sum's order does not depend on the other rows


def emulated(config: T5Config, weights: str) -> list[TensorView]:
    """Return the tensors that a precision computes with, as float32: the reference over them is the specification."""
    views = []
    for view in random_tensors(config):
        values = view.to_float32()
        is_linear = values.ndim == 2 and "relative_attention_bias" not in view.name
        is_head_or_embedding = view.name in ("shared.weight", "lm_head.weight")
        if is_linear and weights in ("int8", "int4") and not is_head_or_embedding:
            values = rounded_to_groups(values, 127, 64) if weights == "int8" else rounded_to_groups(values, 7, 32)
        elif is_linear and weights != "float32":
            values = TensorView.from_array(view.name, values).converted("BF16").to_float32()
        views.append(TensorView.from_array(view.name, values))
    return views


def rounded_to_groups(weight: np.ndarray, most: int, size: int) -> np.ndarray:
    """Return a weight [out, in] rounded to integers in [-most, most] times a scale for `size` inputs, as float32."""
    rounded = np.empty_like(weight)
    for first in range(0, weight.shape[1], size):
        group = weight[:, first : first + size]
        scale = np.abs(group).max(axis=1, keepdims=True) / np.float32(most)
        rounded[:, first : first + size] = np.rint(group / scale) * scale
    return rounded


class TestNativeFloat32(NativeConformance):
    weights = "float32"
    tolerance = 1e-5


class TestNativeBfloat16(NativeConformance):
    weights = "bfloat16"
    tolerance = 1e-5  # the weights are rounded, the arithmetic is float32's


class TestNativeInt8(NativeConformance):
    weights = "int8"
    # Activations are 16-bit integers in groups of 64: each is off by up to 1.5e-5 of its group's largest, and the
    # ill-conditioned tiny models turn 1e-7 into 1e-5 (see above).
    tolerance = 1e-3


class TestNativeInt4(NativeConformance):
    weights = "int4"
    tolerance = 1e-3  # as for int8

    @pytest.fixture(params=["t5", "t5_v1_1"])
    def config(self, request: pytest.FixtureRequest) -> T5Config:
        return TINY_CONFIGS[request.param]


def test_runtime_is_described() -> None:
    runtime = NativeRuntime(TINY_CONFIGS["t5"], random_tensors(TINY_CONFIGS["t5"]), kernels="portable", threads=1)
    assert runtime.kernels == "portable" and runtime.description.threads == 1
    assert runtime.description.weights == "int8" and runtime.description.engine == "native (portable)"
    assert np.isfinite(runtime.encoder_states([np.int32([5, 1])])[0]).all()


def large_head(weights: str, threads: int = 2) -> Runtime:
    """A model with a vocabulary of several head chunks, so that screening has something to leave out."""
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], vocab_size=3001, d_model=72)
    return NativeRuntime(config, random_tensors(config), weights=weights, threads=threads)


def test_screened_candidates_are_the_whole_heads() -> None:
    runtime = large_head("int8")
    generator = np.random.default_rng(1)
    slots = runtime.open_slots(runtime.encode([generator.integers(2, 3001, 9).astype(np.int32) for _ in range(70)]))
    start = np.zeros(len(slots), np.int32)
    edits = {
        3: LogitEdits(delta_ids=np.int32([7, 8]), deltas=np.float32([9, -9]), suppressed_ids=np.int32([8, 2999])),
        4: LogitEdits(allowed_ids=np.arange(5, 2900, 3, dtype=np.int32), penalty_ids=np.int32([8]), penalty=2.0),
        5: LogitEdits(forced_id=3000),
        6: LogitEdits(penalty_ids=np.arange(3001, dtype=np.int32), penalty=1.3, penalises_log_probs=True),
    }
    for top_k in (1, 2, 8, 50, 2999, 4000):
        dense = runtime.step(StepInput.one_token_each(slots, start, edits=edits, need=Need(top_k=top_k, logits=True)))
        runtime.rollback_slots(slots, start)
        screened = runtime.step(StepInput.one_token_each(slots, start, edits=edits, need=Need(top_k=top_k)))
        runtime.rollback_slots(slots, start)
        others = [row for row in range(len(slots)) if row != 6]  # there the edit hangs on the log-sum-exp
        np.testing.assert_array_equal(screened.top_ids[others], dense.top_ids[others])
        np.testing.assert_array_equal(screened.top_logits[others], dense.top_logits[others])
        np.testing.assert_allclose(screened.top_logits[6], dense.top_logits[6], atol=0.02)
        bound = runtime.description.log_sum_exp_bound
        np.testing.assert_allclose(screened.log_sum_exp, dense.log_sum_exp, rtol=0, atol=bound)


@pytest.mark.parametrize("gain", [1e2, 1e4, 1e6, 1e36])
def test_the_log_sum_exp_of_large_logits_is_finite_and_below_none_of_them(gain: float) -> None:
    """The screen is then off by many nats, so that terms of one sum mean nothing in units of the other's."""
    config = TINY_CONFIGS["t5_v1_1"]
    larger = [
        TensorView.from_array(view.name, view.to_float32() * np.float32(gain))
        if view.name == "lm_head.weight"
        else view
        for view in random_tensors(config)
    ]
    runtime = NativeRuntime(config, larger, weights="int8", threads=1)
    prompts = [np.int32([token, 5, 1]) for token in range(2, 66)]
    start = np.full(len(prompts), config.decoder_start_id, np.int32)
    slots = runtime.open_slots(runtime.encode(prompts))
    screened = runtime.step(StepInput.one_token_each(slots, start))
    runtime.rollback_slots(slots, np.zeros(len(prompts), np.int32))
    dense = runtime.step(StepInput.one_token_each(slots, start, need=Need(logits=True)))
    np.testing.assert_allclose(screened.log_sum_exp, dense.log_sum_exp, rtol=1e-5, atol=0.02)
    assert (screened.log_sum_exp >= screened.top_logits[:, 0]).all()


@pytest.mark.parametrize("d_model", [72, 71])
def test_a_tied_head_s_exact_rows_are_the_embedding_s(d_model: int) -> None:
    """They are one copy where a row is whole pairs of bfloat16, and none too little where it is not."""
    config = dataclasses.replace(TINY_CONFIGS["t5"], vocab_size=1001, d_model=d_model)
    tensors = random_tensors(config)
    runtime = NativeRuntime(config, tensors, weights="int8", threads=1)
    slots = runtime.open_slots(runtime.encode([np.int32([5, 9, 1])]))
    start = np.full(1, config.decoder_start_id, np.int32)
    out = runtime.step(StepInput.one_token_each(slots, start, need=Need(logits=True, hidden=True)))
    (rows,) = (view.to_float32() for view in tensors if view.name == "shared.weight")
    bits = rows.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    assert out.logits is not None and out.hidden is not None and config.scales_logits
    np.testing.assert_allclose(out.logits, out.hidden @ rounded.T / np.sqrt(d_model), rtol=1e-5, atol=1e-4)
    untied = dataclasses.replace(config, is_tied=False)
    extra = NativeRuntime(untied, random_tensors(untied), weights="int8", threads=1).weight_bytes - runtime.weight_bytes
    copy = 2 * config.vocab_size * d_model
    assert copy <= extra < copy + 64 if d_model % 2 == 0 else extra == 0


@pytest.mark.weights
@pytest.mark.parametrize(("is_greedy", "bound"), [(True, 0.01), (False, INT8_LOG_SUM_EXP_BOUND)])
def test_screened_log_sum_exp_is_near_the_dense_one_on_real_weights(
    test_files: Path, golden: Path, is_greedy: bool, bound: float
) -> None:
    """Greedy answers of 8 texts, and the same texts after random tokens, where more of the sum is screened."""
    opened = open_folder(test_files / "flan-t5-small")
    rows = json.loads((golden / "synopsis64.json").read_text(encoding="utf-8"))["rows"][:8]
    runtime = NativeRuntime(opened.config, opened.tensors(), weights="int8", threads=1)
    assert runtime.description.log_sum_exp_bound == INT8_LOG_SUM_EXP_BOUND
    generator = np.random.default_rng(0)
    slots = runtime.open_slots(runtime.encode([np.array(row["encoder_ids"], np.int32) for row in rows]))
    tokens = np.full(len(slots), opened.config.decoder_start_id, np.int32)
    for length in range(12):
        screened = runtime.step(StepInput.one_token_each(slots, tokens))
        runtime.rollback_slots(slots, np.full(len(slots), length, np.int32))
        dense = runtime.step(StepInput.one_token_each(slots, tokens, need=Need(logits=True)))
        assert dense.logits is not None
        expected = np.log(np.exp(dense.logits.astype(np.float64)).sum(axis=-1))
        np.testing.assert_array_equal(screened.top_ids, dense.top_ids)
        np.testing.assert_allclose(screened.log_sum_exp, expected, rtol=0, atol=bound)
        tokens = screened.top_ids[:, 0] if is_greedy else generator.integers(0, 32000, len(slots)).astype(np.int32)
    runtime.close()


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_company_and_threads_change_no_bit(weights: str) -> None:
    """Mixed requests in random order and company give what each gives alone on one thread."""
    generator = np.random.default_rng(2)
    texts = [generator.integers(2, 3001, int(n)).astype(np.int32) for n in generator.integers(1, 60, 40)]
    alone = large_head(weights, threads=1)
    expected = [greedy(alone, [text], [30])[0] for text in texts]
    together = large_head(weights, threads=3)
    for _ in range(6):
        order = generator.permutation(len(texts))[: int(generator.integers(1, len(texts) + 1))]
        limits = generator.integers(1, 30, len(order)).tolist()
        for i, limit, (ids, logits) in zip(
            order, limits, greedy(together, [texts[i] for i in order], limits), strict=True
        ):
            assert ids == expected[i][0][:limit] and logits == expected[i][1][:limit]


def greedy(runtime: Runtime, texts: list[np.ndarray], limits: list[int]) -> list[tuple[list[int], list[float]]]:
    """Return each text's tokens and their logits; a text leaves the batch when it has as many as its limit."""
    slots = runtime.open_slots(runtime.encode(texts))
    answers: list[tuple[list[int], list[float]]] = [([], []) for _ in texts]
    live = list(range(len(texts)))
    tokens = [0] * len(texts)
    while live:
        out = runtime.step(StepInput.one_token_each(slots[live], np.int32(tokens)))
        for row, i in enumerate(live):
            answers[i][0].append(int(out.top_ids[row, 0]))
            answers[i][1].append(float(out.top_logits[row, 0]))
        live = [i for i in live if len(answers[i][0]) < limits[i]]
        tokens = [answers[i][0][-1] for i in live]
    runtime.close_slots(slots)
    return answers


def test_several_tokens_in_one_step_have_the_bits_of_single_steps() -> None:
    runtime = large_head("int8")
    slots = runtime.open_slots(runtime.encode([np.int32([5, 6, 1])]) * 2)
    tokens = np.random.default_rng(3).integers(2, 3001, 40).astype(np.int32)
    single = [runtime.step(StepInput.one_token_each(slots[:1], tokens[i : i + 1])).top_logits for i in range(40)]
    at_once = runtime.step(
        StepInput(slots=slots[1:], tokens=tokens, lengths=np.int32([40]), need=Need(all_positions=True))
    )
    np.testing.assert_array_equal(np.concatenate(single), at_once.top_logits)


def test_misshapen_weights_are_engine_errors() -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    views = random_tensors(config)
    with pytest.raises(EngineError, match="no tensor"):
        NativeRuntime(config, views[1:])
    wrong = TensorView.from_array("shared.weight", np.zeros((95, 32), np.float32))
    with pytest.raises(EngineError, match=r"shape \[95, 32\], expected \[96, 32\]"):
        NativeRuntime(config, [wrong, *views[1:]])
    with pytest.raises(EngineError, match="twice"):
        NativeRuntime(config, [*views, views[0]])
    for words in ({"weights": "int3"}, {"threads": 0}, {"threads": 5000}, {"kernels": "mmx"}):
        with pytest.raises(EngineError):
            NativeRuntime(config, views, **words)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_sixteen_bit_checkpoints_are_read(dtype: str) -> None:
    config = TINY_CONFIGS["t5"]
    stored = [view.converted(dtype) for view in random_tensors(config)]
    actual = NativeRuntime(config, stored, weights="float32").encoder_states([np.int32([5, 6, 1])])
    expected = ReferenceRuntime(config, stored).encoder_states([np.int32([5, 6, 1])])
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-4)


def test_not_a_number_in_the_weights_is_no_crash() -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    for weights in ("float32", "bfloat16", "int8"):
        views = []
        for view in random_tensors(config):
            values = view.to_float32().copy()
            if view.name == "lm_head.weight":
                values[7] = np.nan
            if view.name == "shared.weight":
                values[50] = np.inf
            views.append(TensorView.from_array(view.name, values))
        runtime = NativeRuntime(config, views, weights=weights)
        slots = runtime.open_slots(runtime.encode([np.int32([5, 1]), np.int32([50, 1])]))
        out = runtime.step(StepInput.one_token_each(slots, np.zeros(2, np.int32), need=Need(top_k=3)))
        assert (out.top_ids[0] != 7).all() and (out.top_ids[0] >= 0).all()


def test_kernel_set_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TINY_CONFIGS["t5"]
    monkeypatch.setenv("T5KIT_KERNELS", "portable")
    assert NativeRuntime(config, random_tensors(config)).kernels == "portable"
    monkeypatch.setenv("T5KIT_KERNELS", "mmx")
    with pytest.raises(EngineError, match="no kernel set 'mmx'"):
        NativeRuntime(config, random_tensors(config))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told_to_load_again() -> None:
    runtime = large_head("int8")
    child = os.fork()
    if child == 0:
        try:
            runtime.encoder_states([np.int32([5, 1])])
        except EngineError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_slots_of_one_prompt_read_it_together_with_the_bits_of_each_alone(weights: str) -> None:
    """Fifteen slots, of one to nine new tokens, on three prompts in runs of every length, and shuffled."""
    config = TINY_CONFIGS["t5"]
    runtime = NativeRuntime(config, random_tensors(config), weights=weights, threads=2)
    generator = np.random.default_rng(4)
    prompts = [generator.integers(2, config.vocab_size, size).astype(np.int32) for size in (1, 18, 40)]
    handles = runtime.encode(prompts)
    readers = np.array([0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 0, 2, 1, 1, 0])
    lengths = np.int32([1, 1, 1, 2, 1, 9, 1, 1, 1, 6, 1, 1, 3, 3, 1])
    tokens = [generator.integers(2, config.vocab_size, n).astype(np.int32) for n in lengths]
    need = Need(logits=True, cross_attention=True)

    def answer(rows: Sequence[int]) -> list[tuple[bytes, bytes]]:
        slots = runtime.open_slots([handles[readers[row]] for row in rows])
        out = runtime.step(
            StepInput(slots=slots, tokens=np.concatenate([tokens[i] for i in rows]), lengths=lengths[rows], need=need)
        )
        runtime.close_slots(slots)
        assert out.logits is not None and out.cross_attention is not None
        return [
            (logits.tobytes(), seen.tobytes()) for logits, seen in zip(out.logits, out.cross_attention, strict=True)
        ]

    alone = [answer([row])[0] for row in range(len(readers))]
    assert answer(range(len(readers))) == alone
    for _ in range(5):
        order = generator.permutation(len(readers)).tolist()
        assert answer(order) == [alone[row] for row in order]


@pytest.mark.parametrize("width", [24, 64, 80, 128])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_heads_of_any_width_equal_the_references(weights: str, width: int) -> None:
    """Heads that fill vectors, whole groups of integers, both or neither; a row alone and ten together."""
    config = dataclasses.replace(TINY_CONFIGS["t5"], d_kv=width)
    kernels = "avx512_fine" if "avx512_fine" in _native.available_kernels() else None
    native = NativeRuntime(config, random_tensors(config), weights=weights, threads=2, kernels=kernels)
    reference = ReferenceRuntime(config, emulated(config, weights), dtype=np.float64)
    generator = np.random.default_rng(6)
    prompts = [generator.integers(2, config.vocab_size, size).astype(np.int32) for size in (5, 21)]
    tokens = generator.integers(2, config.vocab_size, 10).astype(np.int32)

    def logits(runtime: Runtime) -> list[np.ndarray]:
        first, second = runtime.encode(prompts)
        found = []
        for handles in ([second], [first] * 4 + [second] * 6):
            slots = runtime.open_slots(handles)
            out = runtime.step(StepInput.one_token_each(slots, tokens[: len(handles)], need=Need(logits=True)))
            assert out.logits is not None
            found.append(out.logits)
        return found

    # As TestNativeFloat32; above TestNativeInt8: wide heads of random weights have sharp softmaxes (1.1e-3 was seen).
    tolerance = 1e-5 if weights == "float32" else 5e-3
    for actual, expected in zip(logits(native), logits(reference), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.skipif("avx512" not in _native.available_kernels(), reason="this processor has no AVX-512 VNNI")
@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_coarser_encoder_activations_lose_less_than_8_bit_weights_do(family: str) -> None:
    config = TINY_CONFIGS[family]
    generator = np.random.default_rng(0)
    prompts = [generator.integers(2, 90, length).astype(np.int32) for length in (3, 17, 40)]

    def states(weights: NativeWeights, kernels: str) -> np.ndarray:
        engine = NativeRuntime(config, random_tensors(config), weights=weights, threads=1, kernels=kernels)
        return np.concatenate(engine.encoder_states(prompts))

    exact, fine, coarse = states("float32", "avx512"), states("int8", "avx512_fine"), states("int8", "avx512")
    lost = np.linalg.norm(coarse - fine)
    assert 0 < lost < 0.8 * np.linalg.norm(fine - exact)


def test_numbers_beyond_32_bits_name_nothing_that_is_open() -> None:
    config = TINY_CONFIGS["t5"]
    runtime = NativeRuntime(config, random_tensors(config))
    [handle] = runtime.encode([np.array([5, 1], np.int32)])
    slots = runtime.open_slots([handle])
    for call in (runtime.retain, runtime.release, runtime.open_slots):
        with pytest.raises(EngineError, match=f"Handle {2**32 + handle} is not open"):
            call([2**32 + handle])
    with pytest.raises(EngineError, match=f"Adapter {2**40}"):
        runtime.remove_adapter(2**40)
    with pytest.raises(EngineError, match=f"Adapter {2**40}"):
        runtime.encode([np.array([5, 1], np.int32)], [2**40])
    with pytest.raises(EngineError, match="expected 32-bit integers"):
        runtime.close_slots(slots.astype(np.int64) + 2**32)
    with pytest.raises(EngineError, match="expected 32-bit integers"):
        runtime.rollback_slots(slots, np.array([2**32]))
    assert runtime.slot_lengths(slots.astype(np.int64)).tolist() == [0]

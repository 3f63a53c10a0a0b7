"""What every runtime must do: a pytest class to subclass.

    class TestMyRuntime(RuntimeConformance):
        tolerance = 1e-5

        def make_runtime(self, config, tensors):
            return MyRuntime(config, tensors)

Each test runs on a tiny model of every family. `tolerance` is the largest allowed difference from the reference
runtime in logits, relative to their magnitude: float32 rounding for exact runtimes, more for reduced precision.
"""

import abc
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import EngineError, RequestError
from t5kit.runtime import LogitEdits, Need, ReferenceRuntime, Runtime, StepInput, StepOutput, apply_edits
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

PROMPT_LENGTHS = (5, 1, 17, 40, 9)
UNKNOWN_NAME = 12345
"""No handle and no slot of these tests."""


def prompts(config: T5Config) -> list[np.ndarray]:
    """Return ragged random prompts that end in EOS, the same for every runtime."""
    generator = np.random.Generator(np.random.Philox(7))
    texts = [generator.integers(2, config.vocab_size, length).astype(np.int32) for length in PROMPT_LENGTHS]
    for ids in texts:
        ids[-1] = config.eos_id
    return texts


def _ids(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def _floats(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def feed(runtime: Runtime, slots: np.ndarray, tokens: list[list[int]], **need: object) -> StepOutput:
    """Step `slots` with ragged new tokens."""
    flat = np.array([token for row in tokens for token in row], np.int32)
    lengths = np.array([len(row) for row in tokens], np.int32)
    return runtime.step(StepInput(slots=slots, tokens=flat, lengths=lengths, need=Need(**need)))  # type: ignore[arg-type]


class RuntimeConformance(abc.ABC):
    """Subclass it in a test module and give `make_runtime`; pytest does the rest."""

    tolerance: float = 1e-5
    """Relative to the largest logit of the row."""

    @abc.abstractmethod
    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> Runtime:
        """Return a runtime over these weights."""

    @pytest.fixture(params=sorted(TINY_CONFIGS))
    def config(self, request: pytest.FixtureRequest) -> T5Config:
        return TINY_CONFIGS[request.param]

    @pytest.fixture
    def runtime(self, config: T5Config) -> Iterator[Runtime]:
        runtime = self.make_runtime(config, random_tensors(config))
        yield runtime
        runtime.close()

    def reference_tensors(self, config: T5Config) -> Iterable[TensorView]:
        """Return the weights of `make_runtime` as the reference has to have them."""
        return random_tensors(config)

    @pytest.fixture
    def reference(self, config: T5Config) -> Iterator[Runtime]:
        runtime = ReferenceRuntime(config, self.reference_tensors(config))
        yield runtime
        runtime.close()

    @pytest.fixture
    def exact_reference(self, config: T5Config) -> Iterator[Runtime]:
        """For what NumPy's own float32 is too far away from on some processors: logits, after both stacks."""
        runtime = ReferenceRuntime(config, self.reference_tensors(config), dtype=np.float64)
        yield runtime
        runtime.close()

    def assert_close(self, actual: np.ndarray, expected: np.ndarray) -> None:
        scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=self.tolerance * scale)

    def close_to_alone(self) -> float:
        """How far a row may differ from itself alone, relative; 0 where company provably changes nothing."""
        return self.tolerance

    # Encoding

    def test_encoder_states_equal_the_references(self, runtime: Runtime, reference: Runtime, config: T5Config) -> None:
        for actual, expected in zip(
            runtime.encoder_states(prompts(config)), reference.encoder_states(prompts(config)), strict=True
        ):
            assert actual.shape == expected.shape and actual.dtype == np.float32
            self.assert_close(actual, expected)

    def test_a_handle_lives_as_long_as_its_references(self, runtime: Runtime, config: T5Config) -> None:
        (handle,) = runtime.encode(prompts(config)[:1])
        runtime.retain([handle])
        slots = runtime.open_slots([handle])
        runtime.release([handle])
        runtime.release([handle])
        feed(runtime, slots, [[0]])  # the slot's own reference keeps it
        runtime.close_slots(slots)
        with pytest.raises(EngineError):
            runtime.open_slots([handle])

    def test_unknown_names_are_engine_errors(self, runtime: Runtime, config: T5Config) -> None:
        with pytest.raises(EngineError):
            runtime.release([12345])
        slots = runtime.open_slots(runtime.encode(prompts(config)[:1]))
        runtime.close_slots(slots)
        with pytest.raises(EngineError):
            feed(runtime, slots, [[0]])
        with pytest.raises(EngineError):
            runtime.close_slots(slots)

    def test_ids_outside_the_vocabulary_are_request_errors(self, runtime: Runtime, config: T5Config) -> None:
        for wrong in (-1, config.vocab_size):
            with pytest.raises(RequestError):
                runtime.encode([np.array([4, wrong], np.int32)])
        with pytest.raises(RequestError):
            runtime.encode([np.array([], np.int32)])
        slots = runtime.open_slots(runtime.encode(prompts(config)[:1]))
        with pytest.raises(RequestError):
            feed(runtime, slots, [[config.vocab_size]])
        feed(runtime, slots, [[0]])  # a refused step leaves the slot as it was
        assert runtime.slot_lengths(slots).tolist() == [1]

    def test_a_refused_call_changes_nothing(self, runtime: Runtime, config: T5Config) -> None:
        first, second = runtime.encode(prompts(config)[2:4])
        slots = runtime.open_slots([first, first, second])
        gone = runtime.open_slots([first])
        runtime.close_slots(gone)
        feed(runtime, slots, [[0, 3], [0, 4], [0, 5]])
        before = feed(runtime, slots, [[9]] * 3, logits=True).logits
        runtime.rollback_slots(slots, _ids([2, 2, 2]))
        with_gone, twice, target = np.concatenate([slots, gone]), slots[[1, 0, 0]], _ids([5, 1])
        refused: list[Callable[[], object]] = [
            lambda: runtime.retain([first, UNKNOWN_NAME]),
            lambda: runtime.release([first, UNKNOWN_NAME]),
            lambda: runtime.release([second] * 3),
            lambda: runtime.open_slots([first, UNKNOWN_NAME]),
            lambda: runtime.close_slots(with_gone),
            lambda: runtime.close_slots(twice),
            lambda: runtime.fork_slots(with_gone),
            lambda: runtime.reorder_slots(slots[[0, 1]], np.concatenate([slots[1:2], gone])),
            lambda: runtime.reorder_slots(np.concatenate([slots[:1], gone]), slots[[1, 0]]),
            lambda: runtime.reorder_slots(slots, slots[[1, 0, 1]]),  # the last stands on another prompt
            lambda: runtime.reorder_slots(slots[:2], slots[1:2]),
            lambda: runtime.rollback_slots(slots, _ids([1, 0, 3])),
            lambda: runtime.rollback_slots(slots, _ids([1, 0, -1])),
            lambda: runtime.rollback_slots(slots, _ids([1, 0])),
            lambda: runtime.rollback_slots(twice, _ids([0, 1, 2])),
            lambda: runtime.rollback_slots(with_gone, _ids([1, 0, 0, 0])),
            lambda: feed(runtime, with_gone, [[6], [6], [6], [6]]),
            lambda: feed(runtime, with_gone, [[6, 7], [6], [6], [6]]),
            lambda: feed(runtime, slots, [[6], [6], [config.vocab_size]]),
            lambda: runtime.score([first, UNKNOWN_NAME], [target, target]),
        ]
        for number, call in enumerate(refused):
            with pytest.raises((EngineError, RequestError)):
                call()
            assert runtime.slot_lengths(slots).tolist() == [2, 2, 2], f"call {number} changed a length"
        after = feed(runtime, slots, [[9]] * 3, logits=True).logits
        assert before is not None and after is not None
        self.assert_close(after, before)
        runtime.close_slots(slots)
        runtime.close_slots(runtime.open_slots([first, second]))  # no reference was lost

    def test_a_refused_call_leaves_no_reference(self, runtime: Runtime, config: T5Config) -> None:
        (handle,) = runtime.encode(prompts(config)[:1])
        for call in (
            lambda: runtime.retain([handle, UNKNOWN_NAME]),
            lambda: runtime.open_slots([handle, UNKNOWN_NAME]),
            lambda: runtime.score([handle, UNKNOWN_NAME], [_ids([5, 1])] * 2),
            lambda: runtime.score([handle], [_ids([5, config.vocab_size])]),
        ):
            with pytest.raises((EngineError, RequestError)):
                call()
        runtime.release([handle])
        with pytest.raises(EngineError):
            runtime.retain([handle])

    def test_a_closed_runtime_is_an_engine_error(self, config: T5Config) -> None:
        runtime = self.make_runtime(config, random_tensors(config))
        handles = runtime.encode(prompts(config)[:1])
        slots = runtime.open_slots(handles)
        nothing = np.zeros(0, np.int32)
        runtime.close()
        calls: list[Callable[[], object]] = [
            lambda: runtime.encode(prompts(config)[:1]),
            lambda: runtime.encode([]),
            lambda: runtime.encoder_states(prompts(config)[:1]),
            lambda: runtime.encoder_states([]),
            lambda: runtime.retain(handles),
            lambda: runtime.release(handles),
            lambda: runtime.open_slots(handles),
            lambda: runtime.close_slots(slots),
            lambda: runtime.close_slots(nothing),
            lambda: runtime.fork_slots(slots),
            lambda: runtime.reorder_slots(slots, slots),
            lambda: runtime.rollback_slots(slots, _ids([0])),
            lambda: runtime.slot_lengths(slots),
            lambda: feed(runtime, slots, [[0]]),
            lambda: feed(runtime, slots, [[config.vocab_size]]),
            lambda: runtime.score(handles, [_ids([5, 1])]),
            lambda: runtime.score([], []),
        ]
        for call in calls:
            with pytest.raises(EngineError, match="The runtime is closed"):
                call()

    # Stepping

    def test_steps_equal_the_references(self, runtime: Runtime, exact_reference: Runtime, config: T5Config) -> None:
        outputs = []
        for each in (runtime, exact_reference):
            slots = each.open_slots(each.encode(prompts(config)))
            feed(each, slots, [[0]] * len(slots))
            feed(each, slots[:3], [[5, 6, 7], [8], [9, 10]])  # rows advance unevenly from here on
            outputs.append(feed(each, slots, [[11 + i] for i in range(len(slots))], logits=True, hidden=True, top_k=4))
        actual, expected = outputs
        assert actual.logits is not None and expected.logits is not None
        assert actual.hidden is not None and expected.hidden is not None
        self.assert_close(actual.logits, expected.logits)
        self.assert_close(actual.hidden, expected.hidden)
        self.assert_close(actual.log_sum_exp, expected.log_sum_exp)
        self.assert_close(actual.top_logits, expected.top_logits)

    def test_top_candidates_are_the_dense_logits_best(self, runtime: Runtime, config: T5Config) -> None:
        slots = runtime.open_slots(runtime.encode(prompts(config)))
        out = feed(runtime, slots, [[0]] * len(slots), logits=True, top_k=7)
        assert out.logits is not None and out.logits.dtype == np.float32
        best = np.argsort(-out.logits, axis=-1, kind="stable")[:, :7]
        np.testing.assert_array_equal(out.top_ids, best)
        np.testing.assert_array_equal(out.top_logits, np.take_along_axis(out.logits, best, axis=-1))
        largest = out.logits.max(axis=-1)
        dense = largest + np.log(np.exp(out.logits - largest[:, None]).sum(axis=-1))
        np.testing.assert_allclose(out.log_sum_exp, dense, atol=1e-4 + runtime.description.log_sum_exp_bound)

    def test_cached_decode_equals_full_decode(self, runtime: Runtime, config: T5Config) -> None:
        tokens = [0, *range(3, 40)]
        one_by_one, at_once = runtime.open_slots(runtime.encode(prompts(config)[3:4]) * 2)
        single = [feed(runtime, one_by_one[None], [[token]], logits=True).logits for token in tokens]
        full = feed(runtime, at_once[None], [tokens], logits=True, all_positions=True).logits
        assert full is not None and full.shape == (len(tokens), config.vocab_size)
        self.assert_close(np.concatenate([row for row in single if row is not None]), full)

    def test_a_row_is_as_if_stepped_alone(self, runtime: Runtime, config: T5Config) -> None:
        tokens = [[0, 5, 6], [0], [0, 9], [0, 11, 12, 13, 14, 15], [0, 3]]
        slots = runtime.open_slots(runtime.encode(prompts(config)))
        together = feed(runtime, slots, tokens, logits=True).logits
        assert together is not None
        for i, prompt in enumerate(prompts(config)):
            slot = runtime.open_slots(runtime.encode([prompt]))
            alone = feed(runtime, slot, [tokens[i]], logits=True).logits
            assert alone is not None
            scale = float(np.abs(alone).max())
            np.testing.assert_allclose(together[i], alone[0], rtol=0, atol=self.close_to_alone() * scale)

    def test_all_positions_and_cross_attention_have_their_shapes(self, runtime: Runtime, config: T5Config) -> None:
        slots = runtime.open_slots(runtime.encode(prompts(config)[:2]))
        out = feed(runtime, slots, [[0, 4, 5], [0]], all_positions=True, cross_attention=True, hidden=True, top_k=2)
        assert out.top_ids.shape == (4, 2) and out.top_ids.dtype == np.int32
        assert out.hidden is not None and out.hidden.shape == (4, config.d_model)
        assert out.logits is None and out.cross_attention is not None
        layers, heads = config.num_decoder_layers, config.num_heads
        assert [a.shape for a in out.cross_attention] == [(layers, heads, 3, 5), (layers, heads, 1, 1)]
        for weights in out.cross_attention:
            np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=max(1e-5, self.tolerance))

    def test_a_slot_may_not_stand_twice_in_a_step(self, runtime: Runtime, config: T5Config) -> None:
        slots = runtime.open_slots(runtime.encode(prompts(config)[:1]))
        with pytest.raises(EngineError):
            feed(runtime, np.concatenate([slots, slots]), [[0], [0]])

    # Edits

    def test_edits_equal_their_specification(self, runtime: Runtime, config: T5Config) -> None:
        all_edits = {
            0: LogitEdits(penalty_ids=_ids([3, 4, 5]), penalty=1.7),
            1: LogitEdits(penalty_ids=_ids([3, 4, 5]), penalty=1.7, penalises_log_probs=True),
            2: LogitEdits(delta_ids=_ids([7, 8]), deltas=_floats([50, -50]), suppressed_ids=_ids([7, 1])),
            3: LogitEdits(allowed_ids=_ids([10, 20, 30]), suppressed_ids=_ids([20])),
            4: LogitEdits(forced_id=42, suppressed_ids=_ids([42]), delta_ids=_ids([42]), deltas=_floats([1])),
        }
        slots = runtime.open_slots(runtime.encode(prompts(config)))
        start = np.zeros(len(slots), np.int32)
        plain = runtime.step(StepInput.one_token_each(slots, start, need=Need(logits=True)))
        runtime.rollback_slots(slots, start)
        out = runtime.step(StepInput.one_token_each(slots, start, edits=all_edits, need=Need(logits=True, top_k=5)))
        assert plain.logits is not None and out.logits is not None
        np.testing.assert_array_equal(out.log_sum_exp, plain.log_sum_exp)
        for row, edits in all_edits.items():
            expected = apply_edits(plain.logits[row], edits, float(plain.log_sum_exp[row]))
            np.testing.assert_allclose(out.logits[row], expected, rtol=1e-6, atol=1e-5)
        assert sorted(out.top_ids[3].tolist()) == [-1, -1, -1, 10, 30]
        assert out.top_ids[4].tolist() == [42, -1, -1, -1, -1]
        assert np.isneginf(out.top_logits[4, 1:]).all() and np.isfinite(out.top_logits[4, 0])

    # Slots

    def test_fork_reorder_and_rollback_move_only_the_past(self, runtime: Runtime, config: T5Config) -> None:
        def fresh(tokens: list[int]) -> np.ndarray:
            slot = runtime.open_slots(handles)
            logits = feed(runtime, slot, [[*tokens, 9]], logits=True).logits
            assert logits is not None
            return logits[0]

        handles = runtime.encode(prompts(config)[2:3])
        a = runtime.open_slots(handles)
        feed(runtime, a, [[0, 3]])
        b, c = runtime.fork_slots(np.concatenate([a, a]))
        slots = np.array([a[0], b, c], np.int32)
        feed(runtime, slots, [[4], [5], [6, 7]])
        assert runtime.slot_lengths(slots).tolist() == [3, 3, 4]
        runtime.reorder_slots(slots, slots[[2, 0, 0]])  # a permutation with a repeat, as beams do it
        assert runtime.slot_lengths(slots).tolist() == [4, 3, 3]
        out = feed(runtime, slots, [[9]] * 3, logits=True).logits
        assert out is not None
        self.assert_close(out, np.stack([fresh([0, 3, 6, 7]), fresh([0, 3, 4]), fresh([0, 3, 4])]))
        runtime.rollback_slots(slots, np.array([1, 2, 3], np.int32))
        out = feed(runtime, slots, [[9]] * 3, logits=True).logits
        assert out is not None
        self.assert_close(out, np.stack([fresh([0]), fresh([0, 3]), fresh([0, 3, 4])]))
        with pytest.raises(EngineError):
            runtime.rollback_slots(slots, runtime.slot_lengths(slots) + 1)

    def test_a_slot_may_not_stand_twice_in_a_reorder(self, runtime: Runtime, config: T5Config) -> None:
        slots = runtime.open_slots(runtime.encode(prompts(config)[:1]) * 2)
        feed(runtime, slots, [[0], [0, 3]])
        with pytest.raises(EngineError, match="twice"):
            runtime.reorder_slots(slots[[0, 0]], slots)
        assert runtime.slot_lengths(slots).tolist() == [1, 2]

    def test_slots_come_and_go_between_steps(self, runtime: Runtime, config: T5Config) -> None:
        generator = np.random.Generator(np.random.Philox(3))
        texts = prompts(config)
        handles = runtime.encode(texts)
        open_slots: list[tuple[int, int, list[int]]] = []
        for _ in range(30):
            if open_slots and generator.random() < 0.3:
                slot, _, _ = open_slots.pop(int(generator.integers(len(open_slots))))
                runtime.close_slots(np.array([slot], np.int32))
            text = int(generator.integers(len(texts)))
            open_slots.append((int(runtime.open_slots([handles[text]])[0]), text, []))
            new = [generator.integers(0, config.vocab_size, int(generator.integers(1, 4))).tolist() for _ in open_slots]
            feed(runtime, np.array([slot for slot, _, _ in open_slots], np.int32), new)
            for (_, _, past), tokens in zip(open_slots, new, strict=True):
                past.extend(tokens)
        out = feed(
            runtime, np.array([slot for slot, _, _ in open_slots], np.int32), [[2]] * len(open_slots), logits=True
        ).logits
        assert out is not None
        for row, (_, text, past) in zip(out, open_slots, strict=True):
            alone = feed(runtime, runtime.open_slots([handles[text]]), [[*past, 2]], logits=True).logits
            assert alone is not None
            self.assert_close(row, alone[0])

    # Scoring

    def test_score_is_the_sum_of_the_steps(self, runtime: Runtime, config: T5Config) -> None:
        targets = [np.array(ids, np.int32) for ids in ([5, 6, 1], [1], [7, 7, 7, 7, 1], [9, 1], [2, 3, 4, 1])]
        handles = runtime.encode(prompts(config))
        scores = runtime.score(handles, targets)
        for handle, target, score in zip(handles, targets, scores, strict=True):
            assert score.shape == target.shape and score.dtype == np.float32
            slots = runtime.open_slots([handle])
            out = feed(runtime, slots, [[config.decoder_start_id, *target[:-1]]], logits=True, all_positions=True)
            assert out.logits is not None
            expected = out.logits[np.arange(len(target)), target] - out.log_sum_exp
            self.assert_close(score, expected)

    def test_score_needs_one_target_for_each_handle(self, runtime: Runtime, config: T5Config) -> None:
        handles = runtime.encode(prompts(config)[:2])
        target = np.array([5, 1], np.int32)
        for targets in ([target], [target] * 3, []):
            with pytest.raises(EngineError, match=f"2 handles and {len(targets)} targets"):
                runtime.score(handles, targets)

    def test_closing_twice_is_allowed(self, config: T5Config) -> None:
        runtime = self.make_runtime(config, random_tensors(config))
        runtime.close()
        runtime.close()

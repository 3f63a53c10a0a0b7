"""What every runtime with adapters must do: a pytest class to subclass, as `runtime_conformance` is.

class TestMyAdapters(AdapterConformance):
    def make_runtime(self, config, tensors):
        return MyRuntime(config, tensors)
"""

import abc
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from t5kit.checkpoint.adapters import Adapter, LowRankMap, linear_map_shapes
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import CheckpointError, EngineError
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.runtime.adapters import NO_ADAPTER, AdaptingRuntime
from t5kit.testing.runtime_conformance import feed, prompts
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors


def random_adapter(config: T5Config, *, rank: int = 3, seed: int = 0, ends: tuple[str, ...] = ("",)) -> Adapter:
    """Return an adapter of every linear map whose name ends in one of `ends`, equal for equal seeds."""
    generator = np.random.Generator(np.random.Philox(seed))
    maps = {}
    for name, (outputs, inputs) in linear_map_shapes(config).items():
        a = generator.standard_normal((rank, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
        b = generator.standard_normal((outputs, rank)).astype(np.float32) * np.float32(0.3)
        if name.endswith(ends):
            maps[name] = LowRankMap(a, b)
    return Adapter(f"random adapter {seed}", maps)


def merged(tensors: Iterable[TensorView], adapter: Adapter) -> list[TensorView]:
    """Return the tensors with the adapter's products added to their matrices."""
    views = []
    for view in tensors:
        low_rank = adapter.maps.get(view.name.removesuffix(".weight"))
        if low_rank is not None:
            sum_64 = view.to_float32().astype(np.float64) + low_rank.b.astype(np.float64) @ low_rank.a
            view = TensorView.from_array(view.name, sum_64.astype(np.float32))
        views.append(view)
    return views


class AdapterConformance(abc.ABC):
    """Subclass it in a test module and give `make_runtime`; pytest does the rest."""

    tolerance: float = 1e-4
    """Against the reference over merged weights, relative to the largest logit: sums run in another order."""

    @abc.abstractmethod
    def make_runtime(self, config: T5Config, tensors: Iterable[TensorView]) -> AdaptingRuntime:
        """Return a runtime over these weights."""

    @pytest.fixture(params=sorted(TINY_CONFIGS))
    def config(self, request: pytest.FixtureRequest) -> T5Config:
        return TINY_CONFIGS[request.param]

    @pytest.fixture
    def runtime(self, config: T5Config) -> AdaptingRuntime:
        return self.make_runtime(config, random_tensors(config))

    def answers(self, runtime: Runtime, handles: Sequence[int]) -> np.ndarray:
        """Return the logits of several steps, some of many tokens and some of one, [steps, R, V]."""
        slots = runtime.open_slots(handles)
        outputs = [
            feed(runtime, slots, [[0, 5 + i, 7] for i in range(len(slots))], logits=True).logits,
            feed(runtime, slots, [[9 + i] for i in range(len(slots))], logits=True).logits,
        ]
        runtime.close_slots(slots)
        return np.stack([logits for logits in outputs if logits is not None])

    def assert_close(self, actual: np.ndarray, expected: np.ndarray) -> None:
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=self.tolerance * scale)

    @pytest.mark.parametrize("ends", [("",), (".q", ".v"), (".wi", ".wi_0"), (".wi_1", ".wo"), (".k", ".o")])
    def test_an_adapter_acts_as_its_merged_weights(
        self, runtime: AdaptingRuntime, config: T5Config, ends: tuple[str, ...]
    ) -> None:
        adapter = random_adapter(config, ends=ends)
        if not adapter.maps:
            pytest.skip("this family has no such map")
        texts = prompts(config)
        expected = ReferenceRuntime(config, self.emulated(merged(random_tensors(config), adapter), adapter))
        names = [runtime.add_adapter(adapter)] * len(texts)
        handles, expected_handles = runtime.encode(texts, names), expected.encode(texts)
        for actual, wanted in zip(runtime.encoder_states(texts, names), expected.encoder_states(texts), strict=True):
            self.assert_close(actual, wanted)
        self.assert_close(self.answers(runtime, handles), self.answers(expected, expected_handles))
        targets = [np.array([5, 6, 1], np.int32)] * len(texts)
        for actual, wanted in zip(
            runtime.score(handles, targets), expected.score(expected_handles, targets), strict=True
        ):
            self.assert_close(actual, wanted)

    def emulated(self, tensors: list[TensorView], adapter: Adapter) -> list[TensorView]:
        """Return what the reference computes with in place of merged tensors; override for reduced precision."""
        return tensors

    def test_rows_of_all_kinds_are_as_if_alone(self, runtime: AdaptingRuntime, config: T5Config) -> None:
        texts = prompts(config)
        plain = self.answers(runtime, runtime.encode(texts))
        plain_states = runtime.encoder_states(texts)
        names = [
            NO_ADAPTER,
            runtime.add_adapter(random_adapter(config, rank=1, seed=1)),
            runtime.add_adapter(random_adapter(config, rank=7, seed=2, ends=(".q", ".wo"))),
            NO_ADAPTER,
            runtime.add_adapter(random_adapter(config, rank=2, seed=3, ends=(".wi_0", ".wi", ".v"))),
        ]
        mixed = self.answers(runtime, runtime.encode(texts, names))
        mixed_states = runtime.encoder_states(texts, names)
        for row, (text, name) in enumerate(zip(texts, names, strict=True)):
            if name == NO_ADAPTER:
                np.testing.assert_array_equal(mixed[:, row], plain[:, row])
                np.testing.assert_array_equal(mixed_states[row], plain_states[row])
                continue
            assert not np.allclose(mixed[:, row], plain[:, row])
            np.testing.assert_array_equal(mixed_states[row], runtime.encoder_states([text], [name])[0])
            slots = runtime.open_slots(runtime.encode([text], [name]))
            alone = feed(runtime, slots, [[0, 5 + row, 7]], logits=True).logits
            assert alone is not None
            np.testing.assert_array_equal(mixed[0, row], alone[0])

    def test_forks_and_scores_keep_the_handles_adapter(self, runtime: AdaptingRuntime, config: T5Config) -> None:
        text = prompts(config)[0]
        name = runtime.add_adapter(random_adapter(config))
        (handle,) = runtime.encode([text], [name])
        slots = runtime.open_slots([handle])
        feed(runtime, slots, [[0]])
        both = np.concatenate([slots, runtime.fork_slots(slots)])
        out = feed(runtime, both, [[5], [5]], logits=True).logits
        assert out is not None
        np.testing.assert_array_equal(out[0], out[1])

    def test_a_removed_adapter_lives_as_long_as_its_handles(self, runtime: AdaptingRuntime, config: T5Config) -> None:
        text = prompts(config)[0]
        name = runtime.add_adapter(random_adapter(config))
        handles = runtime.encode([text], [name])
        before = self.answers(runtime, handles)
        runtime.remove_adapter(name)
        np.testing.assert_array_equal(self.answers(runtime, handles), before)
        with pytest.raises(EngineError, match=f"Adapter {name} "):
            runtime.encode([text], [name])
        with pytest.raises(EngineError, match=f"Adapter {name} "):
            runtime.remove_adapter(name)
        with pytest.raises(EngineError):
            runtime.remove_adapter(NO_ADAPTER)

    def test_names_that_do_not_fit_are_engine_errors(self, runtime: AdaptingRuntime, config: T5Config) -> None:
        texts = prompts(config)[:2]
        name = runtime.add_adapter(random_adapter(config))
        wrong: list[list[int]] = [[], [name], [name] * 3, [name, 12345], [-1, name]]
        for names in wrong:
            with pytest.raises(EngineError):
                runtime.encode(texts, names)
            with pytest.raises(EngineError):
                runtime.encoder_states(texts, names)

    def test_maps_that_do_not_fit_are_refused(self, runtime: AdaptingRuntime, config: T5Config) -> None:
        good = random_adapter(config, ends=(".q",))
        name, low_rank = next(iter(good.maps.items()))
        a, b = low_rank.a, low_rank.b
        infinite = a.copy()
        infinite[0, 0] = np.inf
        wrong = [
            {},
            {"encoder.block.99.layer.0.SelfAttention.q": low_rank},
            {"lm_head": low_rank},
            {name: LowRankMap(a[:, :-1], b)},
            {name: LowRankMap(a[:-1], b)},
            {name: LowRankMap(a, b[:-1])},
            {name: LowRankMap(a[:0], b[:, :0])},
            {name: LowRankMap(a[0], b)},
            {name: LowRankMap(infinite, b)},
            {name: LowRankMap(a.astype(np.float64), b)},
        ]
        for maps in wrong:
            with pytest.raises(CheckpointError):
                runtime.add_adapter(dataclasses.replace(good, maps=maps))

    def test_a_closed_runtime_is_an_engine_error(self, runtime: AdaptingRuntime, config: T5Config) -> None:
        adapter = random_adapter(config)
        name = runtime.add_adapter(adapter)
        runtime.close()
        with pytest.raises(EngineError, match="The runtime is closed"):
            runtime.add_adapter(adapter)
        with pytest.raises(EngineError, match="The runtime is closed"):
            runtime.remove_adapter(name)

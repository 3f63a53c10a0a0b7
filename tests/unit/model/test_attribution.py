"""Integrated gradients on small models: complete, the same as captum's, and quiet about parameters."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from t5kit.config import Head  # noqa: E402
from t5kit.errors import EngineError, RequestError  # noqa: E402
from t5kit.model.attribution import Attributor, PathAttribution, integrated_gradients  # noqa: E402
from t5kit.model.loading import load_model  # noqa: E402
from t5kit.model.t5 import T5  # noqa: E402
from t5kit.runtime import ReferenceRuntime  # noqa: E402
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors  # noqa: E402

INPUT = np.array([5, 40, 17, 8, 60, 1], np.int32)
TARGET = np.array([33, 9, 1], np.int32)


def model_of(family: str, dtype: object = torch.float32) -> T5:
    config = TINY_CONFIGS[family]
    model = load_model(config, random_tensors(config), dtype=dtype)
    assert isinstance(model, T5)
    return model


def baseline_of(model: T5, *, is_zero: bool = False) -> torch.Tensor:
    """The padding token everywhere but at EOS, or zeros."""
    ids = torch.tensor([1 if token == 1 else 0 for token in INPUT.tolist()])
    rows = model.shared.weight.detach()[ids].clone()
    if is_zero:
        rows[ids != 1] = 0.0
    return rows


def within(found: PathAttribution, tolerance: float) -> bool:
    bounds = tolerance * np.maximum(1.0, np.abs(found.scores - found.baseline_scores))
    return bool((found.errors <= bounds).all())


@pytest.mark.parametrize("family", ["t5", "t5_v1_1", "umt5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attributions_sum_to_the_difference_of_the_scores(family: str, dtype: object) -> None:
    model = model_of(family, dtype)
    found = integrated_gradients(model, INPUT, TARGET, baseline_of(model), tolerance=0.05, max_steps=2048)
    assert found.values.shape == (len(TARGET), len(INPUT))
    assert np.abs(found.scores - found.baseline_scores).max() > 0.3, "there is something to explain"
    assert within(found, 0.05)
    assert (found.values[:, INPUT == 1] == 0.0).all(), "EOS stands in the baseline too"


def test_scores_are_those_of_a_runtime() -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    runtime = ReferenceRuntime(config, random_tensors(config))
    (expected,) = runtime.score(runtime.encode([INPUT]), [TARGET])
    found = integrated_gradients(
        model_of("t5_v1_1"), INPUT, TARGET, baseline_of(model_of("t5_v1_1")), tolerance=0.9, max_steps=16
    )
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)  # float32, another order of sums


def test_a_smaller_tolerance_takes_more_steps_and_a_limit_holds() -> None:
    model = model_of("t5_v1_1", torch.float64)
    counts = []
    for tolerance in (0.5, 0.02):
        told: list[int] = []
        found = integrated_gradients(
            model, INPUT, TARGET, baseline_of(model), tolerance=tolerance, max_steps=4096, progress=told.append
        )
        assert within(found, tolerance) and sum(told) == found.num_steps
        counts.append(found.num_steps)
    assert counts[0] < counts[1]
    cut = integrated_gradients(model, INPUT, TARGET, baseline_of(model), tolerance=1e-6, max_steps=40)
    assert cut.num_steps <= 40 and not within(cut, 1e-6)


def test_no_tokens_changed_means_nothing_attributed() -> None:
    model = model_of("t5_v1_1")
    same = model.shared.weight.detach()[torch.from_numpy(INPUT).long()]
    found = integrated_gradients(model, INPUT, TARGET, same)
    assert (found.values == 0.0).all() and found.num_steps == 16
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_head_passed_back_at_once_gives_the_gradient_of_each_score() -> None:
    # Near the input the path is short, and the attribution is the gradient's product with the difference.
    model = model_of("t5", torch.float64)
    embedded = model.shared.weight.detach()[torch.from_numpy(INPUT).long()]
    moved = 1e-6 * torch.randn(embedded.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = integrated_gradients(model, INPUT, TARGET, embedded - moved, max_steps=16)
    x = embedded.clone()[None].requires_grad_()
    hidden = model.decode(torch.tensor([[0, *TARGET[:-1].tolist()]]), model.encoder(x, None))
    log_probs = model.logits(hidden).log_softmax(-1)[0]
    for place, token in enumerate(TARGET.tolist()):
        (gradient,) = torch.autograd.grad(log_probs[place, token], x, retain_graph=True)
        expected = (gradient[0] * moved).sum(-1).numpy()
        np.testing.assert_allclose(found.values[place], expected, atol=1e-4 * np.abs(expected).max())


def test_attributions_are_captums_where_both_have_converged() -> None:
    attr = pytest.importorskip("captum.attr")
    model = model_of("t5_v1_1")
    # Half of the way, where the scores change smoothly enough for a rule without adaption.
    embedded = model.shared.weight.detach()[torch.from_numpy(INPUT).long()]
    baseline = embedded + 0.1 * (baseline_of(model) - embedded)
    found = integrated_gradients(model, INPUT, TARGET, baseline, tolerance=0.001, max_steps=256)
    decoder_input_ids = torch.tensor([[0, *TARGET[:-1].tolist()]])

    def scores(x: torch.Tensor) -> torch.Tensor:
        hidden = model.decode(decoder_input_ids.expand(len(x), -1), model.encoder(x, None))
        targets = torch.from_numpy(TARGET).long().expand(len(x), -1)
        return model.logits(hidden).log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)

    captum = attr.IntegratedGradients(scores)
    for place in range(len(TARGET)):
        theirs = captum.attribute(embedded[None], baselines=baseline[None], target=place, n_steps=64)
        expected = theirs.detach().sum(-1)[0].numpy()
        np.testing.assert_allclose(found.values[place], expected, atol=0.01)


def test_an_attributor_makes_the_baseline_of_a_token_or_of_zeros() -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    attributor, model = Attributor(config, random_tensors(config)), model_of("t5_v1_1")
    for baseline_id in (0, None):
        found = attributor.attribute(
            INPUT, TARGET, baseline_id=baseline_id, kept_id=1, tolerance=0.9, max_steps=16, progress=lambda n: None
        )
        expected = integrated_gradients(
            model, INPUT, TARGET, baseline_of(model, is_zero=baseline_id is None), tolerance=0.9, max_steps=16
        )
        np.testing.assert_allclose(found.values, expected.values, rtol=1e-4, atol=1e-4)
    encoder = dataclasses.replace(config, head=Head.ENCODER)
    with pytest.raises(EngineError, match="writes nothing that could be attributed"):
        Attributor(encoder, [view for view in random_tensors(config) if not view.name.startswith(("dec", "lm_head"))])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"tolerance": 0.0}, "tolerance = 0.0 must be between 0 and 1"),
        ({"tolerance": 1.5}, "tolerance = 1.5"),
        ({"max_steps": 3}, "max_steps = 3 must be an integer of at least 16"),
    ],
)
def test_limits_out_of_range_are_refused(words: dict[str, float], message: str) -> None:
    model = model_of("t5_v1_1")
    with pytest.raises(RequestError, match=message):
        integrated_gradients(model, INPUT, TARGET, baseline_of(model), **words)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="at least one input token"):
        integrated_gradients(model, INPUT, [], baseline_of(model))
    with pytest.raises(RequestError, match="the baseline is"):
        integrated_gradients(model, INPUT, TARGET, baseline_of(model)[1:])

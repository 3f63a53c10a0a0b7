"""The chunked loss equals the formulas written out over dense logits, in value and in gradient."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from t5kit.data.batch import Batch
from t5kit.errors import DataError, RequestError
from t5kit.model.loading import fresh_model
from t5kit.model.t5 import T5
from t5kit.tasks.example import Example
from t5kit.testing.tiny import TINY_CONFIGS
from t5kit.training.config import LossConfig
from t5kit.training.loss import LossSums, cross_entropy, language_model_loss, soft_targets

N, D, V = 13, 6, 11

CONFIGS = [
    LossConfig(z_loss=0.0),
    LossConfig(z_loss=1e-4),
    LossConfig(z_loss=0.1, label_smoothing=0.1, smoothing_convention="t5x"),
    LossConfig(z_loss=0.1, label_smoothing=0.1, smoothing_convention="mesh"),
]


def random_inputs(dtype: torch.dtype, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator, dtype=torch.float64)
    head = torch.randn(V, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(V, (N,), generator=generator)
    weights = torch.rand(N, generator=generator, dtype=torch.float64) + 0.5
    return (
        hidden.to(dtype).requires_grad_(),
        head.to(dtype).requires_grad_(),
        labels,
        weights.to(torch.promote_types(dtype, torch.float32)),
    )


def dense(hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor, config: LossConfig) -> LossSums:
    """The slow twin: one-hot soft targets against all logits, as the papers' code writes it."""
    logits = hidden @ head.T
    log_z = logits.logsumexp(1)
    log_p = logits - log_z[:, None]
    size, share = head.shape[0], config.label_smoothing
    if config.smoothing_convention == "mesh":
        off = share / size
        on = 1 - share + off
        constant = 0.0
    else:
        on, off = 1 - share, share / (size - 1)
        constant = -(on * math.log(on) + (size - 1) * off * math.log(off + 1e-20))
    q = torch.full_like(logits, off)
    q[torch.arange(len(labels)), labels] = on
    z_loss = config.z_loss * log_z.square()
    loss = -(q * log_p).sum(1) - constant + z_loss
    likelihood = -log_p[torch.arange(len(labels)), labels]
    correct = (logits.argmax(1) == labels) * weights
    sums = [(x * weights).sum() for x in (loss, torch.ones_like(loss), z_loss, likelihood)]
    return LossSums(*sums, correct.sum())


def values(sums: LossSums) -> list[float]:
    return [float(getattr(sums, field.name).detach()) for field in dataclasses.fields(sums)]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_equals_the_dense_formula(config: LossConfig, dtype: torch.dtype, tolerance: float) -> None:
    inputs = random_inputs(dtype)
    slow_inputs = tuple(x.detach().double() for x in inputs[:2])
    slow_inputs = tuple(x.requires_grad_() for x in slow_inputs)
    got = cross_entropy(*inputs, config=dataclasses.replace(config, chunk_targets=5))
    expected = dense(*slow_inputs, inputs[2], inputs[3].double(), config)
    assert values(got) == pytest.approx(values(expected), rel=tolerance)
    got.sum.backward()
    expected.sum.backward()
    for fast, slow in zip(inputs[:2], slow_inputs, strict=True):
        np.testing.assert_allclose(fast.grad, slow.grad, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_are_those_of_the_value(config: LossConfig) -> None:
    hidden, head, labels, weights = random_inputs(torch.float64)
    chunked = dataclasses.replace(config, chunk_targets=4)

    def loss(hidden: Tensor, head: Tensor) -> Tensor:
        return 3.0 * cross_entropy(hidden, head, labels, weights, config=chunked).sum

    assert torch.autograd.gradcheck(loss, (hidden, head))


@given(st.integers(1, N + 3), st.sampled_from(CONFIGS), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_the_chunk_size_changes_nothing(chunk: int, config: LossConfig, seed: int) -> None:
    results = []
    for size in (chunk, N):
        inputs = random_inputs(torch.float64, seed=seed)
        sums = cross_entropy(*inputs, config=dataclasses.replace(config, chunk_targets=size))
        sums.sum.backward()
        results.append((values(sums), inputs[0].grad, inputs[1].grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-13)
    torch.testing.assert_close(results[0][1:], results[1][1:], rtol=1e-12, atol=1e-13)


def test_z_loss_is_the_share_of_the_sum_that_its_factor_makes() -> None:
    inputs = random_inputs(torch.float64)
    without, some = (cross_entropy(*inputs, config=LossConfig(z_loss=z)) for z in (0.0, 1e-4))
    log_z = (inputs[0] @ inputs[1].T).detach().logsumexp(1)
    assert float(some.z_loss_sum) == pytest.approx(float((1e-4 * log_z**2 * inputs[3]).sum()))
    assert float((some.sum - without.sum).detach()) == pytest.approx(float(some.z_loss_sum))
    assert float(without.z_loss_sum) == 0


def test_smoothing_conventions_of_five_tokens() -> None:
    mesh = soft_targets(LossConfig(label_smoothing=0.1, smoothing_convention="mesh"), 5)
    t5x = soft_targets(LossConfig(label_smoothing=0.1, smoothing_convention="t5x"), 5)
    assert (mesh.on, mesh.off, mesh.entropy) == pytest.approx((0.92, 0.02, 0.0))
    assert (t5x.on, t5x.off) == pytest.approx((0.9, 0.025))
    assert t5x.entropy == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.025)))


def test_a_perfect_prediction_has_no_loss_under_the_t5x_convention() -> None:
    on, off = 0.9, 0.1 / (V - 1)
    log_q = torch.full((1, V), math.log(off), dtype=torch.float64)
    log_q[0, 3] = math.log(on)
    config = LossConfig(z_loss=0.0, label_smoothing=0.1)
    sums = cross_entropy(log_q, torch.eye(V, dtype=torch.float64), torch.tensor([3]), torch.ones(1), config=config)
    assert float(sums.sum) == pytest.approx(0.0, abs=1e-12)


def test_bfloat16_products_have_float32_statistics() -> None:
    hidden, head, labels, weights = random_inputs(torch.bfloat16)
    sums = cross_entropy(hidden, head, labels, weights, config=LossConfig(chunk_targets=4))
    assert all(getattr(sums, field.name).dtype == torch.float32 for field in dataclasses.fields(sums))
    logits = (hidden @ head.T).double()  # rounded to bfloat16 by the product, exact from there on
    expected = (F.cross_entropy(logits, labels, reduction="none") + 1e-4 * logits.logsumexp(1) ** 2) * weights
    assert float(sums.sum.detach()) == pytest.approx(float(expected.sum().detach()), rel=1e-6)


def test_a_float32_head_beside_bfloat16_hidden_states_gets_a_float32_gradient() -> None:
    hidden, head, labels, weights = random_inputs(torch.bfloat16)
    master = head.detach().float().requires_grad_()
    cross_entropy(hidden, master, labels, weights, config=LossConfig(chunk_targets=4)).sum.backward()
    exact = dense(
        hidden.detach().double(), (same := master.detach().double().requires_grad_()), labels, weights, CONFIGS[1]
    )
    exact.sum.backward()
    assert master.grad.dtype == torch.float32 and hidden.grad.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: each logit and each gradient of a logit is right to 2^-8
    assert float((master.grad - same.grad).norm() / same.grad.norm()) < 2**-6


class LargestOutput(TorchDispatchMode):
    """Remembers the most elements that any operation within it gave."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for output in given if isinstance(given, tuple | list) else (given,):
            if isinstance(output, Tensor):
                self.num_elements = max(self.num_elements, output.numel())
        return given


def test_no_array_is_larger_than_a_chunk_of_logits_or_a_gradient() -> None:
    hidden = torch.randn(200, 4, requires_grad=True)
    head = torch.randn(300, 4, requires_grad=True)
    labels, weights = torch.randint(300, (200,)), torch.ones(200)
    with LargestOutput() as seen:
        cross_entropy(hidden, head, labels, weights, config=LossConfig(chunk_targets=10)).sum.backward()
    assert seen.num_elements == 10 * 300  # all logits are 200 * 300


def test_nothing_is_kept_where_nothing_learns() -> None:
    inputs = random_inputs(torch.float32)
    with torch.no_grad():
        sums = cross_entropy(*inputs, config=LossConfig())
    assert not sums.sum.requires_grad
    assert values(sums) == pytest.approx(values(cross_entropy(*inputs, config=LossConfig())))


def test_a_model_that_says_the_same_of_every_token_is_right_by_chance() -> None:
    labels = torch.arange(50).repeat(2)
    sums = cross_entropy(torch.zeros(100, 8), torch.randn(50, 8), labels, torch.ones(100), config=LossConfig())
    assert float(sums.correct_sum) == 2  # the first of equal ones is the answer, as in argmax


def test_large_logits_neither_overflow_nor_lose_their_gradient() -> None:
    hidden, head, labels, weights = random_inputs(torch.float32)
    sums = cross_entropy(hidden * 1e3, head, labels, weights, config=LossConfig())
    sums.sum.backward()
    assert torch.isfinite(sums.sum) and torch.isfinite(hidden.grad).all() and torch.isfinite(head.grad).all()


def test_no_targets_sum_to_nothing_and_have_no_mean() -> None:
    hidden, head, labels, weights = (x[:0] if x.shape[0] == N else x for x in random_inputs(torch.float32))
    sums = cross_entropy(hidden, head, labels, weights, config=LossConfig())
    sums.sum.backward()
    assert values(sums) == [0.0] * 5
    with pytest.raises(DataError, match="no target"):
        sums.mean()


@pytest.mark.parametrize("label", [-100, V])
def test_labels_outside_the_vocabulary_are_refused(label: int) -> None:
    hidden, head, labels, weights = random_inputs(torch.float32)
    labels[3] = label
    with pytest.raises(DataError, match=str(label)):
        cross_entropy(hidden, head, labels, weights, config=LossConfig())


def test_other_shapes_are_refused() -> None:
    hidden, head, labels, weights = random_inputs(torch.float32)
    with pytest.raises(RequestError, match="d_model"):
        cross_entropy(hidden, head[:, :-1], labels, weights, config=LossConfig())
    with pytest.raises(RequestError, match=f"must both be \\[{N}\\]"):
        cross_entropy(hidden, head, labels[:-1], weights, config=LossConfig())


def examples(count: int, vocab_size: int) -> list[Example]:
    draw = np.random.Generator(np.random.Philox(7))
    made = []
    for i in range(count):
        encoder, target = (np.append(draw.integers(3, vocab_size, n), 1).astype(np.int32) for n in (4 + i, 2 + i % 5))
        made.append(Example(encoder, target, np.ones(len(target), np.float32)))
    return made


def batch_loss(model: T5, batch: Batch, config: LossConfig) -> LossSums:
    tensors = {f.name: torch.from_numpy(getattr(batch, f.name).copy()) for f in dataclasses.fields(batch)}
    encoder_hidden = model.encode(
        tensors["encoder_input_ids"].long(), encoder_segment_ids=tensors["encoder_segment_ids"]
    )
    decoder_hidden = model.decode(
        tensors["decoder_input_ids"].long(),
        encoder_hidden,
        decoder_segment_ids=tensors["decoder_segment_ids"],
        encoder_segment_ids=tensors["encoder_segment_ids"],
    )
    return language_model_loss(model, decoder_hidden, tensors["labels"], tensors["loss_weights"], config=config)


def gradients_of(model: T5, batches: list[Batch], config: LossConfig) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    total: LossSums | None = None
    for batch in batches:
        sums = batch_loss(model, batch, config)
        sums.sum.backward()
        total = sums.detached() if total is None else total + sums.detached()
    count = float(total.count)
    return float(total.mean()), {name: p.grad / count for name, p in model.named_parameters()}


def seeded_model(name: str) -> T5:
    return fresh_model(TINY_CONFIGS[name], generator=torch.Generator().manual_seed(3))


def assert_same(one: tuple, other: tuple) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    for name, gradient in one[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-5, atol=1e-6 * max(scale, 1e-6), msg=name)


@pytest.mark.parametrize("family", ["t5", "t5_v1_1", "tied_unscaled"])
def test_eight_at_once_and_eight_times_one_have_the_same_gradients(family: str) -> None:
    model = seeded_model(family)
    rows = [[example] for example in examples(8, model.config.vocab_size)]
    config = LossConfig(label_smoothing=0.1)
    whole = gradients_of(model, [Batch.of_rows(rows, encoder_length=14, target_length=8)], config)
    single = [Batch.of_rows([row], encoder_length=12, target_length=7) for row in rows]
    assert_same(whole, gradients_of(model, single, config))


def test_packed_and_unpacked_have_the_same_gradients() -> None:
    model = seeded_model("t5_v1_1")
    made = examples(8, model.config.vocab_size)
    packed = Batch.of_rows([made[:4], made[4:]], encoder_length=44, target_length=24)
    unpacked = Batch.of_rows([[e] for e in made], encoder_length=12, target_length=7)
    assert_same(gradients_of(model, [packed], LossConfig()), gradients_of(model, [unpacked], LossConfig()))


@pytest.mark.parametrize("family", list(TINY_CONFIGS))
def test_the_loss_is_that_of_the_models_logits(family: str) -> None:
    model = seeded_model(family)
    hidden = torch.randn(2, 5, model.config.d_model)
    labels = torch.randint(model.config.vocab_size, (2, 5))
    weights = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 0, 0, 1]])
    sums = language_model_loss(model, hidden, labels, weights, config=LossConfig(z_loss=0.0))
    each: Callable[..., Tensor] = F.cross_entropy
    expected = each(model.logits(hidden).flatten(0, 1), labels.flatten(), reduction="none") * weights.flatten()
    assert float(sums.sum.detach()) == pytest.approx(float(expected.sum().detach()), rel=1e-5)
    assert float(sums.count) == 6


def test_labels_of_another_shape_than_the_hidden_states_are_refused() -> None:
    model = seeded_model("t5_v1_1")
    with pytest.raises(RequestError, match="labels"):
        language_model_loss(
            model, torch.zeros(1, 2, 32), torch.zeros(1, 3).long(), torch.ones(1, 2), config=LossConfig()
        )

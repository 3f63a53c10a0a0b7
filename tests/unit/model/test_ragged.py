"""The ragged way of training against its slow twin, `T5.hidden` over padded rows."""

import dataclasses
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from t5kit.data import Batch  # noqa: E402
from t5kit.model.feed_forward import gelu_tanh  # noqa: E402
from t5kit.model.loading import load_model  # noqa: E402
from t5kit.model.norm import normed, rms_norm  # noqa: E402
from t5kit.model.passes import PLAIN, compiled_passes, gelu_by_sigmoid  # noqa: E402
from t5kit.model.ragged import TextDropout, ragged_hidden  # noqa: E402
from t5kit.model.ragged_layout import LEAST_FILL, RaggedBatch  # noqa: E402
from t5kit.model.t5 import T5  # noqa: E402
from t5kit.tasks.example import Example  # noqa: E402
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors  # noqa: E402

CPU = torch.device("cpu")


def example(num_encoder: int, num_target: int, *, seed: int = 0) -> Example:
    draw = np.random.default_rng((seed, num_encoder, num_target))
    return Example.with_full_loss(draw.integers(3, 96, num_encoder), draw.integers(3, 96, num_target))


def packed_batch() -> Batch:
    """Return rows of two texts, of one, of none, and of one that has nothing on the encoder's side."""
    rows = [[example(5, 3), example(9, 7)], [example(20, 2)], [], [example(0, 4), example(6, 1)]]
    return Batch.of_rows(rows, encoder_length=22, target_length=12)


def tiny(family: str) -> T5:
    config = TINY_CONFIGS[family]
    model = load_model(config, random_tensors(config))
    assert isinstance(model, T5)
    return model


def padded_hidden(model: T5, batch: Batch) -> Tensor:
    """Return the twin's hidden states of the real target tokens, row after row."""
    hidden = model.hidden(
        encoder_input_ids=torch.from_numpy(batch.encoder_input_ids),
        decoder_input_ids=torch.from_numpy(batch.decoder_input_ids),
        encoder_segment_ids=torch.from_numpy(batch.encoder_segment_ids),
        decoder_segment_ids=torch.from_numpy(batch.decoder_segment_ids),
    )
    return hidden[torch.from_numpy(batch.decoder_segment_ids) > 0]


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_hidden_states_and_gradients_are_those_of_padded_rows(family: str) -> None:
    batch = packed_batch()
    batch = batch.rows(0, 3)  # a text without encoder tokens attends to its neighbours' in the twin
    found, expected = tiny(family), tiny(family)
    ragged = RaggedBatch.of(batch, num_heads=found.config.num_heads, device=CPU)
    found_hidden, expected_hidden = ragged_hidden(found, ragged), padded_hidden(expected, batch)
    # Numerics: float32 sums in another order, through a few layers.
    torch.testing.assert_close(found_hidden, expected_hidden, rtol=2e-5, atol=5e-5)
    slope = torch.randn(expected_hidden.shape, generator=torch.Generator().manual_seed(0))
    found_hidden.backward(slope)
    expected_hidden.backward(slope)
    for (name, one), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        if other.grad is None:  # an untied head
            assert one.grad is None, name
            continue
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-4 * float(other.grad.abs().max() + 1e-3))


def test_a_text_without_encoder_tokens_attends_to_nothing() -> None:
    model, alone = tiny("t5_v1_1"), Batch.of_rows([[example(0, 4)]], encoder_length=1, target_length=4)
    ragged = [RaggedBatch.of(batch, num_heads=3, device=CPU) for batch in (packed_batch(), alone)]
    together, by_itself = (ragged_hidden(model, batch) for batch in ragged)
    torch.testing.assert_close(together[12:16], by_itself, rtol=0, atol=2e-5)


def test_rows_of_padding_alone_give_no_tokens_and_zero_gradients() -> None:
    model = tiny("t5")
    batch = Batch.of_rows([[], []], encoder_length=4, target_length=4)
    hidden = ragged_hidden(model, RaggedBatch.of(batch, num_heads=3, device=CPU))
    assert hidden.shape == (0, 32)
    hidden.sum().backward()
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def test_every_text_is_in_one_group_with_its_likes() -> None:
    rows = [[example(length, 1 + length % 3)] for length in range(1, 41)]
    batch = Batch.of_rows(rows, encoder_length=40, target_length=4)
    plan = RaggedBatch.of(batch, num_heads=2, device=CPU).encoder_plan
    seen = torch.cat([group.segments for group in plan.groups])
    assert sorted(seen.tolist()) == list(range(40))
    for group in plan.groups:
        lengths = group.segments + 1  # the i-th text has i + 1 tokens
        assert lengths.max() == group.num_keys
        assert lengths.min() >= LEAST_FILL * group.num_keys
    assert len(plan.groups) < 14


def test_dropout_draws_one_mask_a_text() -> None:
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], dropout_rate=0.5)
    dropout = TextDropout(config.dropout_rate, (1, 2))
    mask = dropout.mask((0, 3, 1), (4, 1000), torch.zeros(()))
    assert mask is not None
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert 0.45 < float((mask == 0).float().mean()) < 0.55
    again, elsewhere = (dropout.mask(place, (4, 1000), torch.zeros(())) for place in ((0, 3, 1), (0, 3, 2)))
    assert torch.equal(mask, again)
    assert not torch.equal(mask, elsewhere)


def test_two_texts_of_the_same_tokens_are_dropped_differently() -> None:
    model = tiny("t5_v1_1")
    text = example(8, 6)
    batch = RaggedBatch.of(Batch.of_rows([[text], [text]], encoder_length=8, target_length=6), num_heads=3, device=CPU)
    first, second = ragged_hidden(model, batch, dropout=TextDropout(0.3, (0,))).detach().chunk(2)
    assert not torch.allclose(first, second)
    first, second = ragged_hidden(model, batch).detach().chunk(2)
    torch.testing.assert_close(first, second)


def test_the_norms_gradients_in_one_go_are_those_of_autograd() -> None:
    x, weight = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 5, 8), (8,)))
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 1e-6), (x, weight))
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), normed(x, weight, 1e-6), rtol=0, atol=0)


def test_gelu_by_sigmoid_is_gelu_by_tanh() -> None:
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    torch.testing.assert_close(gelu_by_sigmoid(x), gelu_tanh(x), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
def test_compiled_passes_are_the_plain_ones() -> None:
    passes, draw = compiled_passes(), torch.Generator().manual_seed(0)
    for num_tokens in (5, 9):  # one compiled loop holds for every number of tokens
        inputs = [torch.randn(num_tokens, 16, generator=draw, requires_grad=True) for _ in range(2)]
        mask = torch.rand(num_tokens, 16, generator=draw)
        weight = torch.randn(16, generator=draw, requires_grad=True)
        for compiled, plain, arguments in (
            (passes.norm, PLAIN.norm, (inputs[0], weight, 1e-6)),
            (passes.add, PLAIN.add, (*inputs, mask)),
            (passes.gate, PLAIN.gate, (*inputs, mask, gelu_tanh)),
            (passes.gate, PLAIN.gate, (*inputs, None, torch.nn.functional.silu)),
        ):
            learnt = [value for value in arguments if isinstance(value, Tensor) and value.requires_grad]
            found, expected = compiled(*arguments), plain(*arguments)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            for one, other in zip(
                torch.autograd.grad(found.sum(), learnt), torch.autograd.grad(expected.sum(), learnt), strict=True
            ):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)

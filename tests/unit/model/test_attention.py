import pytest
import torch

from t5kit.model.attention import attend, attend_explicitly
from t5kit.model.dropout import Dropout
from t5kit.model.masks import additive_mask, with_mask

OFF = Dropout(0.0)


def random_attention(dtype: torch.dtype, *, num_queries: int = 5, num_keys: int = 9) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 3, num_queries, 8), (2, 3, num_keys, 8), (2, 3, num_keys, 8), (1, 3, num_queries, num_keys)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


# Numerics: one rounding of the dtype at values of about 1, a few of them in a row.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_fused_attention_equals_the_explicit_one(dtype: torch.dtype, tolerance: float) -> None:
    q, k, v, bias = random_attention(dtype)
    fused, explicit = attend(q, k, v, bias, OFF), attend_explicitly(q, k, v, bias, OFF)
    torch.testing.assert_close(fused, explicit, atol=tolerance, rtol=tolerance)


def test_fused_attention_without_gradients_equals_the_one_with() -> None:
    q, k, v, bias = random_attention(torch.float32)
    with torch.no_grad():
        fused = attend(q, k, v, bias, OFF)
    torch.testing.assert_close(fused, attend(q, k, v, bias, OFF), atol=2e-6, rtol=2e-6)


def test_gradients_of_fused_attention_reach_the_bias() -> None:
    inputs = random_attention(torch.float32)
    weights = torch.randn(2, 3, 5, 8)
    gradients = torch.autograd.grad((attend(*inputs, OFF) * weights).sum(), inputs)
    expected = torch.autograd.grad((attend_explicitly(*inputs, OFF) * weights).sum(), inputs)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


def test_scores_are_not_divided_by_the_square_root_of_the_width() -> None:
    q, k, v, _ = random_attention(torch.float32)
    by_hand = (q @ k.mT).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, None, OFF), by_hand)


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_query_that_may_look_at_nothing_gives_numbers(dtype: torch.dtype, needs_grad: bool) -> None:
    q, k, v, bias = random_attention(dtype)
    nothing = torch.zeros(2, 1, 5, 9, dtype=torch.bool)
    with torch.set_grad_enabled(needs_grad):
        for masked in (with_mask(bias, nothing), additive_mask(nothing, dtype)):
            assert masked is not None and masked.dtype == dtype
            # Scores as large as a trained float16 model's must not bring the hidden keys back or overflow.
            assert attend(q * 300, k, v, masked, OFF).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hidden_keys_have_exactly_no_weight(dtype: torch.dtype) -> None:
    q, k, v, bias = random_attention(dtype)
    visible = torch.arange(9) < 6
    everything = attend(q, k, v, with_mask(bias, visible), OFF)
    poison = torch.where(visible[:, None], v, 1e4)
    assert torch.equal(everything, attend(q, k, poison, with_mask(bias, visible), OFF))


def test_attention_dropout_broadcast_over_the_queries_drops_a_key_for_all_of_them() -> None:
    torch.manual_seed(0)
    q, k = torch.zeros(1, 1, 6, 4), torch.zeros(1, 1, 8, 4)
    values = torch.eye(8)[None, None]
    weights = attend(q, k, values, None, Dropout(0.5, "length").train())
    assert torch.equal(weights, weights[:, :, :1].expand_as(weights))
    assert 0 < (weights == 0).float().mean() < 1

import dataclasses

import pytest
import torch

from t5kit.model.feed_forward import FeedForwardLayer, project_without_overflow
from t5kit.testing.tiny import TINY_CONFIGS

FAMILIES = pytest.mark.parametrize("family", ["t5", "t5_v1_1"])


def layer(family: str, *, gain: float) -> FeedForwardLayer:
    torch.manual_seed(0)
    made = FeedForwardLayer(TINY_CONFIGS[family], "none")
    for parameter in made.DenseReluDense.parameters():
        torch.nn.init.normal_(parameter, std=gain)
    # The same numbers in float16 and float32, so that only the arithmetic differs.
    return made.half().float()


@FAMILIES
def test_float16_survives_weights_that_overflow_it_naively(family: str) -> None:
    wide = layer(family, gain=30.0)
    x = torch.randn(2, 5, 32).half()
    expected = wide(x.float())
    assert expected.abs().max() > 65504, "the example must overflow"
    narrow = layer(family, gain=30.0).half()
    with torch.no_grad():
        found = narrow(x)
    assert found.dtype == torch.float32
    # Numerics: float16 has 11 bits; sums of 48 products of rounded factors.
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3 * expected.abs().max().item())


@FAMILIES
def test_gradients_pass_through_the_float16_rescaling(family: str) -> None:
    wide, narrow = layer(family, gain=3.0), layer(family, gain=3.0).half()
    x = torch.randn(2, 5, 32).half()
    weights = torch.randn(2, 5, 32) / 1000
    (wide(x.float()) * weights).sum().backward()
    (narrow(x) * weights).sum().backward()
    for (name, expected), found in zip(wide.named_parameters(), narrow.parameters(), strict=True):
        assert expected.grad is not None and found.grad is not None
        scale = expected.grad.abs().max().item()
        torch.testing.assert_close(found.grad.float(), expected.grad, rtol=2e-2, atol=1e-2 * scale, msg=name)


def test_rescaling_is_exact_where_nothing_overflows() -> None:
    torch.manual_seed(0)
    wo = torch.nn.Linear(64, 16, bias=False).half()
    inner = (torch.randn(3, 64) * 900).half()
    plain, rescaled = wo(inner).float(), project_without_overflow(wo, inner)
    torch.testing.assert_close(rescaled, plain, rtol=1e-3, atol=1e-3 * plain.abs().max().item())


def test_row_of_zeros_stays_zero_in_float16() -> None:
    wo = torch.nn.Linear(8, 4, bias=False).half()
    assert not project_without_overflow(wo, torch.zeros(2, 8).half()).any()


def test_gelu_is_the_tanh_approximation() -> None:
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], activation="gelu_tanh")
    activation = FeedForwardLayer(config, "none").DenseReluDense.activation
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    by_hand = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(activation(x), by_hand)

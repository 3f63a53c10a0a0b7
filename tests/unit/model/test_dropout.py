import pytest
import torch

from t5kit.errors import ConfigError
from t5kit.model.dropout import Dropout


@pytest.mark.parametrize("broadcast", ["none", "length"])
def test_dropout_is_off_in_inference_mode_and_at_rate_0(broadcast: str) -> None:
    x = torch.randn(2, 5, 4)
    assert Dropout(0.5, broadcast).eval()(x) is x
    assert Dropout(0.0, broadcast).train()(x) is x


@pytest.mark.parametrize("broadcast", ["none", "length"])
def test_dropout_keeps_the_mean_and_drops_its_share(broadcast: str) -> None:
    torch.manual_seed(0)
    y = Dropout(0.25, broadcast).train()(torch.ones(64, 8, 512))
    # Numerics: 32,768 draws at the least; four standard errors of their share are 0.01.
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert y.mean().item() == pytest.approx(1.0, abs=0.015)
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])


def test_broadcast_along_the_length_drops_a_feature_for_the_whole_text() -> None:
    torch.manual_seed(0)
    y = Dropout(0.5, "length").train()(torch.ones(3, 7, 64))
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert not torch.equal(y[0], y[1])


def test_elementwise_dropout_does_not() -> None:
    torch.manual_seed(0)
    y = Dropout(0.5, "none").train()(torch.ones(3, 7, 64))
    assert not torch.equal(y, y[:, :1].expand_as(y))


def test_unknown_convention_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'batch' must be one of: none, length"):
        Dropout(0.1, "batch")

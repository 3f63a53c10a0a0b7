import dataclasses
import math

import pytest
import torch

from t5kit.config import Head, T5Config, preset, tensor_shapes
from t5kit.model.init import distribution_of, draw
from t5kit.model.loading import fresh_model

# Wide enough that a tensor's deviation is known to a few per cent, small enough to draw in milliseconds.
SIZES = {"vocab_size": 512, "d_model": 128, "d_kv": 16, "d_ff": 320, "num_heads": 6, "num_encoder_layers": 3}
SIZES |= {"num_decoder_layers": 3}
FAMILIES = ("t5_small", "t5_v1_1_small", "flan_t5_small", "mt5_small", "umt5_small", "byt5_small", "madlad400_3b")


def small(family: str, **changes: object) -> T5Config:
    return dataclasses.replace(preset(family), **SIZES, **changes)


def initial_loss(config: T5Config) -> float:
    model = fresh_model(config, generator=torch.Generator().manual_seed(1)).eval()
    generator = torch.Generator().manual_seed(2)
    encoder_ids, decoder_ids, labels = torch.randint(2, config.vocab_size, (3, 8, 32), generator=generator)
    with torch.no_grad():
        logits = model(encoder_input_ids=encoder_ids, decoder_input_ids=decoder_ids)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_model_starts_near_the_loss_of_a_uniform_guess(family: str) -> None:
    config = small(family)
    # Logits of variance 1 cost ln(V) + 1/2 on random labels; 256 labels and correlated logits move that by some 0.3.
    assert initial_loss(config) == pytest.approx(math.log(config.vocab_size) + 0.5, abs=0.4)


def test_fresh_tied_model_without_scaling_starts_there_too() -> None:
    config = small("t5_v1_1_small", is_tied=True)
    assert initial_loss(config) == pytest.approx(math.log(config.vocab_size) + 0.5, abs=0.4)


def test_deviations_are_those_of_the_reference_code() -> None:
    config = small("t5_v1_1_small")
    d, k, h, f = config.d_model, config.d_kv, config.num_heads, config.d_ff
    block = "decoder.block.0.layer"
    expected = {
        "shared.weight": 1.0,
        f"{block}.0.SelfAttention.q.weight": (d * k) ** -0.5,
        f"{block}.0.SelfAttention.k.weight": d**-0.5,
        f"{block}.1.EncDecAttention.v.weight": d**-0.5,
        f"{block}.1.EncDecAttention.o.weight": (h * k) ** -0.5,
        f"{block}.2.DenseReluDense.wi_0.weight": d**-0.5,
        f"{block}.2.DenseReluDense.wi_1.weight": d**-0.5,
        f"{block}.2.DenseReluDense.wo.weight": f**-0.5,
        "lm_head.weight": d**-0.5,
    }
    state = fresh_model(config, generator=torch.Generator().manual_seed(0)).state_dict()
    # Numerics: 12,288 numbers at the least know their deviation to 0.6 %; five times that.
    for name, deviation in expected.items():
        assert state[name].std().item() == pytest.approx(deviation, rel=0.03), name
    assert torch.equal(state[f"{block}.0.layer_norm.weight"], torch.ones(d))


def test_feed_forward_and_head_are_cut_at_two_deviations_and_the_position_table_is_glorot_uniform() -> None:
    config = small("t5_v1_1_small")
    generator = torch.Generator().manual_seed(0)
    for name in ("encoder.block.1.layer.1.DenseReluDense.wo.weight", "lm_head.weight"):
        wide = distribution_of(name, config)
        values = draw(torch.Size((200, 200)), wide, generator)
        # jax: the normal that is cut has the deviation scale / 0.8796, and the cut is at two of those.
        limit = 2 * wide.scale / 0.87962566
        assert limit * 0.98 < values.abs().max() <= limit * (1 + 1e-6)
        assert values.std().item() == pytest.approx(wide.scale, rel=0.02)
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    values = draw(torch.Size((200, 200)), distribution_of(name, config), generator)
    limit = math.sqrt(6 / (config.num_heads + 32))
    assert limit * 0.99 < values.abs().max() <= limit
    assert values.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("head", list(Head))
def test_every_parameter_of_every_head_has_a_distribution(head: Head) -> None:
    config = small("umt5_small", head=head, num_labels=3 if "classification" in head else 0)
    for name in tensor_shapes(config):
        assert distribution_of(name, config).kind in ("normal", "truncated_normal", "uniform", "constant")


def test_same_seed_gives_the_same_model_in_every_dtype() -> None:
    config = small("t5_v1_1_small")
    full = fresh_model(config, generator=torch.Generator().manual_seed(5))
    half = fresh_model(config, generator=torch.Generator().manual_seed(5), dtype=torch.bfloat16)
    for name, values in half.state_dict().items():
        assert torch.equal(values, full.state_dict()[name].bfloat16()), name


def test_drawing_a_model_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    fresh_model(small("t5_small"), generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)

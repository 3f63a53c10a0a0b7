"""Models of which a part is trained."""

import dataclasses

import numpy as np
import pytest
import torch

from t5kit.checkpoint.adapters import Adapter, LowRankMap, linear_map_shapes, merged_tensors
from t5kit.config import T5Config
from t5kit.errors import ConfigError
from t5kit.model.adaptation import (
    LoraLinear,
    adapt,
    frozen_checksum,
    lora_parts,
    num_encoder_ids,
    plain_state,
    soft_prompt,
    trained_state,
)
from t5kit.model.config import AdaptationConfig
from t5kit.model.loading import load_model
from t5kit.model.t5 import T5
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

FAMILIES = sorted(TINY_CONFIGS)
ENCODER_IDS, DECODER_IDS = torch.tensor([[5, 9, 7, 1], [8, 3, 1, 0]]), torch.tensor([[0, 4, 6], [0, 2, 1]])


def adapted(config: T5Config, adaptation: AdaptationConfig) -> T5:
    model = load_model(config, random_tensors(config))
    assert isinstance(model, T5)
    adapt(model, adaptation, seed=1)
    return model


def logits(model: T5, encoder_ids: torch.Tensor = ENCODER_IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(encoder_input_ids=encoder_ids, decoder_input_ids=DECODER_IDS)  # type: ignore[no-any-return]


def moved(model: T5) -> T5:
    """Give every trained parameter some other values, as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in trained_state(model).values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_begins_at_the_model_and_merged_equals_applied(family: str) -> None:
    config = TINY_CONFIGS[family]
    plain = load_model(config, random_tensors(config))
    assert isinstance(plain, T5)
    model = adapted(config, AdaptationConfig(method="lora", rank=3, alpha=6.0))
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=0)
    assert set(lora_parts(model)) == set(linear_map_shapes(config))
    moved(model)
    applied = logits(model)
    assert not torch.allclose(applied, logits(plain), atol=1e-3)
    plain.load_state_dict(dict(plain_state(model)))
    scale = float(applied.abs().max())
    torch.testing.assert_close(logits(plain), applied, rtol=0, atol=1e-5 * scale)
    maps = {name: LowRankMap(a, np.float32(2.0) * b) for name, (a, b) in lora_parts(model).items()}
    merged = load_model(config, merged_tensors(random_tensors(config), Adapter("here", maps)))
    assert isinstance(merged, T5)
    torch.testing.assert_close(logits(merged), applied, rtol=0, atol=1e-5 * scale)


def test_only_what_is_asked_for_is_trained() -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    names = set(trained_state(adapted(config, AdaptationConfig(method="lora", targets=("q", "wo")))))
    assert names and all(
        name.endswith((".q.lora_A.weight", ".q.lora_B.weight", ".wo.lora_A.weight", ".wo.lora_B.weight"))
        for name in names
    )
    assert set(trained_state(adapted(config, AdaptationConfig(method="prompt")))) == {"shared.prompt"}
    assert set(trained_state(adapted(config, AdaptationConfig(method="head")))) == {"lm_head.weight"}


def test_frozen_weights_have_a_checksum_of_their_own() -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    model = adapted(config, AdaptationConfig(method="lora"))
    before = frozen_checksum(model)
    assert before and frozen_checksum(moved(model)) == before
    with torch.no_grad():
        model.shared.weight[3, 3] += 1
    assert frozen_checksum(model) != before
    plain = load_model(config, random_tensors(config))
    assert frozen_checksum(plain) == 0 and trained_state(plain).keys() == plain.state_dict().keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_s_ids_stand_for_its_vectors_alone(family: str) -> None:
    config = TINY_CONFIGS[family]
    model = adapted(config, AdaptationConfig(method="prompt", num_prompt_tokens=4))
    plain = load_model(config, random_tensors(config))
    assert isinstance(plain, T5)
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=0)
    rows = soft_prompt(model)
    assert rows is not None and rows.shape == (4, config.d_model) and num_encoder_ids(model) == config.vocab_size + 4
    ids = torch.arange(config.vocab_size, config.vocab_size + 4).expand(2, 4)
    prompted = logits(model, torch.cat([ids, ENCODER_IDS], 1))
    assert not torch.allclose(prompted, logits(plain), atol=1e-3)
    # The same by an embedding that has the rows in it.
    wide = dataclasses.replace(config, vocab_size=config.vocab_size + 4, is_tied=False, scales_logits=False)
    tensors = {view.name: view.to_float32() for view in random_tensors(config)}
    head = tensors.get("lm_head.weight", tensors["shared.weight"])
    head = head * np.float32(config.d_model**-0.5 if config.scales_logits else 1)
    tensors["shared.weight"] = np.concatenate([tensors["shared.weight"], rows])
    tensors["lm_head.weight"] = np.concatenate([head, np.zeros_like(rows)])
    from t5kit.checkpoint.tensors import TensorView

    twin = load_model(wide, [TensorView.from_array(name, values) for name, values in tensors.items()])
    assert isinstance(twin, T5)
    expected = logits(twin, torch.cat([ids, ENCODER_IDS], 1))[..., : config.vocab_size]
    torch.testing.assert_close(prompted, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_what_cannot_be_adapted_is_said() -> None:
    with pytest.raises(ConfigError, match="this model has none of: wi_0"):
        adapted(TINY_CONFIGS["t5"], AdaptationConfig(method="lora", targets=("wi_0",)))
    with pytest.raises(ConfigError, match="needs a head of its own"):
        adapted(TINY_CONFIGS["t5"], AdaptationConfig(method="head"))
    with pytest.raises(
        ConfigError, match=r"adaptation.rank = 4 has no effect with adaptation.method = 'head'; only lora"
    ):
        AdaptationConfig(method="head", rank=4)
    with pytest.raises(ConfigError, match=r"adaptation.targets: \['Q'\]; expected some of: q, k"):
        AdaptationConfig(method="lora", targets=("Q",))


def test_dropout_of_lora_is_off_in_evaluation() -> None:
    model = adapted(TINY_CONFIGS["t5_v1_1"], AdaptationConfig(method="lora", dropout=0.5))
    moved(model)
    lora = next(module for module in model.modules() if isinstance(module, LoraLinear))
    x = torch.ones(3, lora.in_features)
    assert torch.equal(lora.eval()(x), lora(x)) and not torch.equal(lora.train()(x), lora(x))

"""Each optimizer by name: its rule, its groups, and a state that resumes to the bit."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from t5kit.errors import CheckpointError, ConfigError
from t5kit.model.loading import fresh_model
from t5kit.testing.tiny import TINY_CONFIGS
from t5kit.training.config import (
    OPTIMIZERS,
    AdafactorConfig,
    AdamConfig,
    AdamWRmsConfig,
    MuonConfig,
    MuonScale,
    OptimizerConfig,
    SgdConfig,
)
from t5kit.training.muon import Muon, orthogonal
from t5kit.training.optimizers import ModelOptimizer, has_weight_decay, is_muon_matrix

CONFIGS = {
    **{name: OptimizerConfig(name=name, weight_decay=0.1) for name in OPTIMIZERS},
    "adafactor_factored_momentum": OptimizerConfig(adafactor=AdafactorConfig(min_dim_size_to_factor=8, beta1=0.9)),
    "sgd_momentum": OptimizerConfig(name="sgd", sgd=SgdConfig(momentum=0.9, uses_nesterov=True)),
}


def tiny_model() -> nn.Module:
    return fresh_model(TINY_CONFIGS["t5_v1_1"], generator=torch.Generator().manual_seed(5))


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(model: nn.Module, optimizer: ModelOptimizer, steps: range) -> None:
    for step in steps:
        set_gradients(model, step)
        optimizer.step(lr=0.01 / (step + 1))
        optimizer.zero_grad()


def one_parameter(name: str, value: Tensor, config: OptimizerConfig) -> tuple[nn.Parameter, ModelOptimizer]:
    parameter = nn.Parameter(value)
    return parameter, ModelOptimizer([(name, parameter)], config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_saved_and_loaded_midway_equals_uninterrupted_to_the_bit(config: OptimizerConfig) -> None:
    whole = tiny_model()
    train(whole, ModelOptimizer(whole.named_parameters(), config), range(6))
    first = tiny_model()
    optimizer = ModelOptimizer(first.named_parameters(), config)
    train(first, optimizer, range(3))
    weights = {name: p.detach().clone() for name, p in first.named_parameters()}
    state = {key: values.clone() for key, values in optimizer.state_dict().items()}
    train(first, optimizer, range(3, 5))  # what was saved must not follow
    resumed = tiny_model()
    resumed.load_state_dict(weights)
    optimizer = ModelOptimizer(resumed.named_parameters(), config)
    optimizer.load_state_dict(state)
    train(resumed, optimizer, range(3, 6))
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_state_is_what_slot_shapes_says(config: OptimizerConfig) -> None:
    model = tiny_model()
    optimizer = ModelOptimizer(model.named_parameters(), config)
    assert optimizer.state_dict() == {}
    train(model, optimizer, range(1))
    assert {key: tuple(values.shape) for key, values in optimizer.state_dict().items()} == optimizer.slot_shapes()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_parameter_moves_and_the_loss_falls(config: OptimizerConfig) -> None:
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    target = {name: p + 0.02 * torch.sign(p) for name, p in before.items()}
    optimizer = ModelOptimizer(model.named_parameters(), dataclasses.replace(config, weight_decay=0.0))

    def distance() -> Tensor:
        return sum(((p - target[name]) ** 2).sum() for name, p in model.named_parameters())

    start = float(distance().detach())
    for _ in range(5):
        distance().backward()
        optimizer.step(lr=0.005)
        optimizer.zero_grad()
    assert float(distance().detach()) < start
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_weight_decay_spares_norms_and_position_tables() -> None:
    decayed = {name for name, p in tiny_model().named_parameters() if has_weight_decay(name, p)}
    spared = {name for name, _ in tiny_model().named_parameters()} - decayed
    assert {"shared.weight", "lm_head.weight", "encoder.block.0.layer.1.DenseReluDense.wo.weight"} <= decayed
    assert spared == {n for n, _ in tiny_model().named_parameters() if "layer_norm" in n or "relative" in n}


@pytest.mark.parametrize("name", ["adafactor", "adamw", "adamw_rms", "muon"])
def test_weight_decay_alone_shrinks_by_lr_times_its_share(name: str) -> None:
    model = tiny_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ModelOptimizer(model.named_parameters(), OptimizerConfig(name=name, weight_decay=0.5)).step(lr=0.1)
    for n, parameter in model.named_parameters():
        share = 0.95 if has_weight_decay(n, parameter) else 1.0
        torch.testing.assert_close(parameter.detach(), share * before[n], rtol=1e-6, atol=1e-9)


def test_adamw_equals_its_formulas() -> None:
    config = OptimizerConfig(name="adamw", weight_decay=0.1, adam=AdamConfig(beta1=0.8, beta2=0.95, epsilon=1e-6))
    draw = np.random.Generator(np.random.Philox(1))
    p, m, v = draw.standard_normal((4, 3)), 0.0, 0.0
    parameter, optimizer = one_parameter("w", torch.tensor(p), config)
    for t in range(1, 6):
        g = draw.standard_normal((4, 3))
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        p = p * (1 - 0.01 * 0.1) - 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        parameter.grad = torch.tensor(g)
        optimizer.step(lr=0.01)
        np.testing.assert_allclose(parameter.detach(), p, rtol=1e-10)


def test_adamw_rms_equals_the_formulas_of_nanot5() -> None:
    config = OptimizerConfig(name="adamw_rms", weight_decay=0.1, adamw_rms=AdamWRmsConfig(beta2=0.95))
    draw = np.random.Generator(np.random.Philox(2))
    p, m, v = 0.2 * draw.standard_normal((4, 3)), 0.0, 0.0
    parameter, optimizer = one_parameter("w", torch.tensor(p), config)
    for t in range(1, 6):
        g = draw.standard_normal((4, 3))
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        size = 0.02 * math.sqrt(1 - 0.95**t) / (1 - 0.9**t) * max(1e-3, math.sqrt(np.mean(p**2)))
        p = p - size * m / (np.sqrt(v) + 1e-6)
        p = p - 0.02 * 0.1 * p
        parameter.grad = torch.tensor(g)
        optimizer.step(lr=0.02)
        np.testing.assert_allclose(parameter.detach(), p, rtol=1e-10)


def test_adam_and_sgd_add_the_decay_to_the_gradient() -> None:
    parameter, optimizer = one_parameter("w", torch.full((2, 2), 2.0), OptimizerConfig(name="sgd", weight_decay=0.5))
    parameter.grad = torch.ones(2, 2)
    optimizer.step(lr=0.1)
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 2.0 - 0.1 * (1 + 0.5 * 2.0)))
    parameter, optimizer = one_parameter("w", torch.full((2, 2), 2.0), OptimizerConfig(name="adam", weight_decay=0.5))
    parameter.grad = torch.full((2, 2), -1.0)  # the decay cancels it
    optimizer.step(lr=0.1)
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 2.0))


def test_muon_turns_the_maps_inside_the_blocks_only() -> None:
    model = tiny_model()
    optimizer = ModelOptimizer(model.named_parameters(), OptimizerConfig(name="muon"))
    train(model, optimizer, range(1))
    with_muon = {key.rpartition("/")[0] for key in optimizer.state_dict() if key.endswith("momentum_buffer")}
    names = dict(model.named_parameters())
    assert with_muon == {name for name, p in names.items() if is_muon_matrix(name, p)}
    assert all(
        name.endswith((".q.weight", ".k.weight", ".v.weight", ".o.weight")) or ".w" in name for name in with_muon
    )
    assert {"shared.weight", "lm_head.weight"} & with_muon == set()


def test_muon_steps_have_orthogonal_directions_of_adamws_size() -> None:
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    parameter, optimizer = one_parameter(name, torch.zeros(64, 32), OptimizerConfig(name="muon"))
    parameter.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    optimizer.step(lr=1.0)
    singular = torch.linalg.svdvals(parameter.detach()) / (0.2 * math.sqrt(64))
    assert float(singular.min()) > 0.5 and float(singular.max()) < 1.5  # what five iterations promise


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has no Muon before 2.9")
@pytest.mark.parametrize("scale", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("is_nesterov", [True, False])
def test_muon_in_bfloat16_is_torchs_to_the_bit(scale: MuonScale, is_nesterov: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((24, 8), (8, 24), (16, 16))]
    ours, theirs = ([nn.Parameter(values.clone()) for values in start] for _ in range(2))
    config = MuonConfig(scale=scale, uses_nesterov=is_nesterov)
    optimizers = (
        Muon(ours, lr=0.02, weight_decay=0.1, config=config, precision="bfloat16"),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, nesterov=is_nesterov, adjust_lr_fn=scale),
    )
    for _ in range(4):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            other.grad = own.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (1, 5), (32, 32)])
def test_orthogonal_keeps_the_directions_of_a_matrix(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    kept = matrix.clone()
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = orthogonal(matrix, num_iterations=5, dtype=torch.float32)
    inside = left.T @ turned @ right.T
    assert torch.equal(matrix, kept)
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), rtol=0, atol=1e-4)
    assert float(inside.diagonal().min()) > 0.4 and float(inside.diagonal().max()) < 1.5
    assert not orthogonal(torch.zeros(shape), num_iterations=5, dtype=torch.float32).any()


def test_the_adamw_part_of_muon_gets_its_share_of_the_rate() -> None:
    steps = []
    for ratio in (1.0, 0.25):
        config = OptimizerConfig(name="muon", muon=MuonConfig(rest_lr_ratio=ratio))
        parameter, optimizer = one_parameter("shared.weight", torch.zeros(3, 2), config)
        parameter.grad = torch.ones(3, 2)
        optimizer.step(lr=0.1)
        steps.append(parameter.detach())
    torch.testing.assert_close(steps[1], 0.25 * steps[0])


def test_frozen_parameters_and_those_without_gradient_stay() -> None:
    model = tiny_model()
    model.shared.weight.requires_grad_(False)
    before = model.lm_head.weight.detach().clone()
    optimizer = ModelOptimizer(model.named_parameters(), OptimizerConfig())
    assert "shared.weight" not in optimizer.parameters
    set_gradients(model, 0)
    model.lm_head.weight.grad = None
    optimizer.step(lr=0.1)
    assert torch.equal(model.lm_head.weight, before)
    assert not any(key.startswith(("shared.weight/", "lm_head.weight/")) for key in optimizer.state_dict())


def test_masters_must_be_float32() -> None:
    with pytest.raises(ConfigError, match=r"bfloat16.*float32"):
        one_parameter("w", torch.zeros(2, dtype=torch.bfloat16), OptimizerConfig())


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="requires_grad"):
        ModelOptimizer(tiny_model().requires_grad_(False).named_parameters(), OptimizerConfig())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update({"head/v": torch.zeros(2)}), "head/v"),
        (lambda state: state.pop("lm_head.weight/v"), "lacks lm_head.weight/v"),
        (lambda state: state.update({"lm_head.weight/v": torch.zeros(2)}), r"expected torch.float32 \[96, 32\]"),
        (lambda state: state.update({"lm_head.weight/v": torch.zeros(96, 32).bfloat16()}), "bfloat16"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(change, message: str) -> None:
    model = tiny_model()
    optimizer = ModelOptimizer(model.named_parameters(), OptimizerConfig())
    train(model, optimizer, range(1))
    state = {key: values.clone() for key, values in optimizer.state_dict().items()}
    change(state)
    kept = {key: values.clone() for key, values in optimizer.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state_dict(state)
    assert all(torch.equal(values, kept[key]) for key, values in optimizer.state_dict().items())


def test_the_state_of_another_optimizer_is_refused() -> None:
    model = tiny_model()
    optimizer = ModelOptimizer(model.named_parameters(), OptimizerConfig(name="adamw"))
    train(model, optimizer, range(1))
    with pytest.raises(CheckpointError, match="exp_avg"):
        ModelOptimizer(model.named_parameters(), OptimizerConfig()).load_state_dict(optimizer.state_dict())


@pytest.fixture
def mesh_of_one() -> Iterator[DeviceMesh]:
    """A process group of this process alone: sharded parameters are a type of their own even then."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_sharded_parameters_go_on_from_a_state_of_whole_tensors(
    config: OptimizerConfig, mesh_of_one: DeviceMesh
) -> None:
    whole = tiny_model()
    optimizer = ModelOptimizer(whole.named_parameters(), config)
    train(whole, optimizer, range(2))
    sharded = tiny_model()
    sharded.load_state_dict(whole.state_dict())
    fully_shard(sharded, mesh=mesh_of_one)
    sharded_optimizer = ModelOptimizer(sharded.named_parameters(), config)
    sharded_optimizer.load_state_dict(optimizer.state_dict())
    for model, its_optimizer in ((whole, optimizer), (sharded, sharded_optimizer)):
        set_gradients(whole, 2)
        for parameter, like in zip(model.parameters(), whole.parameters(), strict=True):
            if isinstance(parameter, DTensor):
                parameter.grad = distribute_tensor(like.grad, mesh_of_one, parameter.placements)
        its_optimizer.step(lr=0.01)
    for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(other.full_tensor(), one, rtol=1e-6, atol=1e-7)

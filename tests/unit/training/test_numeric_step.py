"""The numeric parts together: one step as the loop makes it."""

import math

import pytest
import torch

from t5kit.model.loading import fresh_model
from t5kit.testing.tiny import TINY_CONFIGS
from t5kit.training.clipping import GradientReport, finish_gradients
from t5kit.training.config import LossConfig, OptimizerConfig, ScheduleConfig
from t5kit.training.loss import language_model_loss
from t5kit.training.optimizers import ModelOptimizer
from t5kit.training.schedules import make_schedule

IDS = torch.tensor([[5, 6, 7, 1], [8, 9, 10, 1]])
LABELS = torch.tensor([[20, 21, 1], [30, 31, 1]])


class Trainee:
    """A tiny model, its optimizer, and one step over one batch."""

    def __init__(self, config: OptimizerConfig) -> None:
        self.model = fresh_model(TINY_CONFIGS["t5_v1_1"], generator=torch.Generator().manual_seed(0))
        self.optimizer = ModelOptimizer(self.model.named_parameters(), config)
        self.max_norm = config.max_gradient_norm

    def step(self, lr: float, *, loss_scale: float = 1.0) -> tuple[float, GradientReport]:
        hidden = self.model.decode(torch.tensor([[0, 20, 21], [0, 30, 31]]), self.model.encode(IDS))
        sums = language_model_loss(self.model, hidden, LABELS, torch.ones(2, 3), config=LossConfig())
        (sums.sum * loss_scale).backward()
        report = finish_gradients(self.model.parameters(), count=float(sums.count), max_norm=self.max_norm)
        if report.is_finite:
            self.optimizer.step(lr=lr)
        self.optimizer.zero_grad()
        return float(sums.detached().mean()), report


@pytest.mark.parametrize(
    ("name", "lr"),
    [("adafactor", 0.03), ("adamw", 3e-3), ("adamw_rms", 0.02), ("adam", 3e-3), ("sgd", 0.1), ("muon", 3e-3)],
)
def test_each_optimizer_learns_a_batch_by_heart(name: str, lr: float) -> None:
    trainee = Trainee(OptimizerConfig(name=name, max_gradient_norm=1.0))
    schedule = make_schedule(ScheduleConfig(name="linear", peak_lr=lr, warmup_steps=2), total_steps=40)
    losses = [trainee.step(schedule(step))[0] for step in range(40)]
    # a fresh model is near ln(96) = 4.6
    assert abs(losses[0] - math.log(96)) < 1 and losses[-1] < losses[0] / 3, losses


def test_a_non_finite_step_changes_nothing_but_its_report() -> None:
    trainee = Trainee(OptimizerConfig())
    trainee.step(0.01)
    weights = {name: p.detach().clone() for name, p in trainee.model.named_parameters()}
    state = {key: values.clone() for key, values in trainee.optimizer.state_dict().items()}
    _, report = trainee.step(0.01, loss_scale=math.inf)
    assert not report.is_finite
    assert all(torch.equal(p, weights[name]) for name, p in trainee.model.named_parameters())
    assert all(torch.equal(values, state[key]) for key, values in trainee.optimizer.state_dict().items())

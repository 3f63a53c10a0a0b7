"""The training configs are torch-free and refuse what is out of range or without effect."""

import subprocess
import sys

import pytest

from t5kit.errors import ConfigError
from t5kit.training.config import (
    AdafactorConfig,
    AdamConfig,
    AdamWRmsConfig,
    LossConfig,
    MuonConfig,
    OptimizerConfig,
    ScheduleConfig,
    SgdConfig,
)


@pytest.mark.parametrize("module", ["config", "schedules"])
def test_module_imports_without_torch(module: str) -> None:
    code = f"import sys, t5kit.training.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: LossConfig(z_loss=-1e-4), "loss.z_loss"),
        (lambda: LossConfig(z_loss=float("nan")), "loss.z_loss"),
        (lambda: LossConfig(label_smoothing=1.0), "loss.label_smoothing"),
        (lambda: LossConfig(smoothing_convention="hf"), "loss.smoothing_convention"),
        (lambda: LossConfig(chunk_targets=0), "loss.chunk_targets"),
        (lambda: AdafactorConfig(epsilon1=0.0), "optimizer.adafactor.epsilon1"),
        (lambda: AdafactorConfig(step_offset=1.5), "optimizer.adafactor.step_offset"),
        (lambda: AdafactorConfig(beta1=1.0), "optimizer.adafactor.beta1"),
        (lambda: AdamConfig(beta2="0.9"), "optimizer.adam.beta2"),
        (lambda: AdamWRmsConfig(epsilon=0.0), "optimizer.adamw_rms.epsilon"),
        (lambda: SgdConfig(uses_nesterov=True), "optimizer.sgd.momentum"),
        (lambda: MuonConfig(num_iterations=100), "optimizer.muon.num_iterations"),
        (lambda: OptimizerConfig(name="adamx"), "optimizer.name"),
        (lambda: OptimizerConfig(weight_decay=-0.1), "optimizer.weight_decay"),
        (lambda: OptimizerConfig(max_gradient_norm=float("inf")), "optimizer.max_gradient_norm"),
        (lambda: OptimizerConfig(name="sgd", adam=AdamConfig(beta2=0.99)), "optimizer.adam"),
        (lambda: ScheduleConfig(peak_lr=0), "schedule.peak_lr"),
        (lambda: ScheduleConfig(name="linear", final_lr=1.0), "schedule.final_lr"),
        (lambda: ScheduleConfig(warmup_steps=True), "schedule.warmup_steps"),
        (lambda: ScheduleConfig(name="constant", final_lr=1e-5), "schedule.final_lr"),
        (lambda: ScheduleConfig(warmup_start=0.5), "schedule.warmup_start"),
        (lambda: ScheduleConfig(name="cosine", plateau_steps=10), "schedule.plateau_steps"),
    ],
)
def test_wrong_values_are_refused_by_their_full_path(make, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        make()


def test_the_settings_an_optimizer_reads_may_be_changed() -> None:
    assert OptimizerConfig(name="muon", adam=AdamConfig(beta2=0.99), muon=MuonConfig(momentum=0.9)).muon.momentum == 0.9
    assert OptimizerConfig(name="adamw", adam=AdamConfig(beta1=0.0)).adam.beta1 == 0

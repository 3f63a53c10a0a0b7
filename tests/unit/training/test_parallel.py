"""Two processes that share a model out learn what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5kit.errors import ConfigError

torch = pytest.importorskip("torch")

from t5kit.training.parallel import Parallel  # noqa: E402

PROGRAM = """
import sys

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from t5kit.data import Batch
from t5kit.model.loading import fresh_model
from t5kit.tasks.example import Example
from t5kit.testing.tiny import TINY_CONFIGS
from t5kit.training.config import ComputeConfig, LossConfig, OptimizerConfig
from t5kit.training.optimizers import ModelOptimizer
from t5kit.training.parallel import Parallel
from t5kit.training.step import TrainingStep

precision, recomputes, tolerance = sys.argv[1], sys.argv[2] == "recomputes", float(sys.argv[3])
torch.set_num_threads(1)
parallel = Parallel.from_environment()
assert parallel.world_size == 2
draw = np.random.default_rng(0)


def rows():
    lengths = draw.integers(1, 12, (4, 2, 2))
    return [
        [Example.with_full_loss(draw.integers(3, 96, s), draw.integers(3, 96, t)) for s, t in row] for row in lengths
    ]


batches = [Batch.of_rows(rows(), encoder_length=24, target_length=24) for _ in range(4)]
reports, weights = [], []
for alone in (Parallel(), parallel):
    compute = ComputeConfig(precision=precision, microbatch_rows=1, recomputes_layers=recomputes)
    model = fresh_model(TINY_CONFIGS["t5_v1_1"], generator=torch.Generator().manual_seed(1))
    alone.shard(model, compute=compute)
    optimizer = ModelOptimizer(model.named_parameters(), OptimizerConfig(name="adamw"))
    step = TrainingStep(
        model, optimizer, loss=LossConfig(), compute=compute, max_gradient_norm=1.0, seed=0, parallel=alone
    )
    made = []
    for number, batch in enumerate(batches):
        report = step(batch, step=number, lr=1e-3)
        sums = step.evaluate(batch)
        made.append([report.loss, report.global_norm, report.accuracy, float(sums.mean())])
        assert report.num_targets == batch.num_target_tokens()
    reports.append(made)
    weights.append([p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()])
    assert any(isinstance(p, DTensor) for p in model.parameters()) == (alone.world_size > 1)
np.testing.assert_allclose(*reports, rtol=0, atol=tolerance)
if precision == "float32":
    for one, two in zip(*weights, strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=2e-5)  # Adam divides by roots of small numbers
parallel.close()
"""


def run_two(tmp_path: Path, *arguments: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    # Port 0 would be drawn by each process for itself; torchrun draws one for both.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    ran = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=180, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr[-4000:]


def test_two_processes_learn_as_one_to_float32_rounding(tmp_path: Path) -> None:
    run_two(tmp_path, "float32", "keeps", "2e-5")


@pytest.mark.slow
def test_two_processes_in_bfloat16_with_recomputed_layers_learn_nearly_as_one(tmp_path: Path) -> None:
    run_two(tmp_path, "bfloat16", "recomputes", "0.05")


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    parallel = Parallel.from_environment()
    assert parallel == Parallel(rank=0, world_size=1)
    assert parallel.is_first


def test_half_of_torchruns_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="RANK, MASTER_ADDR, MASTER_PORT"):
        Parallel.from_environment()

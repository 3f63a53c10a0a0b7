"""Two processes that share the parameters step as one does, also after loading a saved state."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from t5kit.model.loading import fresh_model
from t5kit.testing.tiny import TINY_CONFIGS
from t5kit.training.clipping import finish_gradients
from t5kit.training.config import AdafactorConfig, OptimizerConfig
from t5kit.training.optimizers import ModelOptimizer

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
config = OptimizerConfig(
    name=sys.argv[3], max_gradient_norm=1.0,
    **({"adafactor": AdafactorConfig(min_dim_size_to_factor=8, beta1=0.9)} if sys.argv[3] == "adafactor" else {}),
)
alone, shared = (fresh_model(TINY_CONFIGS["t5"], generator=torch.Generator().manual_seed(1)) for _ in range(2))
mesh = init_device_mesh("cpu", (2,))
for block in (*shared.encoder.block, *shared.decoder.block):
    fully_shard(block, mesh=mesh)
fully_shard(shared, mesh=mesh)
optimizers = {model: ModelOptimizer(model.named_parameters(), config) for model in (alone, shared)}
for step in range(4):
    draw = torch.Generator().manual_seed(step)
    for whole, shard in zip(alone.parameters(), shared.parameters(), strict=True):
        whole.grad = torch.randn(whole.shape, generator=draw)
        shard.grad = distribute_tensor(whole.grad, mesh, shard.placements)
    if step == 2:
        state = {
            key: (values.full_tensor() if isinstance(values, DTensor) else values).clone()
            for key, values in optimizers[shared].state_dict().items()
        }
        optimizers[shared] = ModelOptimizer(shared.named_parameters(), config)
        optimizers[shared].load_state_dict(state)
    norms = [finish_gradients(m.parameters(), count=3, max_norm=1.0).global_norm for m in (alone, shared)]
    assert abs(norms[0] - norms[1]) < 1e-4, norms
    for optimizer in optimizers.values():
        optimizer.step(lr=0.01)
for whole, shard in zip(alone.parameters(), shared.parameters(), strict=True):
    torch.testing.assert_close(shard.full_tensor(), whole, rtol=0, atol=2e-6)  # float32 sums in another order
dist.destroy_process_group()
"""


@pytest.mark.parametrize("name", ["adafactor", "adamw_rms", "muon"])
def test_two_processes_step_and_resume_as_one(tmp_path: Path, name: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    running = [
        # Unequal hash seeds: what both do together must not hang on the order of a set.
        subprocess.Popen(
            [sys.executable, str(program), str(tmp_path / "store"), str(rank), name],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()

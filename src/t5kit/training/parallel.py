"""Several processes that train one model: each computes its rows of a batch, gradients and loss are summed.

    torchrun --nproc-per-node 2 …   ->   Parallel.from_environment() -> shard(model) -> TrainingStep(…, parallel=…)

Parameters, gradients and the optimizer's memory are shared out with FSDP2: a process holds its part of each and
gathers a block's weights for as long as it computes with them.
"""

import dataclasses
import os
from typing import Self

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from t5kit.data import Batch
from t5kit.errors import ConfigError
from t5kit.model.t5 import T5
from t5kit.training.config import ComputeConfig
from t5kit.training.environment import precision_of
from t5kit.training.loss import LossSums


@dataclasses.dataclass(frozen=True, slots=True)
class Parallel:
    """This process among those that train together; the default is one process alone."""

    rank: int = 0
    """Number of this process, from 0."""
    world_size: int = 1
    """Number of processes."""

    @classmethod
    def from_environment(cls) -> Self:
        """Join the processes that `torchrun` started, or be alone where it did not.

        Gradients go by NCCL between GPUs and by gloo otherwise. Call `close` at the end.
        Raises: ConfigError if only a part of torchrun's variables is set.
        """
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if name not in os.environ]
        if "WORLD_SIZE" not in os.environ and "RANK" not in os.environ:
            return cls()
        if missing:
            raise ConfigError(
                f"the environment sets a part of torchrun's variables, but not {', '.join(missing)}. "
                "Start with torchrun, or unset RANK and WORLD_SIZE."
            )
        if not dist.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(rank=dist.get_rank(), world_size=dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """True for the one process that writes files and talks."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the other processes."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()

    def shard(self, model: T5, *, compute: ComputeConfig) -> None:
        """Share out the parameters, in place, before the optimizer is made; alone, do nothing.

        A block at a time is gathered, in the dtype of compute.precision; gradients are summed, not averaged, in
        float32. The parameters become DTensors of their own names.
        """
        if self.world_size == 1:
            return
        device_type = next(model.parameters()).device.type
        mesh = init_device_mesh(device_type, (self.world_size,))
        reduced = torch.bfloat16 if precision_of(compute) == "bfloat16" else None
        policy = MixedPrecisionPolicy(param_dtype=reduced, reduce_dtype=torch.float32)
        for block in (*model.encoder.block, *model.decoder.block):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)  # gloo has no sum times a factor
        register_fsdp_forward_method(model, "hidden")

    def rows_of(self, batch: Batch) -> Batch:
        """Return this process's rows of the whole batch, as many as every other's.

        Raises: ConfigError if the rows cannot be dealt out evenly.
        """
        num_rows = len(batch.labels)
        if num_rows % self.world_size:
            raise ConfigError(
                f"data.batch_rows = {num_rows} cannot be dealt out evenly to {self.world_size} processes. "
                "Use a multiple of their number."
            )
        share = num_rows // self.world_size
        return batch.rows(self.rank * share, (self.rank + 1) * share)

    def all_reduce(self, sums: LossSums) -> LossSums:
        """Return the sums over all processes, the same on each; float64 on the way."""
        if self.world_size == 1:
            return sums
        fields = [field.name for field in dataclasses.fields(sums)]
        stacked = torch.stack([getattr(sums, name).detach().double() for name in fields])
        dist.all_reduce(stacked)
        return LossSums(*stacked.to(sums.sum.dtype).unbind())


def is_sharded(model: nn.Module) -> bool:
    """Say whether `Parallel.shard` has shared this model out."""
    return isinstance(model, FSDPModule)

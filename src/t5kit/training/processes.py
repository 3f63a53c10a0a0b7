"""One run in several processes: who writes, and how all come to the same decision."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

Decided = TypeVar("Decided")


def is_several() -> bool:
    """Say whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def num_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if is_several() else 1


def is_first() -> bool:
    """Say whether this process is the one that writes and speaks."""
    return not is_several() or dist.get_rank() == 0


def decided_by_first(value: Decided) -> Decided:
    """Return the first process's value on every process: small plain data. A collective call."""
    if not is_several():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def is_true_for_any(value: bool, device: torch.device) -> bool:
    """Return whether the value is true on any process. A collective call."""
    if not is_several():
        return value
    votes = torch.tensor(int(value), device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes)


def gathered(tensor: Tensor) -> Tensor:
    """Return a whole tensor on the CPU, detached: the same memory where it lies there whole. A collective call."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def copy_whole(target: Tensor, values: Tensor) -> None:
    """Copy whole values, the same on every process, into a tensor that may be sharded. A collective call."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            values = distribute_tensor(values.to(target.device), target.device_mesh, target.placements)
        target.copy_(values)

"""From summed gradients to those of the mean, clipped by their global norm, with a verdict on whether to use them."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from t5kit.errors import DataError


@dataclasses.dataclass(frozen=True, slots=True)
class GradientReport:
    """What one step's gradients were like."""

    global_norm: float
    """Root of the sum of the squares of all gradients, a target token and before clipping."""
    clip_factor: float
    """What clipping multiplied them by, in (0, 1]; 1 where nothing was clipped or the norm is not finite."""
    is_finite: bool
    """False: a gradient is infinite or not a number. The step must be skipped, and counted."""


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the root of the sum of all squares, a scalar: float32 sums for float32, bfloat16 and float16 gradients.

    A norm above 1.8e19 overflows these sums and counts as infinite.
    """
    norms = [
        torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
        for gradient in gradients
    ]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


@torch.no_grad()
def finish_gradients(parameters: Iterable[Tensor], *, count: float, max_norm: float = 0.0) -> GradientReport:
    """Divide summed gradients by `count`, scale them to a global norm of at most max_norm, and report, in place.

    count is LossSums.count of the whole batch over all microbatches and processes; max_norm 0 clips nothing. Where the
    norm is not finite the gradients stay as they are: skip the step, and only the report remembers it.
    Example: gradients [6, 8] of 2 tokens have the norm 5; with max_norm 1 they become [0.6, 0.8].
    Source: Pascanu et al. 2013; t5x adafactor.py `global_norm_clip_threshold` (no epsilon beside the norm).
    Raises: DataError if there is no target to divide by.
    """
    if not count > 0:
        raise DataError(f"the batch has {count:g} targets to divide its gradients by. Leave such batches out.")
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(global_norm(gradients)) / count
    if not norm < float("inf"):  # also not a number
        return GradientReport(global_norm=norm, clip_factor=1.0, is_finite=False)
    clip_factor = max_norm / norm if max_norm and norm > max_norm else 1.0
    for gradient in gradients:
        gradient.mul_(clip_factor / count)
    return GradientReport(global_norm=norm, clip_factor=clip_factor, is_finite=True)

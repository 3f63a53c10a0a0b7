"""Compute copies: a model in bfloat16 beside its float32 masters.

    masters float32 -> refresh, once a step -> copies bfloat16 -> forward, backward -> gradients, added to the masters'

Only products and activations lose bits: sums of gradients, the optimizer's memory and the weights stay float32.
"""

import copy

import torch
from torch import Tensor

from t5kit.model.t5 import T5


class ComputeCopies:
    """A second model with the parameters of the first in another dtype; its gradients land on the first.

    Every microbatch's gradients are added to the masters' `grad` in the masters' dtype, so that many small ones are
    not lost beside a large one, and none stay on the copies.
    """

    def __init__(self, masters: T5, dtype: torch.dtype) -> None:
        copies = {
            id(master): torch.nn.Parameter(master.detach().to(dtype), requires_grad=master.requires_grad)
            for master in masters.parameters()
        }
        self.model: T5 = copy.deepcopy(masters, dict(copies))
        # Frozen masters are what they were when they were copied.
        self._pairs = [(master, copies[id(master)]) for master in masters.parameters() if master.requires_grad]
        for master, copied in self._pairs:
            copied.register_post_accumulate_grad_hook(_HandOver(master))

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the masters into the copies again."""
        masters, copies = zip(*self._pairs, strict=True)
        torch._foreach_copy_(copies, masters)


class _HandOver:
    """Moves a copy's gradient to its master."""

    def __init__(self, master: Tensor) -> None:
        self.master = master

    def __call__(self, copied: Tensor) -> None:
        assert copied.grad is not None
        if self.master.grad is None:
            self.master.grad = copied.grad.to(self.master.dtype)
        else:
            self.master.grad.add_(copied.grad)
        copied.grad = None

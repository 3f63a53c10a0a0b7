"""What a step of a run costs here, measured on a part of a real batch before the run is begun."""

import dataclasses
import time

import torch
from torch import Tensor

from t5kit.config import T5Config
from t5kit.data import Batch
from t5kit.model.adaptation import adapt
from t5kit.model.config import AdaptationConfig
from t5kit.model.t5 import T5
from t5kit.training.building import make_model, own_threads, prepare_device
from t5kit.training.config import ComputeConfig, LossConfig, OptimizerConfig
from t5kit.training.environment import precision_of
from t5kit.training.memory import memory_told
from t5kit.training.optimizers import ModelOptimizer
from t5kit.training.step import TrainingStep
from t5kit.training.throughput import training_flops

TRIED_FLOPS = 1e11
"""About what one measured step may cost: seconds on a slow processor."""
BYTES_FLOAT32 = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Time and memory of one step."""

    num_rows: int
    """Rows that were measured; the whole batch's figures follow by proportion where these are fewer."""
    seconds: float
    """A step of the whole batch."""
    flops: float
    """Operations of the whole batch's real tokens, in products with weights (throughput.py)."""
    weights_bytes: int
    """Masters, the gradients of those that are trained, and the copies of bfloat16 training."""
    optimizer_bytes: int
    """What the optimizer remembers."""
    activations_bytes: int
    """What the forward pass of one microbatch keeps for the backward pass."""

    @property
    def memory_bytes(self) -> int:
        """All of it; what operations need for a moment, and the program itself, come on top."""
        return self.weights_bytes + self.optimizer_bytes + self.activations_bytes


@memory_told()
@own_threads()
def measure_step(
    architecture: T5Config,
    batch: Batch,
    *,
    loss: LossConfig,
    compute: ComputeConfig,
    optimizer: OptimizerConfig,
    adaptation: AdaptationConfig | None = None,
) -> StepCost:
    """Return what a step by this batch costs, with fresh weights that are thrown away.

    So many of the batch's rows are tried as cost TRIED_FLOPS; time is taken to grow in a line with the rows.
    """
    device = prepare_device(compute)
    model = make_model(architecture, None, compute=compute, seed=0, device=device)
    if adaptation is not None:
        adapt(model, adaptation, seed=0)
    updates = ModelOptimizer(model.named_parameters(), optimizer, precision=precision_of(compute))
    step = TrainingStep(
        model, updates, loss=loss, compute=compute, max_gradient_norm=optimizer.max_gradient_norm, seed=0
    )
    flops = training_flops(
        architecture, encoder_tokens=batch.num_encoder_tokens(), target_tokens=batch.num_target_tokens()
    )
    all_rows = len(batch.labels)
    most = max(1, min(all_rows, round(all_rows * TRIED_FLOPS / max(flops, 1.0))))
    tried = batch.rows(0, most)
    kept_bytes = _kept_bytes(model, step, tried)
    seconds = _seconds(step, tried, device)
    if most < all_rows:
        half = max(1, most // 2)
        a_row = (seconds - _seconds(step, batch.rows(0, half), device)) / (most - half) if half < most else seconds
        seconds += max(a_row, 0.0) * (all_rows - most)
    at_once = min(compute.microbatch_rows or all_rows, all_rows)
    num_values = sum(parameter.numel() for parameter in model.parameters())
    num_trained = sum(parameter.numel() for parameter in updates.parameters.values())
    copies = 2 if precision_of(compute) == "bfloat16" else 0
    return StepCost(
        num_rows=most,
        seconds=seconds,
        flops=flops,
        weights_bytes=num_values * (BYTES_FLOAT32 + copies) + num_trained * BYTES_FLOAT32,
        optimizer_bytes=sum(BYTES_FLOAT32 * torch.Size(shape).numel() for shape in updates.slot_shapes().values()),
        activations_bytes=kept_bytes * at_once // min(most, at_once),
    )


def _seconds(step: TrainingStep, batch: Batch, device: torch.device) -> float:
    """Return the shorter of two steps, which follow one that warms up."""
    best = float("inf")
    for number in range(3):
        start = time.perf_counter()
        step(batch, step=number, lr=0.0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            best = min(best, time.perf_counter() - start)
    return best


def _kept_bytes(model: T5, step: TrainingStep, batch: Batch) -> int:
    """Return the bytes that one step's forward passes keep for their backward passes, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        step(batch, step=0, lr=0.0)
    return sum(sizes.values())

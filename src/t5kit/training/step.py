"""One update of a model by one batch: the only place where gradients are made.

batch -> this process's rows -> microbatches -> loss sums and summed gradients -> divided once -> optimizer
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from t5kit.data import Batch
from t5kit.errors import DataError
from t5kit.model.adaptation import draws_freely, num_encoder_ids
from t5kit.model.dropout import Dropout
from t5kit.model.passes import PLAIN, compiled_passes
from t5kit.model.ragged import NO_DROPOUT, TextDropout, ragged_hidden
from t5kit.model.ragged_layout import RaggedBatch
from t5kit.model.t5 import T5
from t5kit.training.clipping import finish_gradients
from t5kit.training.config import ComputeConfig, LossConfig
from t5kit.training.environment import precision_of
from t5kit.training.loss import LossSums, language_model_loss
from t5kit.training.optimizers import ModelOptimizer
from t5kit.training.parallel import Parallel
from t5kit.training.precision import ComputeCopies


@dataclasses.dataclass(frozen=True, slots=True)
class StepReport:
    """What one step saw and did, over all processes; means are per target token."""

    loss: float
    """What is minimised: cross-entropy with its smoothing, plus z-loss."""
    z_loss: float
    """The z-loss within `loss`."""
    negative_log_likelihood: float
    """-log p of the targets in nats, without smoothing and z-loss."""
    accuracy: float
    """Share of the targets that no other token's logit exceeds, in [0, 1]."""
    num_targets: float
    """Sum of the loss weights."""
    num_encoder_tokens: int
    """Encoder positions of the batch that are not padding."""
    num_target_tokens: int
    """Target positions of the batch that are not padding."""
    global_norm: float
    """Norm of all gradients, per target token and before clipping."""
    clip_factor: float
    """What clipping multiplied the gradients by, in (0, 1]."""
    is_skipped: bool
    """True: a gradient was not finite, and nothing was changed."""


class TrainingStep:
    """Computes a batch's gradients and updates the model by them, or skips the update where they are not finite.

    model: float32 masters, already shared out by `parallel.shard` where there are several processes; the optimizer is
    made of its parameters after that. With compute.precision "bfloat16", products run on bfloat16 copies made once a
    step; with "float32" the model itself computes, and its modules' dropout convention and mode are set. Dropout is a
    function of (seed, step, microbatch, process) alone, so there is no generator to save.
    Raises: DependencyError if compute.is_compiled asks for a C++ compiler that is not there.
    """

    def __init__(
        self,
        model: T5,
        optimizer: ModelOptimizer,
        *,
        loss: LossConfig,
        compute: ComputeConfig,
        max_gradient_norm: float,
        seed: int,
        parallel: Parallel | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._loss = loss
        self._microbatch_rows = compute.microbatch_rows
        self._max_gradient_norm = max_gradient_norm
        self._seed = seed
        self._parallel = parallel or Parallel()
        self.precision = precision_of(compute)
        """What products run in."""
        # FSDP2 makes reduced copies of its own, block by block.
        wants_copies = self.precision == "bfloat16" and not isinstance(model, FSDPModule)
        self._copies = ComputeCopies(model, torch.bfloat16) if wants_copies else None
        self._model: T5 = self._copies.model if self._copies else model
        for module in self._model.modules():
            if isinstance(module, Dropout):
                module.broadcast = compute.dropout_broadcast
        self._recomputes_layers = compute.recomputes_layers
        self._model.encoder.recomputes_layers = compute.recomputes_layers
        self._model.decoder.recomputes_layers = compute.recomputes_layers
        # A processor gains from leaving padding out; a GPU wants few large kernels, FSDP2 its modules called whole.
        on_processor = model.shared.weight.device.type == "cpu"
        draws_by_text = compute.dropout_broadcast == "length"
        self._is_ragged = on_processor and draws_by_text and not isinstance(model, FSDPModule)
        self._draws_freely = draws_freely(model)
        self._passes = compiled_passes() if compute.is_compiled and self._is_ragged else PLAIN
        if compute.is_compiled and not self._is_ragged:
            for block in (*self._model.encoder.block, *self._model.decoder.block):
                block.compile()

    def __call__(self, batch: Batch, *, step: int, lr: float) -> StepReport:
        """Update the model by one batch, which is the whole one on every process; step counts updates from 0.

        Raises: DataError if no target of the batch has a loss weight or an id is outside the vocabulary; ConfigError if
        its rows cannot be dealt out evenly.
        """
        self._model.train()
        self._refresh()
        self._optimizer.zero_grad()  # what a step that was broken off may have left
        total: LossSums | None = None
        for number, rows in enumerate(self._microbatches(batch)):
            sums = self._sums(rows, (self._seed, step, number, self._parallel.rank))
            sums.sum.backward()
            total = sums.detached() if total is None else total + sums.detached()
        assert total is not None, "a batch has rows"
        total = self._parallel.all_reduce(total)
        count = float(total.count)
        finished = finish_gradients(self._optimizer.parameters.values(), count=count, max_norm=self._max_gradient_norm)
        if finished.is_finite:
            self._optimizer.step(lr=lr)
        self._optimizer.zero_grad()
        return StepReport(
            loss=float(total.sum) / count,
            z_loss=float(total.z_loss_sum) / count,
            negative_log_likelihood=float(total.negative_log_likelihood_sum) / count,
            accuracy=float(total.correct_sum) / count,
            num_targets=count,
            num_encoder_tokens=batch.num_encoder_tokens(),
            num_target_tokens=batch.num_target_tokens(),
            global_norm=finished.global_norm,
            clip_factor=finished.clip_factor,
            is_skipped=not finished.is_finite,
        )

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> LossSums:
        """Return the loss sums of a batch over all processes, in the precision of training and without dropout."""
        self._model.eval()
        self._refresh()
        total: LossSums | None = None
        for rows in self._microbatches(batch):
            sums = self._sums(rows, None)
            total = sums if total is None else total + sums
        assert total is not None, "a batch has rows"
        if isinstance(self._model, FSDPModule):
            self._model.reshard()
        return self._parallel.all_reduce(total)

    def _refresh(self) -> None:
        if self._copies:
            self._copies.refresh()

    def _microbatches(self, batch: Batch) -> Iterator[Batch]:
        """Yield this process's rows, so many at a time as are computed together."""
        if not len(batch.labels):
            raise DataError("the batch has no rows. Leave such batches out.")
        for name, vocab_size in (
            ("encoder_input_ids", num_encoder_ids(self._model)),
            ("decoder_input_ids", self._model.config.vocab_size),
        ):
            ids = getattr(batch, name)
            low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
            if low < 0 or high >= vocab_size:
                raise DataError(
                    f"{name} reach from {low} to {high}; the model's vocabulary has the ids 0 to {vocab_size - 1}. "
                    "Is the tokenizer that of the model?"
                )
        mine = self._parallel.rows_of(batch)
        num_rows = len(mine.labels)
        at_once = self._microbatch_rows or num_rows
        for first in range(0, num_rows, at_once):
            yield mine.rows(first, min(first + at_once, num_rows))

    def _sums(self, rows: Batch, seeds: tuple[int, ...] | None) -> LossSums:
        """Return the loss sums of some rows; seeds are those of dropout, None for none."""
        model, device = self._model, self._model.shared.weight.device
        if self._is_ragged:
            ragged = RaggedBatch.of(rows, num_heads=model.config.num_heads, device=device)
            dropout = NO_DROPOUT if seeds is None else TextDropout(model.config.dropout_rate, seeds)
            with _seeded(seeds if self._draws_freely else None, device):
                hidden_ND = ragged_hidden(
                    model, ragged, dropout=dropout, recomputes_layers=self._recomputes_layers, passes=self._passes
                )
            return language_model_loss(model, hidden_ND, ragged.labels, ragged.loss_weights, config=self._loss)
        with _seeded(seeds, device):
            hidden_BTD = model.hidden(
                encoder_input_ids=_tensor(rows.encoder_input_ids, device),
                decoder_input_ids=_tensor(rows.decoder_input_ids, device),
                encoder_segment_ids=_tensor(rows.encoder_segment_ids, device),
                decoder_segment_ids=_tensor(rows.decoder_segment_ids, device),
            )
        labels, weights = _tensor(rows.labels, device), _tensor(rows.loss_weights, device)
        return language_model_loss(model, hidden_BTD, labels, weights, config=self._loss)


@contextlib.contextmanager
def _seeded(seeds: tuple[int, ...] | None, device: torch.device) -> Iterator[None]:
    """Let modules draw dropout from these seeds, and leave PyTorch's generators as they were."""
    if seeds is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]))
        yield


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)

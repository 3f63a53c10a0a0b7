"""Cross-entropy with z-loss and label smoothing, as sums that are divided once, without ever holding all logits.

    decoder hidden [B, T, D] -> real targets [N, D] -> chunks of [C, V] logits -> LossSums

Sums, not means, leave this module: added over microbatches and processes and divided by one count, they give the same
gradients however a batch was cut.
"""

import dataclasses
import math
from typing import Any, Self, cast

import torch
from torch import Tensor

from t5kit.errors import DataError, RequestError
from t5kit.model.t5 import T5
from t5kit.training.config import LossConfig


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LossSums:
    """Sums over target tokens, each token times its loss weight: scalars, float32 (float64 for float64 inputs).

    sum is what is minimised and carries the gradient; the others are detached. Divide by count once, after every
    microbatch and process has been added.
    """

    sum: Tensor
    """Cross-entropy with its smoothing, plus z-loss."""
    count: Tensor
    """Sum of the loss weights: the number of target tokens where these are 0 and 1."""
    z_loss_sum: Tensor
    """The z-loss within `sum`."""
    negative_log_likelihood_sum: Tensor
    """-log p of the targets, in nats, without smoothing and z-loss: the perplexity's sum."""
    correct_sum: Tensor
    """Weight of the targets that are the likeliest token, on a processor of equal ones the one with the lowest id."""

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)))

    def detached(self) -> Self:
        """Return the same sums without the graph that made them, to be kept until the batch is whole."""
        return dataclasses.replace(self, sum=self.sum.detach())

    def mean(self) -> Tensor:
        """Return the loss a target token, sum / count.

        Raises: DataError if there is no target.
        """
        if not self.count:
            raise DataError("the loss has no target: every loss weight of the batch is 0. Leave such batches out.")
        return self.sum / self.count


def language_model_loss(
    model: T5, decoder_hidden: Tensor, labels: Tensor, loss_weights: Tensor, *, config: LossConfig
) -> LossSums:
    """Return the loss sums of a batch from what `model.decode` gives.

    Shapes: decoder_hidden [B, T, D]; labels [B, T] integers; loss_weights [B, T], 0 where there is nothing to learn.
    Positions of weight 0 cost nothing: they leave before the head, which is where most of a small model's time goes.
    Raises: RequestError for other shapes; DataError for a label outside the vocabulary (checked on the CPU).
    """
    if labels.shape != decoder_hidden.shape[:-1] or loss_weights.shape != labels.shape:
        raise RequestError(
            f"labels {list(labels.shape)} and loss_weights {list(loss_weights.shape)} must both have the shape "
            f"{list(decoder_hidden.shape[:-1])} of decoder_hidden."
        )
    is_target = loss_weights != 0
    hidden_ND = decoder_hidden[is_target]
    if model.config.scales_logits:
        hidden_ND = hidden_ND * model.config.d_model**-0.5  # T5: v1.0's head is the embedding, as in T5.logits
    head = model.shared if model.config.is_tied else model.lm_head
    return cross_entropy(hidden_ND, head.weight, labels[is_target], loss_weights[is_target], config=config)


def cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, weights_N: Tensor, *, config: LossConfig
) -> LossSums:
    """Return the loss sums of N targets, whose logits are hidden_ND @ head_VD.T.

    With log-probabilities log p, Z the softmax's denominator, t the target and q the soft target (on at t, off
    elsewhere), a target adds weight * (-sum_v q_v log p_v - entropy(q) + z_loss * (log Z)^2); only t5x's convention has
    the entropy term. Products run in the dtype of hidden_ND; every statistic, the loss and the head's accumulated
    gradient are float32 (float64 for float64). The head may be float32 beside bfloat16 hidden states.
    Source: mesh transformer.py `_compute_loss`; t5x losses.py `compute_weighted_cross_entropy`.
    Raises: RequestError for other shapes; DataError for a label outside the vocabulary (checked on the CPU).
    """
    num_targets, vocab_size = hidden_ND.shape[0], head_VD.shape[0]
    if hidden_ND.dim() != 2 or head_VD.dim() != 2 or hidden_ND.shape[1] != head_VD.shape[1]:
        raise RequestError(
            f"hidden {list(hidden_ND.shape)} and head {list(head_VD.shape)} must be [targets, d_model] and "
            "[vocabulary, d_model]."
        )
    if labels_N.shape != (num_targets,) or weights_N.shape != (num_targets,):
        raise RequestError(
            f"labels {list(labels_N.shape)} and weights {list(weights_N.shape)} must both be [{num_targets}]."
        )
    if labels_N.device.type == "cpu" and num_targets:  # Speed: elsewhere a look at the values would stop the queue
        low, high = int(labels_N.min()), int(labels_N.max())
        if low < 0 or high >= vocab_size:
            raise DataError(
                f"labels reach from {low} to {high}; the vocabulary has the ids 0 to {vocab_size - 1}. "
                "Give positions that are no targets the loss weight 0."
            )
    statistics = torch.promote_types(hidden_ND.dtype, torch.float32)
    weights_N = weights_N.to(statistics)
    learns = torch.is_grad_enabled()
    sums = _ChunkedCrossEntropy.apply(
        hidden_ND,
        head_VD,
        labels_N.long(),
        weights_N,
        soft_targets(config, vocab_size),
        config.z_loss,
        config.chunk_targets,
        (learns and hidden_ND.requires_grad, learns and head_VD.requires_grad),
    )
    total, z_loss, likelihood, correct = cast(tuple[Tensor, ...], sums)
    return LossSums(total, weights_N.sum(), z_loss, likelihood, correct)


@dataclasses.dataclass(frozen=True, slots=True)
class SoftTargets:
    """What label smoothing makes of a target: `on` for the right token, `off` for each other one; they sum to 1."""

    on: float
    off: float
    entropy: float
    """Taken from each target's loss, in nats; 0 where the convention takes nothing."""


def soft_targets(config: LossConfig, vocab_size: int) -> SoftTargets:
    """Return the soft target that a convention gives.

    Example (smoothing 0.1, 5 tokens): mesh 0.92 and 0.02, t5x 0.9 and 0.025.
    Source: mesh transformer.py `_compute_loss`; t5x losses.py:164-177.
    """
    share = config.label_smoothing
    if share == 0:
        return SoftTargets(on=1.0, off=0.0, entropy=0.0)
    if config.smoothing_convention == "mesh":
        off = share / vocab_size
        return SoftTargets(on=1.0 - share + off, off=off, entropy=0.0)
    on, off = 1.0 - share, share / (vocab_size - 1)
    return SoftTargets(on, off, entropy=-(on * math.log(on) + (vocab_size - 1) * off * math.log(off)))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The loss and, at once, its gradients: one pass over the logits, C targets at a time.

    The loss is a scalar, so its gradients are known up to a factor when a chunk's logits exist; computing them there
    saves the fourth matrix product that a recomputing backward needs. Kept for backward: [N, D] and [V, D].
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        labels_N: Tensor,
        weights_N: Tensor,
        target: SoftTargets,
        z_loss: float,
        chunk_size: int,
        learns: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        learns_hidden, learns_head = learns
        compute_VD = head_VD.to(hidden_ND.dtype)
        loss_N, z_loss_N, likelihood_N, correct_N = (torch.empty_like(weights_N) for _ in range(4))
        d_hidden_ND = torch.empty_like(hidden_ND) if learns_hidden else None
        d_head_VD = torch.zeros_like(head_VD) if learns_head and not len(hidden_ND) else None
        for start in range(0, hidden_ND.shape[0], chunk_size):
            part = slice(start, start + chunk_size)
            hidden_CD, labels_C1, weights_C = hidden_ND[part], labels_N[part, None], weights_N[part]
            logits_CV = (hidden_CD @ compute_VD.mT).to(weights_N.dtype)
            greatest_C1, likeliest_C1 = logits_CV.max(1, keepdim=True)
            logits_CV.sub_(greatest_C1)  # now <= 0, so that no exponential overflows
            target_C = logits_CV.gather(1, labels_C1)[:, 0]
            others_C = logits_CV.sum(1) if target.off else torch.zeros_like(target_C)
            exponentials_CV = logits_CV.exp_()
            total_C = exponentials_CV.sum(1)
            log_total_C = total_C.log()
            log_z_C = log_total_C + greatest_C1[:, 0]
            expected_C = (target.on - target.off) * target_C + target.off * others_C
            z_loss_N[part] = z_loss * log_z_C.square() * weights_C
            loss_N[part] = (log_total_C - expected_C - target.entropy) * weights_C + z_loss_N[part]
            likelihood_N[part] = (log_total_C - target_C) * weights_C
            correct_N[part] = (likeliest_C1 == labels_C1)[:, 0] * weights_C
            if not (learns_hidden or learns_head):
                continue
            # d loss / d logits = weight * (p * (1 + 2 z log Z) - q)
            slope_C = weights_C * (1 + 2 * z_loss * log_z_C) / total_C
            gradient_CV = exponentials_CV.mul_(slope_C[:, None])
            if target.off:
                gradient_CV.sub_(target.off * weights_C[:, None])
            gradient_CV.scatter_add_(1, labels_C1, (target.off - target.on) * weights_C[:, None])
            gradient_CV = gradient_CV.to(hidden_ND.dtype)
            if d_hidden_ND is not None:
                torch.mm(gradient_CV, compute_VD, out=d_hidden_ND[part])
            if learns_head:
                d_head_VD = _plus_product(d_head_VD, gradient_CV.mT, hidden_CD, wide=weights_N.dtype)
        if d_head_VD is not None:
            d_head_VD = d_head_VD.to(head_VD.dtype)
        ctx.save_for_backward(d_hidden_ND, d_head_VD)
        # Numerics: one sum over N values, so that the chunk size changes nothing in its order.
        sums = loss_N.sum(), z_loss_N.sum(), likelihood_N.sum(), correct_N.sum()
        ctx.mark_non_differentiable(*sums[1:])
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden_ND, d_head_VD = ctx.saved_tensors
        return _scaled(d_hidden_ND, gradients[0]), _scaled(d_head_VD, gradients[0]), *[None] * 6


def _plus_product(sum_VD: Tensor | None, left_VC: Tensor, right_CD: Tensor, *, wide: torch.dtype) -> Tensor:
    """Return sum + left @ right, in place after the second; None is an empty sum.

    Numerics: products add up in `wide` even where they are bfloat16. Speed: a single one is not copied, and both sides
    are widened before they are added, since an addition over two dtypes takes several times as long.
    """
    if sum_VD is None:
        return left_VC @ right_CD
    if sum_VD.dtype != wide:
        sum_VD = sum_VD.to(wide)
    if left_VC.dtype == wide:
        return sum_VD.addmm_(left_VC, right_CD)
    return sum_VD.add_((left_VC @ right_CD).to(wide))


def _scaled(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    if gradient is None:
        return None
    if factor.device.type == "cpu" and factor == 1:  # Speed: `sums.sum.backward()`; saves a pass over [V, D]
        return gradient
    return gradient * factor.to(gradient.dtype)

"""What a training step costs in floating-point operations, and the most that this machine makes of its own."""

import math
import time

import torch

from t5kit.config.architecture import T5Config, tensor_shapes
from t5kit.training.config import Precision

MATRIX_SIZE = 2048
"""Rows and columns of the products that measure the peak: 17 GFLOP each."""
MEASURE_S = 0.5


def training_flops(config: T5Config, *, encoder_tokens: float, target_tokens: float) -> float:
    """Return the operations of forward and backward pass over so many real tokens, in matrix products with weights.

    6 a weight and token (Kaplan et al. 2020): 2 forward, 4 backward. Cross-attention's keys and values are made of
    encoder tokens. Attention scores (a few per cent at 512 tokens), padding and recomputed layers are not counted, so
    that the share of the peak tells useful work.
    """
    per_encoder_token = per_target_token = 0
    for name, shape in tensor_shapes(config).items():
        is_product = len(shape) == 2 and "relative_attention_bias" not in name and not name.endswith("shared.weight")
        if is_product and ("encoder." in name or "EncDecAttention.k" in name or "EncDecAttention.v" in name):
            per_encoder_token += math.prod(shape)
        elif is_product:
            per_target_token += math.prod(shape)
    if config.is_tied:
        per_target_token += config.vocab_size * config.d_model
    return 6.0 * (per_encoder_token * encoder_tokens + per_target_token * target_tokens)


def measured_peak(device: torch.device, precision: Precision) -> float:
    """Return the best rate of one large matrix product, in operations a second, tried for half a second.

    It draws no random numbers and keeps nothing. Its threads are those that training has.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    size = MATRIX_SIZE
    left = torch.full((size, size), 0.5, dtype=dtype, device=device)
    right = torch.full((size, size), 0.25, dtype=dtype, device=device)
    out = torch.empty_like(left)
    best_s = math.inf
    with torch.no_grad():
        torch.mm(left, right, out=out)  # kernels are chosen, and memory is touched, at the first call
        _wait(device)
        end = time.perf_counter() + MEASURE_S
        while True:
            start = time.perf_counter()
            torch.mm(left, right, out=out)
            _wait(device)
            best_s = min(best_s, time.perf_counter() - start)
            if time.perf_counter() >= end:
                return 2.0 * size**3 / best_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

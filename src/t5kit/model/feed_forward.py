"""The position-wise feed-forward layers: v1.0's plain one and the gated one of everything later."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t5kit.config import T5Config
from t5kit.model.dropout import Dropout, DropoutBroadcast
from t5kit.model.norm import RMSNorm


def gelu_tanh(x: Tensor) -> Tensor:
    """Return GELU by its tanh approximation, T5 v1.1's."""
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu_tanh": gelu_tanh,
    "gelu": F.gelu,
    "silu": F.silu,
}


class DenseActDense(nn.Module):
    """wo(act(wi x)): T5 v1.0. Shapes: [B, T, D] -> [B, T, D]."""

    def __init__(self, config: T5Config, dropout_broadcast: DropoutBroadcast) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.activation = _ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.dropout_rate, dropout_broadcast)

    def forward(self, x_BTD: Tensor) -> Tensor:
        inner_BTF = self.activation(self.wi(x_BTD))
        return project_without_overflow(self.wo, self.dropout(inner_BTF))


class DenseGatedActDense(nn.Module):
    """wo(act(wi_0 x) * wi_1 x): T5 v1.1 and later. Shapes: [B, T, D] -> [B, T, D]."""

    def __init__(self, config: T5Config, dropout_broadcast: DropoutBroadcast) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.activation = _ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.dropout_rate, dropout_broadcast)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, linear_BTF = self.activation(self.wi_0(x_BTD)), self.wi_1(x_BTD)
        if gate_BTF.dtype == torch.float16:
            # Numerics: two factors of 300 overflow float16; their product is rounded only after it has been rescaled.
            gate_BTF = gate_BTF.float()
        return project_without_overflow(self.wo, self.dropout(gate_BTF * linear_BTF), narrow=linear_BTF.dtype)


def project_without_overflow(wo: nn.Linear, inner_BTF: Tensor, *, narrow: torch.dtype | None = None) -> Tensor:
    """Return wo(inner); where the multiplication is in float16, as float32 and without overflow.

    narrow: dtype of the multiplication; by default the input's.

    Numerics: T5's float16 overflow is in this output, and its sums are float32 inside the kernel:
    only the rounding of the result overflows. Each row is divided by a power of two that brings it into [-1, 1] and the
    result multiplied by it in float32, which is the same number but for values that vanish beside their row's largest.
    Hugging Face keeps wo in float32 instead, which doubles its memory, and cuts what is left off at 65,504.
    """
    if (narrow or inner_BTF.dtype) != torch.float16:
        return wo(inner_BTF)
    wide_BTF = inner_BTF.float()
    largest_BT1 = wide_BTF.detach().abs().amax(-1, keepdim=True)
    scale_BT1 = torch.exp2(torch.log2(largest_BT1.clamp(min=1.0)).ceil())
    return wo((wide_BTF / scale_BT1).half()).float() * scale_BT1


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward, dropout, residual: [B, T, D] -> [B, T, D]."""

    DenseReluDense: DenseActDense | DenseGatedActDense

    def __init__(self, config: T5Config, dropout_broadcast: DropoutBroadcast) -> None:
        super().__init__()
        dense = DenseGatedActDense if config.uses_gated_mlp else DenseActDense
        self.DenseReluDense = dense(config, dropout_broadcast)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate, dropout_broadcast)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.dropout(self.DenseReluDense(self.layer_norm(x_BTD)))

"""Dropout in the two conventions of T5's code bases.

Hugging Face and PyTorch draw every element on its own. mesh and t5x, which trained the published models, draw one mask
for all positions of a sequence (mesh transformer.py `noise_shape`; t5x layers.py `broadcast_dims=(-2,)`): a feature, or
an attended key, is dropped for the whole text or for none of it. That is a different regularisation, not a detail.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from t5kit.errors import ConfigError

DropoutBroadcast = Literal["none", "length"]
DROPOUT_BROADCASTS = ("none", "length")


class Dropout(nn.Module):
    """Drops a share `rate` of its input while training and scales the rest by 1 / (1 - rate).

    broadcast: "none" draws every element; "length" draws once for the whole length, which is the axis before the last
    in all of T5: activations [B, T, D] and attention weights [B, H, T, K].
    Raises: ConfigError for an unknown broadcast.
    """

    def __init__(self, rate: float, broadcast: DropoutBroadcast = "none") -> None:
        super().__init__()
        if broadcast not in DROPOUT_BROADCASTS:
            raise ConfigError(f"dropout_broadcast = {broadcast!r} must be one of: {', '.join(DROPOUT_BROADCASTS)}.")
        self.rate = rate
        self.broadcast = broadcast

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        if self.broadcast == "none":
            return F.dropout(x, self.rate, training=True)
        # Ones become the mask: 0 where dropped, 1 / (1 - rate) where kept.
        return x * F.dropout(x.new_ones((*x.shape[:-2], 1, x.shape[-1])), self.rate, training=True)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, broadcast={self.broadcast!r}"

"""T5's attention: no 1/sqrt(E) (the initialisation of q holds it), a position bias, everything else as usual.

Every function takes one bias that already holds the positions and the mask, made once for a whole stack.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t5kit.config import T5Config
from t5kit.model.cache import LayerCache
from t5kit.model.dropout import Dropout, DropoutBroadcast
from t5kit.model.masks import with_mask
from t5kit.model.norm import RMSNorm
from t5kit.model.position import RelativePositionBias


def attend(q_BHTE: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, bias: Tensor | None, dropout: Dropout) -> Tensor:
    """Return softmax(q k^T + bias) v, [B, H, T, E]; bias broadcasts to [B, H, T, K] and is in the dtype of q.

    Speed: PyTorch's fused kernel, which never stores the weights: on one core 8 x 128 tokens as fast as
    `attend_explicitly`, 4 x 512 tokens 3.7 times as fast. It cannot draw one dropout mask for all queries, so that
    convention goes the long way.
    """
    if dropout.training and dropout.rate and dropout.broadcast != "none":
        return attend_explicitly(q_BHTE, k_BHKE, v_BHKE, bias, dropout)
    rate = dropout.rate if dropout.training else 0.0
    return F.scaled_dot_product_attention(q_BHTE, k_BHKE, v_BHKE, attn_mask=bias, dropout_p=rate, scale=1.0)


def attend_explicitly(q_BHTE: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, bias: Tensor | None, dropout: Dropout) -> Tensor:
    """Return what `attend` returns, step by step; the two are held against each other by a test.

    Numerics: the softmax is float32 whatever the inputs are (float64 stays float64).
    """
    scores_BHTK = q_BHTE @ k_BHKE.mT
    scores_BHTK = scores_BHTK.to(torch.promote_types(scores_BHTK.dtype, torch.float32))
    if bias is not None:
        scores_BHTK = scores_BHTK + bias
    weights_BHTK = dropout(scores_BHTK.softmax(-1))
    return weights_BHTK.to(v_BHKE.dtype) @ v_BHKE


def attention_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which products of x are computed: its own, or autocast's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class Attention(nn.Module):
    """Queries from one sequence, keys and values from the same or another."""

    relative_attention_bias: RelativePositionBias | None

    def __init__(
        self,
        config: T5Config,
        dropout_broadcast: DropoutBroadcast,
        *,
        relative_attention_bias: RelativePositionBias | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.head_width = config.d_kv
        self.q = nn.Linear(config.d_model, config.inner_width, bias=False)
        self.k = nn.Linear(config.d_model, config.inner_width, bias=False)
        self.v = nn.Linear(config.d_model, config.inner_width, bias=False)
        self.o = nn.Linear(config.inner_width, config.d_model, bias=False)
        self.relative_attention_bias = relative_attention_bias
        self.dropout = Dropout(config.dropout_rate, dropout_broadcast)

    def keys_values(self, source_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of a sequence, both [B, H, K, E]."""
        return self._split_heads(self.k(source_BKD)), self._split_heads(self.v(source_BKD))

    def forward(self, x_BTD: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the queries of x find: [B, T, D]."""
        q_BHTE = self._split_heads(self.q(x_BTD))
        found_BHTE = attend(q_BHTE, k_BHKE, v_BHKE, bias, self.dropout)
        return self.o(found_BHTE.transpose(1, 2).flatten(2))

    def _split_heads(self, x_BTI: Tensor) -> Tensor:
        return x_BTI.unflatten(-1, (self.num_heads, self.head_width)).transpose(1, 2)


class SelfAttentionLayer(nn.Module):
    """Norm, self-attention, dropout, residual.

    Layer 0 of a stack owns the position table of the whole stack; in umT5 every layer owns one for itself.
    """

    def __init__(
        self,
        config: T5Config,
        dropout_broadcast: DropoutBroadcast,
        *,
        index: int,
        is_bidirectional: bool,
    ) -> None:
        super().__init__()
        owns_table = index == 0 or config.has_bias_per_layer
        table = RelativePositionBias(config, is_bidirectional=is_bidirectional) if owns_table else None
        self.SelfAttention = Attention(config, dropout_broadcast, relative_attention_bias=table)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate, dropout_broadcast)

    def forward(
        self, x_BTD: Tensor, bias: Tensor | None, visible: Tensor | None, cache: LayerCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return [B, T, D], and the bias attended with (positions and mask), for the layers that own no table.

        bias: what the layer before gave back, None at the first. visible: boolean over [B, H, T, K] (masks.py).
        With a cache the keys are all tokens so far, x's own (which are put into it) included.
        """
        normed_BTD = self.layer_norm(x_BTD)
        k_BHKE, v_BHKE = self.SelfAttention.keys_values(normed_BTD)
        first_query = 0
        if cache is not None:
            first_query = cache.num_tokens
            k_BHKE, v_BHKE = cache.extend(k_BHKE, v_BHKE)
        table = self.SelfAttention.relative_attention_bias
        if table is not None:
            positions_1HTK = table(x_BTD.shape[1], k_BHKE.shape[2], first_query=first_query)
            bias = with_mask(positions_1HTK.to(k_BHKE.dtype), visible)
        assert bias is not None, "the first layer of every stack owns a table"
        return x_BTD + self.dropout(self.SelfAttention(normed_BTD, k_BHKE, v_BHKE, bias)), bias


class CrossAttentionLayer(nn.Module):
    """Norm, attention over the encoder's states, dropout, residual. T5: there is no position bias here."""

    def __init__(self, config: T5Config, dropout_broadcast: DropoutBroadcast) -> None:
        super().__init__()
        self.EncDecAttention = Attention(config, dropout_broadcast)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate, dropout_broadcast)

    def forward(self, x_BTD: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, bias: Tensor | None) -> Tensor:
        """Return [B, T, D]; k and v are `EncDecAttention.keys_values` of the encoder's states."""
        return x_BTD + self.dropout(self.EncDecAttention(self.layer_norm(x_BTD), k_BHSE, v_BHSE, bias))

"""What a decoder remembers between steps: the keys and values of its own tokens and of the encoder's states."""

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LayerCache:
    """One layer's part of a `DecoderCacheState`, at one step: views, so writing here writes there."""

    self_k: Tensor
    """[B, H, C, E]: keys of up to C tokens; the first num_tokens are valid."""
    self_v: Tensor
    """Values of the same."""
    cross_k: Tensor
    """[B, H, S, E]: keys of the encoder's states."""
    cross_v: Tensor
    """Values of the same."""
    num_tokens: int
    """Tokens before this step."""

    def extend(self, k_BHTE: Tensor, v_BHTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store a step's keys and values and return those of all tokens so far, both [B, H, num_tokens + T, E]."""
        end = self.num_tokens + k_BHTE.shape[2]
        self.self_k[:, :, self.num_tokens : end] = k_BHTE
        self.self_v[:, :, self.num_tokens : end] = v_BHTE
        return self.self_k[:, :, :end], self.self_v[:, :, :end]


@dataclasses.dataclass(slots=True, eq=False)
class DecoderCacheState:
    """The memory of one batch's decoding, made by `T5.start_cache` and owned by the caller.

    `T5.decode_next` writes into it; nothing else does. All rows have the same number of tokens.
    """

    self_kv: Tensor
    """[L, 2, B, H, C, E]: layer, keys or values; C is the capacity in tokens."""
    cross_kv: Tensor
    """[L, 2, B, H, S, E]: computed once from the encoder's states."""
    encoder_segment_ids: Tensor | None
    """[B, S] as given to `start_cache`: 0 or False is padding."""
    num_tokens: int = 0
    """Decoder tokens in the cache."""

    @property
    def batch_size(self) -> int:
        """Rows."""
        return self.self_kv.shape[2]

    @property
    def capacity(self) -> int:
        """Decoder tokens a row can hold."""
        return self.self_kv.shape[4]

    def layer(self, i: int) -> LayerCache:
        """Return the i-th layer's views."""
        self_k, self_v = self.self_kv[i].unbind(0)
        cross_k, cross_v = self.cross_kv[i].unbind(0)
        return LayerCache(self_k, self_v, cross_k, cross_v, self.num_tokens)

    def select(self, rows_N: Tensor) -> "DecoderCacheState":
        """Return a copy with these rows of the batch, in this order, repeated where named twice: a beam's reorder."""
        segment_ids = self.encoder_segment_ids
        return DecoderCacheState(
            self_kv=self.self_kv.index_select(2, rows_N),
            cross_kv=self.cross_kv.index_select(2, rows_N),
            encoder_segment_ids=None if segment_ids is None else segment_ids.index_select(0, rows_N),
            num_tokens=self.num_tokens,
        )

    def truncate(self, num_tokens: int) -> None:
        """Forget all but the first num_tokens decoder tokens: what a rejected guess needs."""
        self.num_tokens = min(num_tokens, self.num_tokens)

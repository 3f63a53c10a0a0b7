"""A relative position bias laid out by distance, so that a step only has to look at it.

Dimension letters: H heads, T queries, K keys, G cache rows, R buckets.
"""

import math

import numpy as np
import torch
from torch import Tensor

from t5kit.config import T5Config
from t5kit.runtime.reference import relative_position_buckets

_FIRST_REACH = 512


class PositionBias:
    """One table's bias for every distance: [H, 2 * reach + 1] at key position minus query position plus reach.

    A decoder's bias is -inf for keys of the future, so it is the causal mask too. The reach grows with what is asked
    for.
    """

    def __init__(
        self, config: T5Config, table_RH: Tensor, *, is_bidirectional: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._config, self._table_RH, self._is_bidirectional = config, table_RH, is_bidirectional
        self._dtype, self._device = dtype, device
        self._reach = 0
        self._by_distance = torch.empty(0)

    def row(self, position: int, num_keys: int) -> Tensor:
        """Return the bias of one query position for keys 0 .. num_keys - 1: [1, H, 1, K], a view."""
        self._make_reach(max(position, num_keys))
        start = self._reach - position
        return self._by_distance[None, :, None, start : start + num_keys]

    def band(self, first_position: int, num_queries: int, num_keys: int) -> Tensor:
        """Return the bias of the positions first_position .. first_position + num_queries - 1: [1, H, T, K]."""
        self._make_reach(max(first_position + num_queries, num_keys))
        num_heads, num_distances = self._by_distance.shape
        # Query t sees key k at distance k - t: with the queries in reverse every row is the one above it, moved by one.
        start = self._reach - first_position - num_queries + 1
        reversed_HTK = self._by_distance.as_strided((num_heads, num_queries, num_keys), (num_distances, 1, 1), start)
        return reversed_HTK.flip(1)[None]

    def ragged(self, positions_GT: Tensor, num_keys: int) -> Tensor:
        """Return the bias of any positions [G, T] (int64, on the device): [G, H, T, K]."""
        self._make_reach(max(int(positions_GT.max()), num_keys))
        keys_K = torch.arange(self._reach, self._reach + num_keys, device=self._device)
        return self._by_distance[:, keys_K - positions_GT[..., None]].transpose(0, 1)

    def _make_reach(self, distance: int) -> None:
        if distance <= self._reach:
            return
        self._reach = max(_FIRST_REACH, 1 << (distance - 1).bit_length())
        relative = np.arange(-self._reach, self._reach + 1)
        buckets = relative_position_buckets(
            relative,
            is_bidirectional=self._is_bidirectional,
            num_buckets=self._config.relative_attention_num_buckets,
            max_distance=self._config.relative_attention_max_distance,
        )
        by_distance_HD = self._table_RH[torch.from_numpy(buckets.astype(np.int64))].T
        if not self._is_bidirectional:
            by_distance_HD = by_distance_HD.masked_fill(torch.from_numpy(relative > 0), -math.inf)
        self._by_distance = by_distance_HD.to(self._device, self._dtype).contiguous()


def position_biases(
    config: T5Config, tables_LRH: Tensor, *, is_bidirectional: bool, dtype: torch.dtype, device: torch.device
) -> tuple[PositionBias, ...]:
    """Return one for each table: one for the whole stack, or one for each layer (umT5)."""
    return tuple(
        PositionBias(config, table_RH, is_bidirectional=is_bidirectional, dtype=dtype, device=device)
        for table_RH in tables_LRH
    )

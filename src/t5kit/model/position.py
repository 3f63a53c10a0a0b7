"""Relative positions: distance -> bucket -> a learned number for each head, added to the attention scores."""

import bisect

import torch
from torch import Tensor, nn

from t5kit.config import T5Config


def relative_position_buckets(
    relative_position: Tensor, *, is_bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """Return the bucket of each key position minus query position: same shape, int64 in [0, num_buckets).

    A bidirectional stack (the encoder) uses one half of the buckets for keys at or before the query and one for keys
    after it. Half of a direction's buckets are exact distances, the others grow with the logarithm of the distance;
    from max_distance on, all share the last. A causal stack (the decoder) puts all keys after the query into bucket 0.

    Source: mesh transformer_layers.py `_relative_position_bucket`.
    Example: 32 buckets, 128: encoder distance 12 before -> 9, 12 after -> 25; decoder distance 20 before -> 17.
    """
    one_direction = num_buckets // 2 if is_bidirectional else num_buckets
    starts = torch.tensor(bucket_starts(one_direction, max_distance), device=relative_position.device)
    return _buckets(relative_position, starts, is_bidirectional=is_bidirectional)


def _buckets(relative_position: Tensor, starts_N: Tensor, *, is_bidirectional: bool) -> Tensor:
    """Return the same, given the first distance of each of one direction's N buckets."""
    distance = relative_position.abs() if is_bidirectional else (-relative_position).clamp(min=0)
    buckets = torch.bucketize(distance, starts_N[1:], right=True)
    if is_bidirectional:
        buckets = buckets + torch.where(relative_position > 0, len(starts_N), 0)
    return buckets


def bucket_starts(num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """Return the first distance of each of one direction's buckets, for example 0 .. 8, 12, 16, 23, 32, 46, 64, 91.

    Numerics: the published formula takes float32 logarithms and truncates; these are the same limits as whole numbers,
    so that no device or compiler can round them differently. bucket >= num_exact + j means
    ln(n / num_exact) / ln(max_distance / num_exact) * num_log >= j, that is
    n ^ num_log >= num_exact ^ (num_log - j) * max_distance ^ j.
    """
    num_exact = num_buckets // 2
    num_log = num_buckets - num_exact
    starts = list(range(num_exact + 1))
    for j in range(1, num_log):
        limit = num_exact ** (num_log - j) * max_distance**j
        distances = range(num_exact, max_distance + 1)
        starts.append(distances[bisect.bisect_left(distances, limit, key=lambda n: n**num_log)])
    return tuple(starts)


class RelativePositionBias(nn.Module):
    """The table [R, H] of one stack, or of one layer in umT5."""

    starts: Tensor

    def __init__(self, config: T5Config, *, is_bidirectional: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.relative_attention_num_buckets, config.num_heads))
        self.is_bidirectional = is_bidirectional
        num_buckets = (
            config.relative_attention_num_buckets // 2 if is_bidirectional else config.relative_attention_num_buckets
        )
        starts = bucket_starts(num_buckets, config.relative_attention_max_distance)
        # No weight: it stays real where the parameters are built on the meta device, and out of the folder.
        self.register_buffer("starts", torch.tensor(starts, device="cpu"), persistent=False)

    def forward(
        self, num_queries: int, num_keys: int, *, first_query: int = 0, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return the bias [1, H, T, K] of queries first_query .. first_query + T - 1 and keys 0 .. K - 1.

        dtype: that of the bias and of the sums in its gradient; by default the table's.

        Speed: a bias depends on the distance alone, so T + K - 1 rows are looked up and laid out as diagonals; the
        gradient then reaches the table by T + K - 1 additions instead of T * K.
        """
        last_query = first_query + num_queries - 1
        relative = torch.arange(-last_query, num_keys - first_query, device=self.weight.device)
        buckets = _buckets(relative, self.starts, is_bidirectional=self.is_bidirectional)
        by_distance_HN = nn.functional.embedding(buckets, self.weight.to(dtype)).mT
        # Row i of the windows begins at distance i - last_query, which is what the i-th query from the end sees first.
        return by_distance_HN.unfold(-1, num_keys, 1).flip(1)[None]

    def extra_repr(self) -> str:
        num_buckets, num_heads = self.weight.shape
        return f"{num_buckets}, {num_heads}, is_bidirectional={self.is_bidirectional}"

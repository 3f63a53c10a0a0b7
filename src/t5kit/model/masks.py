"""Who may look at whom.

Two things say it, and both must allow a key. *Segment ids* [B, K] are integers: 0 is padding, and a query sees the keys
of its own segment, so that texts packed into one row stay strangers; a boolean mask (True at real tokens) is the case
of one segment. *Attention masks* are boolean, True where a query may look at a key: [B, T, K] for all heads, or with
heads, [B, H, T, K]. Padding is never told by an id: T5's start token is its padding token.
"""

import torch
from torch import Tensor

from t5kit.errors import RequestError


def visible_keys(
    query_segment_ids: Tensor | None, key_segment_ids: Tensor | None, attention_mask: Tensor | None
) -> Tensor | None:
    """Return the boolean mask that both kinds of facts allow, broadcastable to [B, H, T, K]; None allows everything.

    Shapes: query_segment_ids [B, T], key_segment_ids [B, K], attention_mask [B, T, K] or four dimensions.
    Where either side's segments are a boolean mask or unknown, only the keys' padding is hidden.
    """
    visible = None
    if key_segment_ids is not None:
        visible = (key_segment_ids != 0)[:, None, None, :]
        if (
            query_segment_ids is not None
            and query_segment_ids.dtype != torch.bool
            and key_segment_ids.dtype != torch.bool
        ):
            visible = visible & (query_segment_ids[:, None, :, None] == key_segment_ids[:, None, None, :])
    if attention_mask is None:
        return visible
    return both(visible, attention_mask[:, None] if attention_mask.dim() == 3 else attention_mask)


def causal_mask(num_queries: int, num_keys: int, *, first_query: int, device: torch.device) -> Tensor:
    """Return [1, 1, T, K], True for the keys at or before each of the queries first_query .. first_query + T - 1."""
    queries_T1 = torch.arange(first_query, first_query + num_queries, device=device)[:, None]
    return (torch.arange(num_keys, device=device) <= queries_T1)[None, None]


def both(first: Tensor | None, second: Tensor) -> Tensor:
    """Return first & second for boolean masks; None allows everything."""
    return second if first is None else first & second


def with_mask(bias: Tensor, visible: Tensor | None) -> Tensor:
    """Return the bias where `visible`, and elsewhere a number that no score outweighs.

    Numerics: half the dtype's lowest number: adding a score cannot reach -inf, so a query that may look at nothing
    (padding) attends evenly instead of giving NaN, and beside any visible key its weight is exactly 0.
    """
    return bias if visible is None else torch.where(visible, bias, torch.finfo(bias.dtype).min / 2)


def additive_mask(visible: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the mask alone as such a bias, for an attention without positions; None hides nothing."""
    return None if visible is None else with_mask(torch.zeros((), dtype=dtype, device=visible.device), visible)


def check_segment_ids(name: str, segment_ids: Tensor | None, shape: torch.Size) -> None:
    """Raise RequestError unless the segment ids are None, or integers or booleans of this shape, [B, length]."""
    if segment_ids is not None and (
        segment_ids.shape != shape or segment_ids.is_floating_point() or segment_ids.is_complex()
    ):
        raise RequestError(
            f"{name} must be integers (0 is padding) or booleans (True is a real token) of shape {list(shape)}; got "
            f"{segment_ids.dtype} {list(segment_ids.shape)}."
        )


def check_attention_mask(name: str, mask: Tensor | None, *, num_queries: int, num_keys: int, batch_size: int) -> None:
    """Raise RequestError unless the mask is None, or boolean [B, T, K] or [B, H, T, K]; sizes of 1 broadcast."""
    if mask is None:
        return
    fits = mask.dtype == torch.bool and mask.dim() in (3, 4)
    if fits:
        wanted = zip((mask.shape[0], *mask.shape[-2:]), (batch_size, num_queries, num_keys), strict=True)
        fits = all(size in (1, expected) for size, expected in wanted)
    if not fits:
        raise RequestError(
            f"{name} must be boolean, True where a query may look at a key, of shape "
            f"{[batch_size, num_queries, num_keys]} or with heads as second dimension; got {mask.dtype} "
            f"{list(mask.shape)}."
        )

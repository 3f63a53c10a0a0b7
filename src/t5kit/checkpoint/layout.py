"""Stored tensor names -> the home layout: one `shared.weight`, a head only where there is one of its own.

Writers disagree on what they store of the one embedding: `shared.weight` (most), copies of it under the stacks' names
and the head's (old .bin files), or `decoder.embed_tokens.weight` alone (MADLAD-400). Copies are compared, not trusted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np

from t5kit.checkpoint.hf_config import Inference
from t5kit.checkpoint.tensors import TensorView
from t5kit.errors import CheckpointError

_EMBEDDING_NAMES: Final = ("shared.weight", "decoder.embed_tokens.weight", "encoder.embed_tokens.weight")
_HEAD: Final = "lm_head.weight"
# T5: v1.0 checkpoints carry a position table in the cross-attention, which has none (HF ignores it by name).
_DEAD_TABLE: Final = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_COMPARED_BYTES: Final = 1 << 20


@dataclasses.dataclass(frozen=True)
class HomeTensors:
    """The stored tensors under the home layout's names."""

    views: Mapping[str, TensorView]
    """Home name -> tensor, without copies of the embedding and without what is ignored."""
    copies: frozenset[str]
    """Stored names that equal the embedding byte for byte and were left out."""
    inferences: tuple[Inference, ...]
    """What was renamed, dropped or ignored, and why."""


def to_home_layout(stored: Mapping[str, TensorView]) -> HomeTensors:
    """Return `stored` under home names. Raises: CheckpointError if two embeddings differ that every T5 shares."""
    views = dict(stored)
    inferences = []
    copies = set()
    prefix = "transformer." if any(name.startswith("transformer.") for name in stored) else ""
    if views.pop(prefix + _DEAD_TABLE, None) is not None:
        inferences.append(
            Inference("ignored", prefix + _DEAD_TABLE, "v1.0 files carry this table; cross-attention has no positions")
        )
    embeddings = [prefix + name for name in _EMBEDDING_NAMES if prefix + name in stored]
    if not embeddings:
        return HomeTensors(views, frozenset(), tuple(inferences))
    home = f"{prefix}shared.weight"
    source, *others = embeddings
    embedding = views.pop(source)
    if source != home:
        inferences.append(Inference("embedding", source, f"{home} is absent; this is the embedding of both stacks"))
    for name in others:
        other = views.pop(name)
        if not _are_equal(embedding, other):
            raise CheckpointError(
                f"{source} {list(embedding.shape)} and {name} {list(other.shape)} differ, but both stacks of a T5 "
                "share one embedding. The program that saved it had untied them: save it again from the original."
            )
        copies.add(name)
    if not prefix and _HEAD in views and _are_equal(embedding, views[_HEAD]):
        views.pop(_HEAD)
        copies.add(_HEAD)
    if copies:
        reason = f"stored beside {source}; compared and equal byte for byte"
        inferences.append(Inference("copies of the embedding", ", ".join(sorted(copies)), reason))
    views[home] = embedding.renamed(home)
    return HomeTensors(views, frozenset(copies), tuple(inferences))


def _are_equal(one: TensorView, other: TensorView) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape) or one.scale is not None:
        return False  # int8 folders are ours, which hold no copies
    a, b = np.frombuffer(one.data, np.uint8), np.frombuffer(other.data, np.uint8)
    if a.ctypes.data == b.ctypes.data:
        return True  # one storage under two names, as torch saves tied weights
    # Speed: different matrices differ in the first chunk, so an untied head costs one page of reading.
    return all(
        np.array_equal(a[start : start + _COMPARED_BYTES], b[start : start + _COMPARED_BYTES])
        for start in range(0, a.size, _COMPARED_BYTES)
    )

"""Documents -> pieces of one length: T5's way of filling every example of a denoising corpus."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5kit.tasks.example import IntArray

MAX_CHUNK_TOKENS = 65_536
"""A longer document gives one random chunk of this length a pass (t5: select_random_chunk)."""
DOCUMENTS_A_BLOCK = 128
"""Documents joined before cutting (t5: reduce_concat_tokens, batch_size=128)."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TextPieces:
    """Pieces cut from one block of documents. Shapes: full [R, N] int32, rest [0 … N - 1] int32."""

    full: IntArray
    rest: IntArray


def cut_into_pieces(
    documents: Sequence[IntArray], *, piece_length: int, rng: np.random.Generator, max_chunk: int = MAX_CHUNK_TOKENS
) -> TextPieces:
    """Return the documents (ids without EOS) joined in order and cut to piece_length; the last piece is the rest.

    Tokens are lost only where a document is longer than max_chunk: then one of its chunks, drawn evenly, stands for it.
    """
    chunks = []
    for ids in documents:
        if len(ids) > max_chunk:
            start = max_chunk * int(rng.integers(-(-len(ids) // max_chunk)))
            ids = ids[start : start + max_chunk]
        chunks.append(ids)
    joined = np.concatenate(chunks).astype(np.int32, copy=False) if chunks else np.empty(0, np.int32)
    num_full = len(joined) // piece_length
    return TextPieces(
        joined[: num_full * piece_length].reshape(num_full, piece_length), joined[num_full * piece_length :]
    )

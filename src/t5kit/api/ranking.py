"""Which documents answer a query best: read together with it, by how likely the query is, or by their vectors."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from t5kit.config import T5Config
from t5kit.errors import EngineError, RequestError
from t5kit.evaluation.answering import log_probabilities
from t5kit.runtime import LogitEdits, Need, Runtime, StepInput
from t5kit.runtime.opened import encoded, opened
from t5kit.scheduling.memory import prompt_bytes
from t5kit.text import Tokenizer

RankingMethod = Literal["relevance", "likelihood", "embedding"]

RELEVANCE_PROMPT = "Query: {query} Document: {document} Relevant:"
"""What monoT5 was trained with (Nogueira et al. 2020)."""
RELEVANCE_WORDS = ("true", "false")
LIKELIHOOD_PROMPT = "Passage: {document} Write a question that this passage answers."
"""A wording of our own; Sachan et al. 2022 ask for the question in the same way."""
_BYTES_AT_ONCE = 256 * 2**20
_PROMPTS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Documents in the order of their worth for one query."""

    order: tuple[int, ...]
    """Places of the documents as they were given, best first; of equal scores the one given first."""
    scores: tuple[float, ...]
    """The score of each document, in the order they were given. relevance: natural log-probability of "true" against
    "false"; likelihood: natural log-probability of the query; embedding: cosine."""


def ranking(scores: Sequence[float] | np.ndarray) -> Ranking:
    """Return the ranking of scores [N].

    >>> ranking([0.5, 2.0, 0.5]).order
    (1, 0, 2)
    """
    values = np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable")
    return Ranking(order=tuple(order.tolist()), scores=tuple(values.tolist()))


def relevance_ids(words: Sequence[str], tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the ids of the words that say relevant and not.

    Raises: RequestError unless they are two words of one token each, and not the same.
    """
    if isinstance(words, str) or len(words) != 2 or not all(isinstance(word, str) for word in words):
        raise RequestError(f"relevance_words = {words!r:.80} must be two words: one for relevant, one for not.")
    ids = []
    for word in words:
        found = tokenizer.encode(word, add_eos=False)
        if len(found) != 1 or found[0] == tokenizer.unk_id:
            kind = f"{len(found)} tokens" if len(found) != 1 else "no token"
            raise RequestError(
                f"relevance_words holds {word!r}, which is {kind} of this vocabulary; only the first token of the "
                'answer is compared, so it must be one. Take others, or rank with method="likelihood".'
            )
        ids.append(int(found[0]))
    if ids[0] == ids[1]:
        raise RequestError(f"relevance_words = {tuple(words)!r} are the same token in this vocabulary. Take others.")
    return ids[0], ids[1]


def relevance_scores(
    runtime: Runtime, prompts: Sequence[np.ndarray], ids: tuple[int, int], *, max_bytes: int | None
) -> np.ndarray:
    """Return [N] float64: the natural log-probability of `ids[0]` as the answer's first token, against `ids[1]`.

    One encode and one step for each prompt, many at a time. Shapes: prompts [S_i] int32, EOS in.
    max_bytes: most bytes of caches at a time. Raises: EngineError for scores that are not finite.
    """
    allowed = np.array(sorted(ids), np.int32)
    scores = np.empty(len(prompts))
    for start, chunk in _chunks(runtime.config, prompts, max_bytes=max_bytes):
        with encoded(runtime, chunk) as handles, opened(runtime, handles) as slots:
            output = runtime.step(
                StepInput.one_token_each(
                    slots,
                    np.full(len(chunk), runtime.config.decoder_start_id, np.int32),
                    edits={row: LogitEdits(allowed_ids=allowed) for row in range(len(chunk))},
                    need=Need(top_k=2),
                )
            )
        logits_R2 = output.top_logits.astype(np.float64)
        if not np.isfinite(logits_R2).all():
            raise EngineError(
                "The model produced NaN or infinite scores. Its weights are damaged, or overflow in this precision: "
                "try weights=float32."
            )
        margins = (logits_R2[:, 0] - logits_R2[:, 1]) * np.where(output.top_ids[:, 0] == ids[0], 1, -1)
        scores[start : start + len(chunk)] = -np.logaddexp(0, -margins)
    return scores


def likelihood_scores(
    runtime: Runtime,
    prompts: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    num_queries: int,
    *,
    max_cache_bytes: int | None = None,
) -> np.ndarray:
    """Return [Q, N] float64: the natural log-probability of each query after each document's prompt.

    A document does not see the query, so it is encoded once for all queries.
    Shapes: prompts [N] of [S_i], targets [N * Q] of [T] int32, EOS in: the queries as each document's answers.
    max_cache_bytes: as in `log_probabilities`.
    """
    repeated = [prompt for prompt in prompts for _ in range(num_queries)]
    values = log_probabilities(runtime, repeated, targets, max_cache_bytes=max_cache_bytes)
    return np.array(values).reshape(len(prompts), num_queries).T


def cosines(queries_QD: np.ndarray, documents_ND: np.ndarray) -> np.ndarray:
    """Return [Q, N] float64: the cosine of each query's vector with each document's."""
    unit = [
        vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        for vectors in (queries_QD.astype(np.float64), documents_ND.astype(np.float64))
    ]
    product: np.ndarray = unit[0] @ unit[1].T
    return product


def checked_vectors(vectors: object, num_documents: int, width: int) -> np.ndarray:
    """Return document vectors [N, D], or say what they should be."""
    if not isinstance(vectors, np.ndarray) or vectors.shape != (num_documents, width) or vectors.dtype.kind != "f":
        shape = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise RequestError(
            f"document_vectors is {shape}, expected floats of shape ({num_documents}, {width}): what "
            "model.embed(documents) gives for the same documents."
        )
    if not np.isfinite(vectors).all():
        raise RequestError("document_vectors holds NaN or infinities. Make them again with model.embed.")
    return vectors


def _chunks(
    config: T5Config, prompts: Sequence[np.ndarray], *, max_bytes: int | None
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield (place of the first, prompts) whose cross-attention caches fit together; one alone is never refused."""
    limit = _BYTES_AT_ONCE if max_bytes is None else min(max_bytes, _BYTES_AT_ONCE)
    start, num_bytes = 0, 0
    chunk: list[np.ndarray] = []
    for place, prompt in enumerate(prompts):
        size = prompt_bytes(config, len(prompt))
        if chunk and (num_bytes + size > limit or len(chunk) == _PROMPTS_AT_ONCE):
            yield start, chunk
            start, chunk, num_bytes = place, [], 0
        chunk.append(prompt)
        num_bytes += size
    if chunk:
        yield start, chunk

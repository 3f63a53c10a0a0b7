"""What the objectives share: their protocol, the ids they write, and spans <-> sentinels in both directions."""

import dataclasses
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from t5kit.errors import DataError
from t5kit.tasks.example import Example, IntArray

BoolArray = npt.NDArray[np.bool_]


class SentinelVocabulary(Protocol):
    """The part of a tokenizer that objectives need."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def num_sentinels(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    def sentinel_id(self, index: int) -> int: ...


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingIds:
    """The ids that objectives write beside the text's own."""

    sentinel_ids: IntArray
    """[K] in order of use: T5's <extra_id_0> = 32099 first, then 32098, …; ByT5's 258, 257, …"""
    eos_id: int
    vocab_size: int
    """Random replacements are drawn from 3 … vocab_size - 1."""

    @classmethod
    def of(cls, tokenizer: SentinelVocabulary) -> Self:
        """Return the ids of a vocabulary."""
        sentinels = [tokenizer.sentinel_id(index) for index in range(tokenizer.num_sentinels)]
        return cls(np.array(sentinels, np.int32), tokenizer.eos_id, tokenizer.vocab_size)


class Objective(Protocol):
    """Makes one training pair of a piece of text."""

    def corrupt(self, ids: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> Example:
        """Return the pair for ids [N] without EOS; raises DataError where N is too short for the objective."""
        ...

    def restore(self, example: Example, denoising_ids: DenoisingIds) -> IntArray:
        """Return the text that `corrupt` took; raises DataError where the pair does not tell it."""
        ...


def check_length(ids: IntArray, *, at_least: int, objective: str) -> None:
    """Raise DataError where ids [N] are too few, or not one sequence."""
    if ids.ndim != 1 or len(ids) < at_least:
        raise DataError(
            f"{objective} got ids of shape {ids.shape}; it needs one sequence of at least {at_least} token(s)."
        )


def with_eos(ids: IntArray, denoising_ids: DenoisingIds) -> IntArray:
    """Return ids [N] and EOS, [N + 1] int32."""
    ended = np.empty(len(ids) + 1, np.int32)
    ended[:-1] = ids
    ended[-1] = denoising_ids.eos_id
    return ended


def first_of_each_span(is_noise_RN: BoolArray) -> BoolArray:
    """Mark the first token of every run of noise, row by row."""
    is_first_RN = is_noise_RN.copy()
    is_first_RN[:, 1:] &= ~is_noise_RN[:, :-1]
    return is_first_RN


def spans_to_sentinels(
    ids_RN: IntArray, is_noise_RN: BoolArray, denoising_ids: DenoisingIds
) -> tuple[IntArray, IntArray]:
    """Return encoder ids [R, S] and target ids [R, T], both with EOS: one unique sentinel for every run of noise.

    All rows must have the same number of noise tokens and of runs (one row always has).
    Example: [a b c d e] with noise on b, c and e -> [a <X> d <Y> </s>], [<X> b c <Y> e </s>]
    T5: no closing sentinel ends the targets, unlike the example in Hugging Face's documentation.
    Raises: DataError if there are more runs than sentinels.
    """
    num_rows, num_tokens = ids_RN.shape
    is_first_RN = first_of_each_span(is_noise_RN)
    num_spans = int(is_first_RN[0].sum())
    num_noise = int(is_noise_RN[0].sum())
    if num_spans > len(denoising_ids.sentinel_ids):
        raise DataError(
            f"{num_tokens} tokens were cut into {num_spans} noise spans, but the vocabulary has "
            f"{len(denoising_ids.sentinel_ids)} sentinels. Use shorter pieces, longer spans or less noise."
        )
    sentinels_S = denoising_ids.sentinel_ids[:num_spans]
    encoder_RS = np.empty((num_rows, num_tokens - num_noise + num_spans + 1), np.int32)
    target_RT = np.empty((num_rows, num_noise + num_spans + 1), np.int32)
    encoder_RS[:, -1] = target_RT[:, -1] = denoising_ids.eos_id

    # Encoder: the first token of a run becomes its sentinel, the others go.
    marked_RN = ids_RN.astype(np.int32)  # a copy
    marked_RN[is_first_RN] = np.broadcast_to(sentinels_S, (num_rows, num_spans)).reshape(-1)
    encoder_RS[:, :-1] = marked_RN[~is_noise_RN | is_first_RN].reshape(num_rows, -1)

    # Target: noise token k of the row, in run j (from 1), stands behind j sentinels, at k + j.
    starts_span_RM = is_first_RN[is_noise_RN].reshape(num_rows, num_noise)
    position_RM = np.cumsum(starts_span_RM, axis=1) + np.arange(num_noise)
    is_token_RT = np.zeros(target_RT.shape, np.bool_)
    np.put_along_axis(is_token_RT, position_RM, True, axis=1)
    target_RT[is_token_RT] = ids_RN[is_noise_RN]
    is_token_RT[:, -1] = True  # EOS is written already
    target_RT[~is_token_RT] = np.broadcast_to(sentinels_S, (num_rows, num_spans)).reshape(-1)
    return encoder_RS, target_RT


def restore_spans(example: Example, denoising_ids: DenoisingIds) -> IntArray:
    """Return the text [N] that `spans_to_sentinels` took apart, without EOS.

    The text itself must hold no sentinel ids. Raises: DataError if the sentinels of the two sides differ.
    """
    encoder, target = example.encoder_ids[:-1], example.target_ids[:-1]
    (encoder_at,) = np.nonzero(np.isin(encoder, denoising_ids.sentinel_ids))
    (target_at,) = np.nonzero(np.isin(target, denoising_ids.sentinel_ids))
    if not np.array_equal(encoder[encoder_at], target[target_at]) or (len(target) and target_at[:1].tolist() != [0]):
        raise DataError(
            f"the sentinels of the two sides differ: {encoder[encoder_at].tolist()} in the encoder, "
            f"{target[target_at].tolist()} in the target."
        )
    spans = np.split(target, target_at[1:])
    pieces: list[IntArray] = []
    last = 0
    for at, span in zip(encoder_at.tolist(), spans, strict=False):
        pieces += [encoder[last:at], span[1:]]
        last = at + 1
    return np.concatenate([*pieces, encoder[last:]]).astype(np.int32)

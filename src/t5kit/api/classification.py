"""Which of a few labels a text has, by how likely the model would answer each of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from t5kit.api.calibration import Calibration, softmax
from t5kit.api.evaluation import no_progress
from t5kit.errors import RequestError, T5kitError
from t5kit.evaluation.answering import likelihoods_of
from t5kit.runtime import Runtime
from t5kit.text import Tokenizer

ClassificationMethod = Literal["score", "greedy"]
Labels = Sequence[str] | Mapping[str, str]
"""Labels, or label -> the words that stand for it in the model's answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """One text's label."""

    label: str
    """The likeliest."""
    probabilities: Mapping[str, float]
    """Label -> probability, in the order the labels were given; they sum to 1. Empty under method="greedy", which asks
    for nothing but the label."""
    log_probabilities: Mapping[str, float]
    """Label -> natural log-probability of its words given the prompt, summed over its tokens, EOS included, before any
    normalisation or calibration. Empty under method="greedy"."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelSet:
    """Labels as a model can write them."""

    words: Mapping[str, str]
    """Label -> its words."""
    token_ids: tuple[np.ndarray, ...]
    """For each label, [T] int32 with EOS."""

    @property
    def names(self) -> list[str]:
        """The labels."""
        return list(self.words)

    @property
    def lengths(self) -> np.ndarray:
        """[K] tokens of each label's words, EOS included."""
        return np.array([len(ids) for ids in self.token_ids], np.float64)


def label_set(labels: Labels, tokenizer: Tokenizer) -> LabelSet:
    """Return the labels with their ids, checked: no two that a model cannot tell apart, none it cannot write.

    Raises: RequestError naming the label that is no text, empty, given twice, the same ids as another, or that holds
    what this vocabulary cannot write; or fewer than two labels.
    """
    if isinstance(labels, (str, bytes)) or not isinstance(labels, (Sequence, Mapping)):
        raise RequestError(f"labels must be a list of texts or a mapping from label to words, got {labels!r:.80}.")
    names = list(labels)
    for name in names:
        if not isinstance(name, str):
            raise RequestError(f"labels hold {name!r:.80}, expected texts.")
    if len(names) < 2:
        raise RequestError(f"There must be at least two labels to choose from, got {len(names)}.")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise RequestError(f"The label {twice!r} is given twice. Drop one.")
    words = dict(labels) if isinstance(labels, Mapping) else {name: name for name in names}
    for name, text in words.items():
        if not isinstance(text, str):
            raise RequestError(f"The words of the label {name!r} are {type(text).__name__}, expected text.")
        if not text.strip():
            raise RequestError(
                f"The label {name!r} has no words: the model would have to answer nothing. Give it words: "
                f'labels={{{name!r}: "…", …}}.'
            )
    encoded = tokenizer.encode_batch(list(words.values()))
    seen: dict[bytes, str] = {}
    for (name, text), ids in zip(words.items(), encoded, strict=True):
        if tokenizer.unk_id in ids:
            raise RequestError(
                f"The label {name!r} is answered with {text!r}, which this vocabulary cannot write: it reads back as "
                f"{tokenizer.decode(ids)!r}. Give it other words."
            )
        other = seen.setdefault(ids.tobytes(), name)
        if other != name:
            raise RequestError(
                f"The labels {other!r} and {name!r} are the same tokens in this vocabulary: the model cannot tell them "
                "apart. Give one of them other words."
            )
    return LabelSet(words=words, token_ids=tuple(encoded))


def label_scores(runtime: Runtime, prompts: Sequence[np.ndarray], labels: LabelSet) -> np.ndarray:
    """Return the log-probability [N, K] float64 of each label's words after each prompt.

    Each distinct prompt is encoded once, and its cross-attention shared by all labels.
    Shapes: prompts [S_i] int32, EOS in. Raises: EngineError for scores that are not finite.
    """
    distinct = {ids.tobytes(): ids for ids in prompts}
    pairs = [(ids, target) for ids in distinct.values() for target in labels.token_ids]
    likelihoods = likelihoods_of(runtime, [ids for ids, _ in pairs], [target for _, target in pairs], no_progress)
    values: list[float] = []
    for likelihood in likelihoods:
        if isinstance(likelihood, T5kitError):
            raise likelihood
        values.append(likelihood.log_probability)
    num_labels = len(labels.token_ids)
    by_prompt = dict(zip(distinct, np.array(values).reshape(-1, num_labels), strict=True))
    if not prompts:
        return np.zeros((0, num_labels))
    return np.stack([by_prompt[ids.tobytes()] for ids in prompts])


def comparable(scores_NK: np.ndarray, labels: LabelSet, *, is_length_normalized: bool) -> np.ndarray:
    """Return the scores [N, K] that labels are compared by: a token's mean, or the sums as they stand."""
    return scores_NK / labels.lengths if is_length_normalized else scores_NK


def classifications(
    scores_NK: np.ndarray, labels: LabelSet, *, is_length_normalized: bool, calibration: Calibration | None
) -> list[Classification]:
    """Return what each row of scores says; of equal probabilities the label given first wins."""
    compared_NK = comparable(scores_NK, labels, is_length_normalized=is_length_normalized)
    probabilities_NK = softmax(compared_NK) if calibration is None else calibration.probabilities(compared_NK)
    names = labels.names
    return [
        Classification(
            label=names[int(row.argmax())],
            probabilities=dict(zip(names, row.tolist(), strict=True)),
            log_probabilities=dict(zip(names, scores.tolist(), strict=True)),
        )
        for row, scores in zip(probabilities_NK, scores_NK, strict=True)
    ]

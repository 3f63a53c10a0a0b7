"""Which of a few labels a text has, by how likely the model would answer each of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np

from t5kit.api.calibration import Calibration, softmax
from t5kit.api.prompting import answer_rule
from t5kit.errors import RequestError
from t5kit.evaluation.answering import log_probabilities
from t5kit.runtime import Runtime
from t5kit.text import CharacterRule, Tokenizer

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
    """Labels that a model can write and tell apart."""

    words: Mapping[str, str]
    """Label -> its words."""

    @property
    def names(self) -> list[str]:
        """The labels."""
        return list(self.words)

    def targets(self, prompts: Sequence[str], tokenizer: Tokenizer) -> list[list[np.ndarray]]:
        """Return the ids of every label's words for each prompt, [N][K] of [T] int32, EOS in.

        A prompt decides how its answers are written where the vocabulary has character rules; labels are encoded once
        for all prompts of one rule. Raises: RequestError naming the label that cannot be written.
        """
        by_rule: dict[CharacterRule | None, list[np.ndarray]] = {}
        targets = []
        for prompt in prompts:
            rule = answer_rule(prompt, tokenizer)
            if rule not in by_rule:
                by_rule[rule] = self._written(prompt, tokenizer)
            targets.append(by_rule[rule])
        return targets

    def _written(self, prompt: str, tokenizer: Tokenizer) -> list[np.ndarray]:
        encoded = tokenizer.encode_targets(list(self.words.values()), [prompt] * len(self.words))
        for (name, words), ids in zip(self.words.items(), encoded, strict=True):
            if tokenizer.unk_id in ids:
                raise RequestError(
                    f"The label {name!r} is answered with {words!r}, which this vocabulary cannot write: it "
                    f"reads back as {tokenizer.decode(ids)!r}. Give it other words."
                )
        return encoded


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
    label_words = LabelSet(words=words)
    seen: dict[bytes, str] = {}
    for name, ids in zip(words, label_words.targets([""], tokenizer)[0], strict=True):
        other = seen.setdefault(ids.tobytes(), name)
        if other != name:
            raise RequestError(
                f"The labels {other!r} and {name!r} are the same tokens in this vocabulary: the model cannot tell them "
                "apart. Give one of them other words."
            )
    return label_words


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelScores:
    """How likely each label is after each of N prompts."""

    log_probabilities: np.ndarray
    """[N, K] float64: natural, of a label's words, summed over its tokens, EOS included."""
    lengths: np.ndarray
    """[N, K] float64: tokens of a label's words, EOS included."""

    @classmethod
    def of_tokens(cls, token_log_probs: Sequence[Sequence[np.ndarray]]) -> Self:
        """Return the scores of [N][K] targets, each the natural log-probabilities [T] of its tokens."""
        return cls(
            log_probabilities=np.array(
                [[row.sum(dtype=np.float64) for row in rows] for rows in token_log_probs], np.float64
            ),
            lengths=np.array([[len(row) for row in rows] for rows in token_log_probs], np.float64),
        )

    def comparable(self, *, is_length_normalized: bool) -> np.ndarray:
        """Return the scores [N, K] that labels are compared by: a token's mean, or the sums as they stand."""
        return self.log_probabilities / self.lengths if is_length_normalized else self.log_probabilities


def label_scores(
    runtime: Runtime,
    prompts: Sequence[np.ndarray],
    targets: Sequence[Sequence[np.ndarray]],
    *,
    num_labels: int,
    max_cache_bytes: int | None = None,
) -> LabelScores:
    """Return the scores of every label's words after each prompt.

    Each distinct prompt is encoded once, and its cross-attention shared by all labels.
    Shapes: prompts [N] of [S_i] int32, EOS in; targets [N][K] of [T] int32. max_cache_bytes: as in `log_probabilities`.
    Raises: EngineError for scores that are not finite; RequestError for a prompt too large for max_cache_bytes.
    """
    places: dict[bytes, int] = {}
    for place, ids in enumerate(prompts):
        places.setdefault(ids.tobytes(), place)
    pairs = [(prompts[place], target) for place in places.values() for target in targets[place]]
    asked, answers = [ids for ids, _ in pairs], [target for _, target in pairs]
    values = log_probabilities(runtime, asked, answers, max_cache_bytes=max_cache_bytes)
    row_of = {key: row for row, key in enumerate(places)}
    rows = [row_of[ids.tobytes()] for ids in prompts]
    lengths = [[len(target) for target in targets[place]] for place in places.values()]
    return LabelScores(
        log_probabilities=np.array(values, np.float64).reshape(-1, num_labels)[rows],
        lengths=np.array(lengths, np.float64).reshape(-1, num_labels)[rows],
    )


def classifications(
    scores: LabelScores, names: Sequence[str], *, is_length_normalized: bool, calibration: Calibration | None
) -> list[Classification]:
    """Return what the scores say about each prompt; of equal probabilities the label given first wins."""
    compared_NK = scores.comparable(is_length_normalized=is_length_normalized)
    probabilities_NK = softmax(compared_NK) if calibration is None else calibration.probabilities(compared_NK)
    return [
        Classification(
            label=names[int(row.argmax())],
            probabilities=dict(zip(names, row.tolist(), strict=True)),
            log_probabilities=dict(zip(names, log_probabilities.tolist(), strict=True)),
        )
        for row, log_probabilities in zip(probabilities_NK, scores.log_probabilities, strict=True)
    ]

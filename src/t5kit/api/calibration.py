"""From a classifier's raw scores to probabilities that can be believed: a temperature and a bias for each label.

probabilities = softmax(score / temperature + bias). The bias takes away what a model prefers whatever the text says;
the temperature makes it as sure as it is right.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from t5kit.errors import DataError, RequestError

CONTENT_FREE_TEXTS = ("N/A", "", "[MASK]")
"""Texts that say nothing (Zhao et al. 2021, section 5)."""
_FORMAT = "t5kit calibration 1"
_MAX_BYTES = 50_000_000
_MAX_NEWTON_STEPS = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is done to the scores of one set of labels under one prompt before they become probabilities."""

    words: Mapping[str, str]
    """Label -> the words that stand for it in the model's answer."""
    prompt: str
    """The template it was made for."""
    is_length_normalized: bool
    """Whether scores are log-probabilities a token."""
    temperature: float
    """Scores are divided by it; > 0."""
    biases: Mapping[str, float]
    """Label -> what is added to its score after that, in nats."""
    source: str
    """How it came about, for people: "3 content-free texts", "120 labelled examples"."""

    def __post_init__(self) -> None:
        if not self.words or list(self.words) != list(self.biases):
            raise RequestError("A calibration needs one bias for each label, in the order of the labels.")
        values = [self.temperature, *self.biases.values()]
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            raise RequestError("A calibration holds a temperature or bias that is not a finite number.")
        if self.temperature <= 0:
            raise RequestError(f"A calibration's temperature = {self.temperature!r} must be above 0.")

    def probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        """Return probabilities [N, K] float64, each row summing to 1, of scores [N, K] in the order of the labels."""
        return softmax(scores_NK / self.temperature + np.array(list(self.biases.values())))

    def check_fits(self, words: Mapping[str, str], prompt: str, *, is_length_normalized: bool) -> None:
        """Raise RequestError unless it was made for these labels, words, prompt and kind of score."""
        for name, mine, asked in (
            ("labels", dict(self.words), dict(words)),
            ("prompt", self.prompt, prompt),
            ("is_length_normalized", self.is_length_normalized, is_length_normalized),
        ):
            if mine != asked:
                raise RequestError(
                    f"The calibration was made for {name} = {mine!r:.200}, and this call has {asked!r:.200}. Its "
                    "numbers mean nothing there: make a new one with Model.calibrate, or ask as it was made."
                )

    def ordered(self, words: Mapping[str, str]) -> "Calibration":
        """Return the same with the labels in the order of `words`."""
        return dataclasses.replace(self, words=dict(words), biases={label: self.biases[label] for label in words})

    def to_json(self) -> str:
        """Return it as JSON that people can read and `load` takes."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, ensure_ascii=False, indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file. Raises: OSError."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises: DataError naming the file if it is no such file."""
        path = Path(path)
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise DataError(f"{path} is too large for a calibration ({path.stat().st_size:,} bytes).")
            document: Any = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no JSON ({error}). Give a file that Calibration.save wrote.") from error
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise DataError(f"{path} is no calibration: its format is not {_FORMAT!r}.")
        names = {field.name for field in dataclasses.fields(cls)}
        if set(document) != names | {"format"}:
            raise DataError(f"{path} must hold exactly: format, {', '.join(sorted(names))}.")
        kinds = {"words": dict, "prompt": str, "is_length_normalized": bool, "biases": dict, "source": str}
        for name, kind in kinds.items():
            if not isinstance(document[name], kind):
                raise DataError(f"{path}: {name} is {type(document[name]).__name__}, expected {kind.__name__}.")
        if not all(isinstance(word, str) for word in document["words"].values()):
            raise DataError(f"{path}: words must map each label to text.")
        del document["format"]
        try:
            return cls(**document)
        except (RequestError, TypeError) as error:
            raise DataError(f"{path}: {error}") from error


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Return each row's softmax, float64."""
    shifted = logits_NK.astype(np.float64) - logits_NK.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    probabilities: np.ndarray = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def contextual_biases(content_free_scores_CK: np.ndarray) -> np.ndarray:
    """Return biases [K] under which the mean answer to content-free texts is no label rather than another.

    Shapes: scores [C, K]. Source: Zhao et al. 2021, "Calibrate before use", section 5: W = diag(p_cf)^-1, b = 0.

    >>> biases = contextual_biases(np.log([[0.8, 0.2]]))
    >>> softmax(np.log([[0.8, 0.2]]) + biases).round(3)
    array([[0.5, 0.5]])
    """
    mean_K = softmax(content_free_scores_CK).mean(axis=0)
    biases: np.ndarray = -np.log(np.maximum(mean_K, np.finfo(np.float64).tiny))
    return biases - biases.mean()


def fit_scaling(scores_NK: np.ndarray, right_N: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the temperature and biases [K] under which the right labels are likeliest.

    Maximises the log-likelihood under softmax(a * score + bias), which is concave in a = 1 / temperature and the
    biases, with a standard normal prior on (a - 1) and each bias, so that few or separable examples have an answer too.
    Newton's method with step halving; exact to 1e-9 in the gradient.
    Shapes: scores [N, K] finite, right [N] indices of the right labels.
    Raises: DataError if the best a is not positive: higher scores go with wrong labels.
    Source: Platt 1999; Guo et al. 2017 (temperature and vector scaling).
    """
    num_examples, num_labels = scores_NK.shape
    # Numerics: a row's mean changes no softmax, and without it a and the biases are far less entangled.
    scores_NK = scores_NK - scores_NK.mean(axis=1, keepdims=True)
    right_scores_N = scores_NK[np.arange(num_examples), right_N]
    counts_K = np.bincount(right_N, minlength=num_labels)
    prior_mean = np.zeros(num_labels + 1)
    prior_mean[0] = 1.0
    parameters = prior_mean.copy()  # a, then the biases

    def loss(values: np.ndarray) -> float:
        logits_NK = values[0] * scores_NK + values[1:]
        peaks_N = logits_NK.max(axis=1)
        log_sums_N = peaks_N + np.log(np.exp(logits_NK - peaks_N[:, None]).sum(axis=1))
        right = values[0] * right_scores_N.sum() + counts_K @ values[1:]
        return float(log_sums_N.sum() - right + 0.5 * ((values - prior_mean) ** 2).sum())

    for _ in range(_MAX_NEWTON_STEPS):
        probabilities_NK = softmax(parameters[0] * scores_NK + parameters[1:])
        means_N = (probabilities_NK * scores_NK).sum(axis=1)
        gradient = parameters - prior_mean
        gradient[0] += means_N.sum() - right_scores_N.sum()
        gradient[1:] += probabilities_NK.sum(axis=0) - counts_K
        if np.abs(gradient).max() < 1e-9 * max(1, num_examples):
            break
        hessian = np.eye(num_labels + 1)  # that of the prior
        deviations_NK = scores_NK - means_N[:, None]
        hessian[0, 0] += (probabilities_NK * deviations_NK**2).sum()
        hessian[0, 1:] = hessian[1:, 0] = (probabilities_NK * deviations_NK).sum(axis=0)
        hessian[1:, 1:] += np.diag(probabilities_NK.sum(axis=0)) - probabilities_NK.T @ probabilities_NK
        step = np.linalg.solve(hessian, gradient)
        before, size = loss(parameters), 1.0
        while loss(parameters - size * step) > before and size > 1e-10:
            size /= 2
        parameters = parameters - size * step
    if parameters[0] <= 0:
        raise DataError(
            f"Calibration failed on {num_examples} examples: labels with higher scores are right less often. Check "
            "that each example has its own label, and that the prompt and the words are those the model knows."
        )
    return 1.0 / float(parameters[0]), parameters[1:] - parameters[1:].mean()


def right_indices(targets: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return the index [N] of each target among the labels. Raises: DataError naming the first that is none."""
    places = {label: place for place, label in enumerate(labels)}
    for number, target in enumerate(targets):
        if target not in places:
            raise DataError(f"Example {number} has the label {target!r:.80}, expected one of: {', '.join(labels)}.")
    return np.array([places[target] for target in targets], np.int64)

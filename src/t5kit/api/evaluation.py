"""Model.evaluate: a loaded model's answers on anyone's data, scored."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from t5kit.api.arguments import GenerationArguments
from t5kit.errors import EngineError, RequestError, T5kitError
from t5kit.evaluation.answering import Answer, Likelihood, Progress, encoded_once, likelihoods_of
from t5kit.evaluation.config import RepeatedPrompts
from t5kit.evaluation.evaluator import Bootstrap, Scoring, evaluate, named_metrics, scoring_of
from t5kit.evaluation.examples import EvaluationSet, evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.evaluation.report import EvaluationReport
from t5kit.sources import MemoryTable, read_table
from t5kit.sources.records import Format
from t5kit.sources.tables import table_of
from t5kit.tasks import Task

if TYPE_CHECKING:
    from t5kit.api.model import Model

EvaluationData = str | Path | Iterable[Mapping[str, object] | tuple[str, str | Sequence[str]]] | Task
"""A file, glob or folder; rows of fields or of (input, target or targets); or a task."""

_NUMBERED = re.compile(r"^Text \d+ (?=\w)")

PROMPTS_AT_ONCE = 1024
"""Prompts of like length given to the scheduler together, so that progress can be told."""


class ModelAnswerer:
    """A Model as evaluation sees it: its own defaults, limits and options."""

    def __init__(self, model: "Model", *, truncate: bool, options: GenerationArguments) -> None:
        model.check_options(**options)
        self._model = model
        self._truncate = truncate
        self._options = options

    def answer(self, prompts: Sequence[str], progress: Progress) -> list[Answer | T5kitError]:
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        answers: list[Answer | T5kitError] = [Answer("")] * len(prompts)
        for start in range(0, len(order), PROMPTS_AT_ONCE):
            places = order[start : start + PROMPTS_AT_ONCE]
            found = self._model.try_generate(
                [prompts[place] for place in places], truncate=self._truncate, **self._options
            )
            for place, completions in zip(places, found, strict=True):
                if isinstance(completions, EngineError):
                    raise completions
                answers[place] = (
                    _without_number(completions)
                    if isinstance(completions, T5kitError)
                    else Answer.generated(
                        completions[0].text,
                        is_cut=completions[0].finish_reason == "length",
                        log_probability=math.fsum(completions[0].token_scores),
                    )
                )
            progress(len(places))
        return answers

    def likelihoods(
        self, prompts: Sequence[str], targets: Sequence[str], progress: Progress
    ) -> list[Likelihood | T5kitError]:
        return likelihoods_of(
            self._model.runtime,
            encoded_once(prompts, lambda texts: self._encode(texts, truncate=self._truncate)),
            self._encode(targets, truncate=False, prompts=prompts),
            progress,
            max_cache_bytes=self._model.max_cache_bytes,
        )

    def _encode(
        self, texts: Sequence[str], *, truncate: bool, prompts: Sequence[str] | None = None
    ) -> list[np.ndarray | T5kitError]:
        encoded = self._model._encode_each(texts, truncate=truncate, prompts=prompts)
        return [_without_number(ids) if isinstance(ids, T5kitError) else ids for ids in encoded]


def no_progress(number: int) -> None:
    """Tell nobody."""


def bootstrap_of(num_samples: int, confidence: float, seed: int) -> Bootstrap | None:
    """Return how intervals are made; None for 0 samples."""
    if num_samples == 0 and not isinstance(num_samples, bool):
        return None
    return Bootstrap(num_samples=num_samples, confidence=confidence, seed=seed)


def evaluate_model(
    model: "Model",
    examples: EvaluationSet,
    scoring: Scoring,
    *,
    truncate: bool,
    bootstrap: Bootstrap | None,
    progress: Progress,
    options: GenerationArguments,
) -> EvaluationReport:
    """Return a model's report on prepared examples. Raises: RequestError for a wrong option, before any work."""
    unused = [word for word, value in options.items() if value is not None and word != "adapter"]
    if unused and (scoring.choices or not scoring.metrics):
        why = "choices are compared" if scoring.choices else "perplexity compares given texts"
        raise RequestError(f"{', '.join(unused)}: {why}, nothing is generated. Drop these options.")
    answerer = ModelAnswerer(model, truncate=truncate, options=options)
    return evaluate(examples, answerer, scoring, bootstrap=bootstrap, progress=progress)


def examples_and_scoring(
    data: EvaluationData,
    metrics: Sequence[str] | None,
    *,
    input: str,
    target: str,
    format: Format | None,
    columns: Sequence[str] = (),
    encoding: str | None = None,
    split: str,
    repeated_prompts: RepeatedPrompts,
    reference_separator: str,
    choices: Sequence[str],
    is_length_normalized: bool,
    max_examples: int,
    seed: int,
    slice_by: Sequence[str] = (),
) -> tuple[EvaluationSet, Scoring]:
    """Return what `Model.evaluate` is asked about; its docstring explains the words.

    Raises: RequestError for words that are unknown, out of range, or without effect; DataError for unusable data.
    """
    if repeated_prompts not in get_args(RepeatedPrompts):
        raise RequestError(f"repeated_prompts = {repeated_prompts!r} must be one of: each, group.")
    for name, value in (("max_examples", max_examples), ("seed", seed)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise RequestError(f"{name} = {value!r} must be an integer of at least 0.")
    if isinstance(choices, str) or len(set(choices)) != len(choices) or len(choices) == 1:
        raise RequestError(f"choices = {choices!r} must be at least two different texts.")
    if is_length_normalized and not choices:
        raise RequestError("is_length_normalized has no effect without choices. Give those, or drop it.")
    words: dict[str, Any] = {"choices": choices, "is_length_normalized": is_length_normalized}
    if isinstance(data, Task):
        if input or target:
            raise RequestError("A task makes its own prompts; input and target are for files and rows. Drop them.")
        form, table = data.form, data.split(split)
    else:
        form, table = pair_form(input, target), _table(data, format, columns, encoding)
    if metrics is None:
        if not form.metrics:
            raise RequestError("metrics is missing; expected a list of names such as ['rouge'].")
        scoring = Scoring(metrics=named_metrics(form.metrics), read_prediction=form.read_prediction, **words)
    else:
        scoring = scoring_of(metrics, read_prediction=form.read_prediction, **words)
    examples = evaluation_set(
        form,
        table,
        repeated_prompts=repeated_prompts,
        reference_separator=reference_separator,
        max_examples=max_examples,
        seed=seed,
        slice_by=slice_by,
    )
    return examples, scoring


def _without_number(error: T5kitError) -> T5kitError:
    """Return the error without the text's number in its batch, which says nothing of the data."""
    return type(error)(_NUMBERED.sub("The text ", str(error)))


def _table(data: object, format: Format | None, columns: Sequence[str], encoding: str | None) -> MemoryTable:
    if isinstance(data, str | Path):
        return read_table(data, format=format, columns=columns, encoding=encoding)
    if not isinstance(data, Iterable) or isinstance(data, bytes | Mapping):
        raise RequestError(
            f"data is {type(data).__name__}; expected a file, rows of fields, pairs of (input, target), or a task."
        )
    if columns:
        raise RequestError("columns are names for files without a header, and the data are rows. Drop them.")
    return table_of(_rows(data), name="row")


def _rows(data: Iterable[object]) -> Iterator[Mapping[str, object]]:
    for number, row in enumerate(data, 1):
        if isinstance(row, Mapping):
            yield row
        elif isinstance(row, tuple | list) and len(row) == 2:
            yield {"input": row[0], "target": row[1]}
        else:
            raise RequestError(f"row {number} is {row!r:.60}; expected a mapping of fields, or (input, target).")

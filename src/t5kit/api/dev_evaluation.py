"""What a run looks at between its steps: the loss of the dev records, and the scores of what the model writes."""

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t5kit.checkpoint.atomic import write_file
from t5kit.data.batch import Batch
from t5kit.data.configured import evaluation_batches
from t5kit.decoding.faults import NOT_FINITE
from t5kit.errors import ConfigError, EngineError
from t5kit.evaluation.run_evaluator import RunEvaluator
from t5kit.metrics.named import is_lower_better
from t5kit.recipe import RunConfig
from t5kit.tasks.configured import DEV, OpenedTask
from t5kit.text import Tokenizer
from t5kit.training.config import BestIs

if TYPE_CHECKING:
    from t5kit.evaluation.report import EvaluationReport
    from t5kit.model.t5 import T5
    from t5kit.training.loss import LossSums
    from t5kit.training.step import TrainingStep

NUM_SAMPLES = 8
"""Answers of each task that are kept to be read."""
LONGEST_SHOWN = 2000
"""Characters of a sample's texts that are kept; a book is no sample."""


class DevEvaluation:
    """Step -> metrics: "loss", "token_accuracy", and the scores of each task's metrics, such as "wer".

    The loss is without smoothing and z-loss, so that runs which differ in those can be compared. With several tasks,
    "loss" and "token_accuracy" are of all target tokens together, and every task has its own besides: "g2p/loss".
    Tasks of running text have no scores.
    """

    def __init__(
        self,
        config: RunConfig,
        tasks: Sequence[OpenedTask],
        tokenizer: Tokenizer,
        model: "T5",
        step: "TrainingStep",
        *,
        samples: Path | None = None,
        prefix_ids: np.ndarray | None = None,
    ) -> None:
        """tasks: those without dev records are left out. samples: file for some answers of the last evaluation.

        Warns (UserWarning) of dev examples that the loss leaves out or sees cut, while the scores are of them whole.
        Raises: DataError if none of a task's dev records is good, or none fits; ConfigError for a training.best_metric
        that no evaluation will have, or whose best end is the other one.
        """
        self._samples = samples
        self._tasks = [task for task in tasks if DEV in task.task.splits]
        self._batches = {task.name: _dev_batches(config, task, tokenizer, prefix_ids) for task in self._tasks}
        self._model = model
        self._step = step
        answered = {task.name: task for task in self._tasks if task.objective is None}
        said = {name: words for name, words in config.evaluation.tasks.items() if name in answered}
        self._evaluator = RunEvaluator.prepare(
            {name: (task.task.form, task.task.split(DEV)) for name, task in answered.items()},
            tokenizer=tokenizer,
            config=dataclasses.replace(config.evaluation, tasks=said),
        )
        self._check_best_metric(config.training.best_metric, config.training.best_is)

    def __call__(self, step: int) -> Mapping[str, float]:
        """Return the metrics of the weights as they are after `step` updates."""
        sums = {name: self._loss_sums(batches) for name, batches in self._batches.items()}
        first, *others = sums.values()
        metrics = _means(sum(others, first))
        if len(sums) > 1:
            for task, own in sums.items():
                metrics |= {f"{task}/{name}": value for name, value in _means(own).items()}
        if self._evaluator.tasks:
            from t5kit.training.live_runtime import runtime_of

            runtime = runtime_of(self._model)
            try:
                reports = self._evaluator.reports(runtime)
            except EngineError as error:
                if NOT_FINITE not in str(error):
                    raise
                # The weights exploded: whether training goes on is for its own rules.
                warnings.warn(
                    f"the dev records cannot be answered after step {step}, so this evaluation has no scores. {error}",
                    UserWarning,
                    stacklevel=2,
                )
                return metrics | dict.fromkeys(self._evaluator.score_names(), math.nan)
            finally:
                runtime.close()
            metrics |= self._evaluator.scores(reports)
            self._write_samples(reports)
        return metrics

    def _write_samples(self, reports: "Mapping[str, EvaluationReport]") -> None:
        if self._samples is None:
            return
        lines = [
            {
                **({"task": task} if len(reports) > 1 else {}),
                "prompt": _shown(result.prompt),
                "references": _shown(" | ".join(result.references)),
                "prediction": _shown(result.prediction or ""),
            }
            for task, report in reports.items()
            for result in report.results[:NUM_SAMPLES]
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_file(self._samples, text.encode("utf-8", "replace"))

    def _check_best_metric(self, name: str, best_is: BestIs) -> None:
        """Raise ConfigError for a metric that no evaluation will have, or its wrong end: now, not after an hour."""
        known = self._score_names()
        if name not in known:
            raise ConfigError(
                f"training.best_metric = {name!r} is none of what the evaluations will give: {', '.join(known)}."
            )
        better = "lowest" if is_lower_better(name) else "highest"
        if best_is != better:
            raise ConfigError(f"training.best_is = {best_is!r}, but the best {name} is the {better}. Set that.")

    def _score_names(self) -> list[str]:
        """Return what `self(step)` will give."""
        names = ["loss", "token_accuracy"]
        if len(self._tasks) > 1:
            names += [f"{task.name}/{name}" for task in self._tasks for name in ("loss", "token_accuracy")]
        return names + self._evaluator.score_names()

    def _loss_sums(self, batches: Sequence[Batch]) -> "LossSums":
        first, *others = (self._step.evaluate(batch) for batch in batches)
        return sum(others, first)


def _shown(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} … ({len(text):,} characters)"


def _dev_batches(
    config: RunConfig, task: OpenedTask, tokenizer: Tokenizer, prefix_ids: np.ndarray | None
) -> tuple[Batch, ...]:
    most = config.evaluation.max_loss_examples
    made = evaluation_batches(config.data, task, tokenizer, max_examples=most, prefix_ids=prefix_ids)
    if made.num_truncated or made.num_dropped or made.num_bad:
        first = f", such as {made.bad[0].error}" if made.bad else "."
        warnings.warn(
            f"{task.name}: for the loss of the dev records, {made.num_truncated:,} examples are cut to "
            f"data.encoder_length or data.target_length, {made.num_dropped:,} left out; "
            f"{made.num_bad:,} records gave no example{first}",
            UserWarning,
            stacklevel=5,
        )
    return made.batches


def _means(sums: "LossSums") -> dict[str, float]:
    count = float(sums.count)
    return {
        "loss": float(sums.negative_log_likelihood_sum) / count,
        "token_accuracy": float(sums.correct_sum) / count,
    }

"""Evaluation of a run's tasks, again and again with weights that change: examples are chosen and encoded alike."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Self

from t5kit.decoding import DecodingOptions
from t5kit.errors import ConfigError, T5kitError
from t5kit.evaluation.answering import Answer, Likelihood, Progress, RuntimeAnswerer
from t5kit.evaluation.config import EvaluationConfig, TaskEvaluationConfig
from t5kit.evaluation.evaluator import Bootstrap, Scoring, evaluate, named_metrics, scoring_of
from t5kit.evaluation.examples import EvaluationSet, evaluation_set
from t5kit.evaluation.report import EvaluationReport
from t5kit.runtime import Runtime
from t5kit.sources import RecordTable
from t5kit.tasks import TaskForm
from t5kit.text import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PreparedTask:
    """One task's examples and what is asked about them."""

    examples: EvaluationSet
    scoring: Scoring
    score_names: tuple[str, ...]
    """What it will be given, by the names of its metrics' numbers."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RunEvaluator:
    """Evaluates whatever weights a runtime holds on the same examples.

    In training the runtime is `TorchRuntime.from_module(model)`, made anew for each evaluation, for it copies the
    weights as they are.
    """

    tasks: Mapping[str, PreparedTask]
    tokenizer: Tokenizer
    config: EvaluationConfig

    @classmethod
    def prepare(
        cls, tasks: Mapping[str, tuple[TaskForm, RecordTable]], *, tokenizer: Tokenizer, config: EvaluationConfig
    ) -> Self:
        """Return the evaluator of tasks, each a form and the records of one split (usually dev).

        A task without metrics, neither its own nor in config.tasks, is left out.
        Raises: ConfigError if config names a task that is not there; DataError if a task has no usable record, or its
        metrics cannot take its references; DependencyError if a metric's library is missing.
        """
        if unknown := sorted(set(config.tasks) - set(tasks)):
            raise ConfigError(f"evaluation.tasks.{unknown[0]}: there is no such task; there are: {', '.join(tasks)}.")
        prepared = {}
        for name, (form, table) in tasks.items():
            words = config.tasks.get(name, TaskEvaluationConfig())
            if not words.metrics and not form.metrics:
                continue
            examples = evaluation_set(
                form,
                table,
                repeated_prompts=words.repeated_prompts,
                reference_separator=words.reference_separator,
                max_examples=config.max_examples,
                seed=config.seed,
            )
            scoring = _scoring(form, words)
            silent = evaluate(examples, _Silence(), scoring)
            prepared[name] = PreparedTask(examples, scoring, tuple(silent.scores))
        return cls(prepared, tokenizer, config)

    def scores(self, reports: Mapping[str, EvaluationReport]) -> dict[str, float]:
        """Return every score of the tasks' reports: by its name alone where there is one task, else as TASK/NAME.

        Warns (UserWarning) of examples that could not be answered; they count as wrong.
        """
        scores: dict[str, float] = {}
        for task, report in reports.items():
            if report.num_unanswered:
                first = next(result for result in report.results if result.error is not None)
                warnings.warn(
                    f"{task}: {report.num_unanswered} examples could not be answered and count as wrong, first "
                    f"{first.place}: {first.error}",
                    UserWarning,
                    stacklevel=2,
                )
            scores |= {self._full_name(task, name): value for name, value in report.scores.items()}
        return scores

    def score_names(self) -> list[str]:
        """Return the names that `scores` gives, before there is any model to answer."""
        return [self._full_name(name, score) for name, task in self.tasks.items() for score in task.score_names]

    def _full_name(self, task: str, score: str) -> str:
        return score if len(self.tasks) == 1 else f"{task}/{score}"

    def reports(self, runtime: Runtime, *, bootstrap: Bootstrap | None = None) -> dict[str, EvaluationReport]:
        """Return every task's report, with intervals if bootstrap is given."""
        answerer = RuntimeAnswerer(
            runtime,
            self.tokenizer,
            DecodingOptions(
                num_beams=self.config.num_beams,
                length_penalty=self.config.length_penalty,
                max_new_tokens=self.config.max_new_tokens,
            ),
            max_input_tokens=self.config.max_input_tokens,
            batch_rows=self.config.batch_rows,
        )
        return {
            name: evaluate(task.examples, answerer, task.scoring, bootstrap=bootstrap)
            for name, task in self.tasks.items()
        }


class _Silence:
    """Answers nothing, and finds everything equally likely."""

    def answer(self, prompts: Sequence[str], progress: Progress) -> list[Answer | T5kitError]:
        return [Answer("") for _ in prompts]

    def likelihoods(
        self, prompts: Sequence[str], targets: Sequence[str], progress: Progress
    ) -> list[Likelihood | T5kitError]:
        return [Likelihood(-1.0, 1) for _ in prompts]


def _scoring(form: TaskForm, words: TaskEvaluationConfig) -> Scoring:
    if words.metrics:
        return scoring_of(
            words.metrics,
            choices=words.choices,
            is_length_normalized=words.is_length_normalized,
            read_prediction=form.read_prediction,
        )
    return Scoring(
        metrics=named_metrics(form.metrics),
        choices=words.choices,
        is_length_normalized=words.is_length_normalized,
        read_prediction=form.read_prediction,
    )

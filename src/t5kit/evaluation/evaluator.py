"""The evaluation itself: examples -> answers -> scores."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from t5kit.errors import RequestError, T5kitError
from t5kit.evaluation.answering import Answer, Answerer, Likelihood, Progress
from t5kit.evaluation.config import PERPLEXITY
from t5kit.evaluation.examples import EvaluationExample, EvaluationSet
from t5kit.evaluation.report import EvaluationReport, ExampleResult
from t5kit.metrics import Metric, metric_named
from t5kit.metrics.bootstrap import bootstrap_scores
from t5kit.metrics.classification import ClassificationReport, classification_report
from t5kit.metrics.items import ItemScores, joined_scores
from t5kit.metrics.likelihood import perplexity_items
from t5kit.metrics.named import item_scores, name_of
from t5kit.tasks.task import stripped


def _ignore(number: int) -> None:
    pass


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What is asked about a set of answers."""

    metrics: Mapping[str, Metric]
    """Text metrics by the name they have in reports."""
    asks_perplexity: bool = False
    """Whether the likelihood of the targets is asked for."""
    choices: tuple[str, ...] = ()
    """If given, an answer is the most likely of these texts, the first of those equally likely."""
    is_length_normalized: bool = False
    """Compare choices by their log-probability a token."""
    read_prediction: Callable[[str], str] = stripped
    """What metrics see of a prediction."""

    def __post_init__(self) -> None:
        if not self.metrics and not self.asks_perplexity:
            raise RequestError("No metric is asked for; expected at least one.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How sure the scores are: a percentile interval over resamplings of the examples."""

    num_samples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.num_samples, int) or self.num_samples < 1:
            raise RequestError(f"num_bootstrap_samples = {self.num_samples!r} must be an integer of at least 1.")
        if not 0.0 < self.confidence < 1.0:
            raise RequestError(f"confidence = {self.confidence!r} must be between 0 and 1, such as 0.95.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise RequestError(f"seed = {self.seed!r} must be an integer of at least 0.")

    def generator(self) -> np.random.Generator:
        """Return a fresh generator of the resamplings."""
        return np.random.Generator(np.random.Philox(self.seed))


def scoring_of(
    names: Sequence[str],
    *,
    choices: Sequence[str] = (),
    is_length_normalized: bool = False,
    read_prediction: Callable[[str], str] = stripped,
) -> Scoring:
    """Return the scoring by metrics' names, "perplexity" among them.

    Raises: RequestError for an unknown name, with the nearest one.
    """
    if isinstance(names, str):
        raise RequestError(f"metrics = {names!r} must be a list of names, such as [{names!r}].")
    return Scoring(
        metrics={name: metric_named(name) for name in dict.fromkeys(names) if name != PERPLEXITY},
        asks_perplexity=PERPLEXITY in names,
        choices=tuple(choices),
        is_length_normalized=is_length_normalized,
        read_prediction=read_prediction,
    )


def named_metrics(metrics: Sequence[Metric]) -> dict[str, Metric]:
    """Return metric functions by their names; a second one of a name becomes NAME_2."""
    named: dict[str, Metric] = {}
    for metric in metrics:
        name, number = name_of(metric), 2
        while name in named:
            name, number = f"{name_of(metric)}_{number}", number + 1
        named[name] = metric
    return named


def evaluate(
    examples: EvaluationSet,
    answerer: Answerer,
    scoring: Scoring,
    *,
    bootstrap: Bootstrap | None = None,
    progress: Progress = _ignore,
) -> EvaluationReport:
    """Return the scores of a model on the examples; each distinct prompt is answered once.

    bootstrap: None computes no intervals. An example that the model cannot answer counts with an empty prediction.
    Raises: DataError where a metric cannot take the references, DependencyError where its library is missing, both
    before anything is answered.
    """
    check_references(examples, scoring)
    predictions: list[Answer | T5kitError] | None = None
    if scoring.metrics:
        answered = _ranked if scoring.choices else _generated
        predictions = answered(examples.examples, answerer, scoring, progress)
    likelihoods = _target_likelihoods(examples.examples, answerer, progress) if scoring.asks_perplexity else None
    return _report(examples, scoring, predictions, likelihoods, bootstrap)


def check_references(examples: EvaluationSet, scoring: Scoring) -> None:
    """Raise now what a metric would say of the references, or of a missing library, after all answers are there."""
    references = [example.references for example in examples.examples]
    for metric in scoring.metrics.values():
        item_scores(metric, references, [""] * len(references))
    _classification(scoring, references, [""] * len(references))


def evaluate_predictions(
    examples: EvaluationSet,
    predictions: Sequence[str | Answer | T5kitError],
    scoring: Scoring,
    *,
    bootstrap: Bootstrap | None = None,
) -> EvaluationReport:
    """Return the scores of ready predictions, one for each example; an error stands for one that is missing.

    An Answer may say how likely the model found it.

    Raises: RequestError for perplexity, which only a model has, or for another number of predictions.
    """
    if scoring.asks_perplexity:
        raise RequestError("perplexity needs a model; predictions alone do not tell it. Drop it, or give a model.")
    if len(predictions) != len(examples.examples):
        raise RequestError(f"{len(predictions)} predictions were given for {len(examples.examples)} examples.")
    answers = [Answer(text) if isinstance(text, str) else text for text in predictions]
    return _report(examples, scoring, answers, None, bootstrap)


def _generated(
    examples: Sequence[EvaluationExample], answerer: Answerer, scoring: Scoring, progress: Progress
) -> list[Answer | T5kitError]:
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    answers = dict(zip(prompts, answerer.answer(prompts, progress), strict=True))
    return [answers[example.prompt] for example in examples]


def _ranked(
    examples: Sequence[EvaluationExample], answerer: Answerer, scoring: Scoring, progress: Progress
) -> list[Answer | T5kitError]:
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    choices = list(scoring.choices)
    likelihoods = iter(
        answerer.likelihoods(
            [prompt for prompt in prompts for _ in choices], [choice for _ in prompts for choice in choices], progress
        )
    )
    answers: dict[str, Answer | T5kitError] = {}
    for prompt in prompts:
        found = [next(likelihoods) for _ in choices]
        scores: list[float] = []
        for likelihood in found:
            if isinstance(likelihood, T5kitError):
                answers[prompt] = likelihood
                break
            scores.append(likelihood.log_probability / (likelihood.num_tokens if scoring.is_length_normalized else 1))
        else:
            best = int(np.argmax(scores))
            share = 1.0 / float(np.exp(np.array(scores) - scores[best]).sum())
            answers[prompt] = Answer(choices[best], False, _log_probability(found[best]), share)
    return [answers[example.prompt] for example in examples]


def _log_probability(found: Likelihood | T5kitError) -> float:
    assert isinstance(found, Likelihood)
    return found.log_probability


def _target_likelihoods(
    examples: Sequence[EvaluationExample], answerer: Answerer, progress: Progress
) -> list[Likelihood | T5kitError]:
    """Return the likelihood of every example's targets together."""
    flat = answerer.likelihoods(
        [example.prompt for example in examples for _ in example.targets],
        [target for example in examples for target in example.targets],
        progress,
    )
    parts = iter(flat)
    found: list[Likelihood | T5kitError] = []
    for example in examples:
        total: Likelihood | T5kitError = Likelihood(0.0, 0)
        for part in [next(parts) for _ in example.targets]:
            if isinstance(total, T5kitError):
                continue
            total = (
                part
                if isinstance(part, T5kitError)
                else Likelihood(total.log_probability + part.log_probability, total.num_tokens + part.num_tokens)
            )
        found.append(total)
    return found


def _report(
    examples: EvaluationSet,
    scoring: Scoring,
    predictions: Sequence[Answer | T5kitError] | None,
    likelihoods: Sequence[Likelihood | T5kitError] | None,
    bootstrap: Bootstrap | None,
) -> EvaluationReport:
    references = [example.references for example in examples.examples]
    texts = (
        None
        if predictions is None
        else [scoring.read_prediction(answer.text) if isinstance(answer, Answer) else "" for answer in predictions]
    )
    parts: dict[str, ItemScores] = {}
    if texts is not None:
        parts = {name: item_scores(metric, references, texts) for name, metric in scoring.metrics.items()}
    if likelihoods is not None:
        errors = [each for each in likelihoods if isinstance(each, T5kitError)]
        if len(errors) == len(likelihoods):
            raise errors[0]  # there is no perplexity of nothing
        known = [each if isinstance(each, Likelihood) else Likelihood(0.0, 0) for each in likelihoods]
        parts[PERPLEXITY] = perplexity_items(
            [each.log_probability for each in known], [each.num_tokens for each in known]
        )
    scores = joined_scores(parts)
    intervals = (
        {}
        if bootstrap is None
        else bootstrap_scores(
            scores, rng=bootstrap.generator(), num_samples=bootstrap.num_samples, confidence=bootstrap.confidence
        )
    )
    results = _results(examples.examples, texts, predictions, likelihoods, scores)
    return EvaluationReport(
        scores=scores.total(),
        intervals=intervals,
        num_records=examples.num_records,
        num_bad=examples.num_bad,
        num_repeated=examples.num_repeated,
        num_left_out=examples.num_left_out,
        num_unanswered=sum(result.error is not None for result in results),
        num_cut=sum(isinstance(answer, Answer) and answer.is_cut for answer in predictions or ()),
        bad=examples.bad,
        results=results,
        classification=_classification(scoring, references, texts),
        item_scores=scores,
        findings=examples.findings,
    )


def _results(
    examples: Sequence[EvaluationExample],
    texts: Sequence[str] | None,
    predictions: Sequence[Answer | T5kitError] | None,
    likelihoods: Sequence[Likelihood | T5kitError] | None,
    scores: ItemScores,
) -> tuple[ExampleResult, ...]:
    results = []
    for number, example in enumerate(examples):
        outcomes = [found[number] for found in (predictions, likelihoods) if found is not None]
        errors = [str(outcome) for outcome in outcomes if isinstance(outcome, T5kitError)]
        answer = None if predictions is None else predictions[number]
        told = answer if isinstance(answer, Answer) else Answer("")
        results.append(
            ExampleResult(
                prompt=example.prompt,
                references=example.references,
                prediction=None if texts is None else texts[number],
                place=example.place,
                scores={
                    name: float(column_N[number])
                    for name, column_N in scores.each.items()
                    if np.isfinite(column_N[number])  # the perplexity of a target that was not scored is not
                },
                error=errors[0] if errors else None,
                log_probability=told.log_probability,
                confidence=told.confidence,
                slices=example.slices,
            )
        )
    return tuple(results)


def _classification(
    scoring: Scoring, references: Sequence[Sequence[str]], texts: Sequence[str] | None
) -> ClassificationReport | None:
    if texts is None or "classification_f1" not in scoring.metrics:
        return None
    return classification_report(references, texts)

"""The metrics that a recipe or a command can name."""

import difflib
from collections.abc import Callable, Mapping, Sequence

from t5kit.errors import RequestError
from t5kit.metrics.answers import exact_match, exact_match_items, squad, squad_items
from t5kit.metrics.classification import (
    accuracy,
    accuracy_items,
    classification_f1,
    classification_f1_items,
    matthews,
    matthews_items,
)
from t5kit.metrics.correlation import correlations, correlations_items
from t5kit.metrics.error_rates import (
    pronunciation,
    pronunciation_items,
    word_error_rate,
    word_error_rate_items,
)
from t5kit.metrics.items import ItemScores, scores_by_recomputing
from t5kit.metrics.pairs import References
from t5kit.metrics.summarization import ROUGE_TYPES, rouge, rouge_items, rouge_stemmed, rouge_stemmed_items
from t5kit.metrics.tagging import entity_f1, entity_f1_items, set_f1, set_f1_items
from t5kit.metrics.translation import bleu, bleu_items, chrf, chrf_items

Metric = Callable[[References, Sequence[str]], dict[str, float]]
"""References and predictions -> named numbers."""

_PREPARED: Mapping[Metric, Callable[[References, Sequence[str]], ItemScores]] = {
    accuracy: accuracy_items,
    bleu: bleu_items,
    chrf: chrf_items,
    classification_f1: classification_f1_items,
    correlations: correlations_items,
    entity_f1: entity_f1_items,
    exact_match: exact_match_items,
    matthews: matthews_items,
    pronunciation: pronunciation_items,
    rouge: rouge_items,
    rouge_stemmed: rouge_stemmed_items,
    set_f1: set_f1_items,
    squad: squad_items,
    word_error_rate: word_error_rate_items,
}

METRICS: Mapping[str, Metric] = {metric.__name__: metric for metric in _PREPARED}

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "bleu": ("bleu",),
    "chrf": ("chrf",),
    "classification_f1": ("accuracy", "macro_f1", "micro_f1"),
    "correlations": ("pearson", "spearman"),
    "entity_f1": ("precision", "recall", "f1"),
    "exact_match": ("exact_match",),
    "matthews": ("matthews_correlation",),
    "pronunciation": ("wer", "per"),
    "rouge": ROUGE_TYPES,
    "rouge_stemmed": ROUGE_TYPES,
    "set_f1": ("precision", "recall", "f1"),
    "squad": ("exact_match", "f1"),
    "word_error_rate": ("wer", "cer"),
}

LOWER_IS_BETTER = frozenset({"cer", "loss", "per", "perplexity", "wer"})
"""Numbers that are better the lower they are; all others the higher."""


def is_lower_better(score: str) -> bool:
    """Say whether a score is better the lower it is, by the last part of its name: "wer", "pronunciation.wer",
    "g2p/wer".
    """
    return score.rpartition("/")[2].rpartition(".")[2] in LOWER_IS_BETTER


def metric_named(name: str) -> Metric:
    """Return a metric by its name; raises RequestError with the nearest or the known names."""
    if name in METRICS:
        return METRICS[name]
    holders = [metric for metric, numbers in _NUMBERS.items() if name in numbers]
    if holders:
        raise RequestError(f"{name!r} is a number of the metric {' and of '.join(map(repr, holders))}. Ask for that.")
    near = difflib.get_close_matches(name, METRICS, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise RequestError(f"There is no metric {name!r}.{hint} Known are: {', '.join(METRICS)}.")


def numbers_of(name: str) -> tuple[str, ...]:
    """Return the names of the numbers that a metric gives: "rouge" -> "rouge1", "rouge2", "rougeL", "rougeLsum"."""
    metric_named(name)
    return _NUMBERS[name]


def name_of(metric: Metric) -> str:
    """Return what to call a metric in a report: its function's name, arguments bound by functools.partial aside."""
    return str(getattr(getattr(metric, "func", metric), "__name__", type(metric).__name__))


def item_scores(metric: Metric, references: References, predictions: Sequence[str]) -> ItemScores:
    """Return a metric prepared for any choice of items; one that is not of this package is computed anew for each."""
    prepared = next((prepare for known, prepare in _PREPARED.items() if known is metric), None)
    if prepared is not None:
        return prepared(references, predictions)
    return scores_by_recomputing(metric, references, predictions)

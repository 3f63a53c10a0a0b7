"""The metrics that a recipe or a command can name."""

from collections.abc import Callable, Mapping, Sequence

from t5kit.errors import RequestError
from t5kit.metrics.answers import exact_match, squad
from t5kit.metrics.classification import accuracy, classification_f1, matthews
from t5kit.metrics.correlation import correlations
from t5kit.metrics.error_rates import pronunciation, word_error_rate
from t5kit.metrics.pairs import References
from t5kit.metrics.summarization import rouge, rouge_stemmed
from t5kit.metrics.tagging import entity_f1, set_f1
from t5kit.metrics.translation import bleu, chrf

Metric = Callable[[References, Sequence[str]], dict[str, float]]
"""References and predictions -> named numbers."""

METRICS: Mapping[str, Metric] = {
    metric.__name__: metric
    for metric in (
        accuracy,
        bleu,
        chrf,
        classification_f1,
        correlations,
        entity_f1,
        exact_match,
        matthews,
        pronunciation,
        rouge,
        rouge_stemmed,
        set_f1,
        squad,
        word_error_rate,
    )
}


def metric_named(name: str) -> Metric:
    """Return a metric by its name; raises RequestError with the known names."""
    if name not in METRICS:
        raise RequestError(f"There is no metric {name!r}. Known are: {', '.join(METRICS)}.")
    return METRICS[name]

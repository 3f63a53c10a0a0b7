"""Pure functions on strings and numbers. A text metric takes references (one or more accepted texts an item) and
predictions, and gives named numbers; shares and correlations are in percent, as the T5 paper prints them."""

from t5kit.metrics.named import METRICS, Metric, metric_named

__all__ = ["METRICS", "Metric", "metric_named"]

"""Records -> examples: tasks, mixtures, templates and self-supervised objectives."""

from t5kit.tasks.example import Example
from t5kit.tasks.example_sources import DenoisingExamples, ExampleBlock, ExampleSource, PairExamples
from t5kit.tasks.mixture import Mixture, proportional_rates, rates_by_name
from t5kit.tasks.task import Task, TaskForm
from t5kit.tasks.templates import Template, TextPair

__all__ = [
    "DenoisingExamples",
    "Example",
    "ExampleBlock",
    "ExampleSource",
    "Mixture",
    "PairExamples",
    "Task",
    "TaskForm",
    "Template",
    "TextPair",
    "proportional_rates",
    "rates_by_name",
]

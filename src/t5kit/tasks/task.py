"""Task: where its records come from, how each becomes prompt and target, and how the answers are scored."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from t5kit.errors import ConfigError, DataError, RequestError
from t5kit.metrics import Metric
from t5kit.sources import BadRecord, Record, RecordTable
from t5kit.tasks.templates import Fields, Template, TextPair


def as_it_is(fields: Fields) -> Fields:
    """Return the fields as they came: the preparation of records that fit their template."""
    return fields


def stripped(text: str) -> str:
    """Return a prediction without outer spaces."""
    return text.strip()


@dataclasses.dataclass(frozen=True)
class TaskForm:
    """A task without its data."""

    templates: tuple[Template, ...]
    """Several phrasings: training draws one for each record, evaluation takes the first."""
    metrics: tuple[Metric, ...] = ()
    prepare: Callable[[Fields], Fields] = as_it_is
    """Makes the templates' fields of a record's; raises DataError where it cannot. A plain function of a module, so
    that worker processes can be given it."""
    references_field: str | None = None
    """A prepared field with the list of all texts that count as right; None: the target alone."""
    draws_target: bool = False
    """Whether training draws one of the references as the target instead of taking the template's."""
    read_prediction: Callable[[str], str] = stripped
    """What metrics see of a generated text."""

    def __post_init__(self) -> None:
        if not self.templates:
            raise ConfigError("task.templates is empty; expected at least one template.")

    def pair(self, record: Record, *, rng: np.random.Generator | None = None) -> TextPair | BadRecord:
        """Return a record's pair: with rng by a drawn phrasing, without by the first. A bad record says why."""
        template = self.templates[int(rng.integers(len(self.templates)))] if rng is not None else self.templates[0]
        try:
            fields = self.prepare(record.fields)
            prompt, target = template.render(fields)
            references = (target,) if self.references_field is None else _texts(fields, self.references_field)
        except DataError as error:
            return BadRecord(place=record.place, error=f"{record.place}: {error}")
        if self.draws_target and rng is not None:
            target = references[int(rng.integers(len(references)))]
        return TextPair(prompt, target, references, record.place)

    def pairs(self, record: Record) -> list[TextPair]:
        """Return a record's pair by every phrasing, and with every target that training may draw; none if bad."""
        found = []
        for template in self.templates:
            pair = dataclasses.replace(self, templates=(template,)).pair(record)
            if isinstance(pair, TextPair):
                targets = pair.references if self.draws_target else (pair.target,)
                found += [dataclasses.replace(pair, target=target) for target in targets]
        return found

    def score(self, pairs: Sequence[TextPair], predictions: Sequence[str]) -> dict[str, float]:
        """Return all metrics of the predictions for these pairs. Raises: DataError if there are not as many."""
        references = [pair.references for pair in pairs]
        read = [self.read_prediction(text) for text in predictions]
        scores: dict[str, float] = {}
        for metric in self.metrics:
            scores.update(metric(references, read))
        return scores


@dataclasses.dataclass(frozen=True)
class Task:
    """A form with its records."""

    name: str
    form: TaskForm
    splits: Mapping[str, RecordTable]
    """By name, such as train, dev and test."""

    def split(self, name: str) -> RecordTable:
        """Return one split; raises RequestError with the known ones."""
        if name not in self.splits:
            raise RequestError(
                f"The task {self.name!r} has no split {name!r}; it has: {', '.join(self.splits) or 'none'}."
            )
        return self.splits[name]


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(text, str) for text in value):
        raise DataError(f"field {name!r} is {value!r:.60}, expected a list of at least one text.")
    return tuple(value)

"""Predictions that stand in a file: read beside the examples they are for, without a model.

JSON lines {"prompt", "prediction"} (as `t5kit evaluate --predictions` writes them) or {"input", "text"} (as `t5kit
generate --json` does), and TSV of prompt and prediction, are matched by prompt. One prediction a line, of any other
file, is matched by its place.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from t5kit.errors import DataError, RequestError, T5kitError
from t5kit.evaluation.answering import Answer
from t5kit.evaluation.examples import EvaluationSet
from t5kit.sources import BadRecord, Record, read_records
from t5kit.sources.records import Format, format_of
from t5kit.text.tokenizer import check_text

PROMPT_FIELDS = ("prompt", "input", "0")
PREDICTION_FIELDS = ("prediction", "text", "1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MatchedPredictions:
    """A file's predictions in the order of the examples."""

    predictions: tuple[str | Answer | T5kitError, ...]
    """An error stands where the file has none, an Answer where it tells how likely the model found its text."""
    num_unused: int
    """Lines of prompts that no example has."""
    bad: tuple[BadRecord, ...]
    """Lines that could not be read."""


def read_predictions(
    path: Path, examples: EvaluationSet, *, format: Format | None = None, encoding: str | None = None
) -> MatchedPredictions:
    """Return the predictions of a file for the examples.

    Of a prompt that stands in several lines the first counts, for all its examples; but where it has as many lines as
    examples, each line is for its own, in order. A name that tells no format is taken for text. A line that says
    "error" is no prediction. What the file lacks is an error in its place.
    Raises: DataError if the file cannot be read; RequestError if no prompt of it is an example's, or if predictions
    without prompts are not as many as the records.
    """
    records: list[Record] = []
    bad: list[BadRecord] = []
    for record in read_records(path, format=format or format_of(path) or "text", encoding=encoding):
        (records if isinstance(record, Record) else bad).append(record)  # type: ignore[arg-type]
    is_table = any("1" in record.fields for record in records)
    prompts = [_prompt(record, is_table=is_table) for record in records]
    without = [record for record, prompt in zip(records, prompts, strict=True) if prompt is None]
    if without and len(without) < len(records):
        raise DataError(
            f"{without[0].place}: this line has no prompt, others of the file have one. Give every line its own."
        )
    if records and not without:
        answers: dict[str, list[str | Answer | T5kitError]] = {}
        for prompt, record in zip(prompts, records, strict=True):
            answers.setdefault(str(prompt), []).append(_prediction(record, is_table=is_table))
        return _by_prompt(path, answers, bad, examples)
    return _by_place(path, records, bad, examples)


def examples_of_predictions(
    path: Path, *, format: Format | None = None, encoding: str | None = None
) -> Iterable[Mapping[str, object]]:
    """Yield {"prompt", "references"} of each line of a predictions file that holds its own references, and its slices.

    A slice may have any name, such as "target": ask for "prompt" and "references" by theirs.
    Raises: DataError for a line that has none.
    """
    for record in read_records(path, format=format, encoding=encoding):
        if isinstance(record, BadRecord):
            raise DataError(f"{record.error} Mend it, or name the data it belongs to.")
        if "references" not in record.fields or "prompt" not in record.fields:
            raise DataError(
                f"{record.place}: has no fields 'prompt' and 'references', so what would be right is not known. Name "
                "the data that the predictions are for."
            )
        slices = record.fields.get("slices")
        known = {str(name): value for name, value in slices.items()} if isinstance(slices, Mapping) else {}
        yield {**known, "prompt": record.fields["prompt"], "references": record.fields["references"]}


def _by_prompt(
    path: Path, found: Mapping[str, list[str | Answer | T5kitError]], bad: list[BadRecord], examples: EvaluationSet
) -> MatchedPredictions:
    wanted = collections.Counter(example.prompt for example in examples.examples)
    if not wanted.keys() & found.keys():
        raise RequestError(
            f"{path}: none of its {len(found)} prompts is one of the data. Its first is {next(iter(found))!r:.80}, "
            f"the data's {examples.examples[0].prompt!r:.80}."
        )
    missing = DataError(f"{path} has no prediction for this prompt.")
    turns = {prompt: iter(lines) for prompt, lines in found.items() if len(lines) == wanted[prompt]}
    first = {prompt: lines[0] for prompt, lines in found.items()}
    return MatchedPredictions(
        predictions=tuple(
            next(turns[example.prompt]) if example.prompt in turns else first.get(example.prompt, missing)
            for example in examples.examples
        ),
        num_unused=sum(prompt not in wanted for prompt in found),
        bad=tuple(bad),
    )


def _by_place(path: Path, records: list[Record], bad: list[BadRecord], examples: EvaluationSet) -> MatchedPredictions:
    if bad:
        raise DataError(f"{bad[0].error} Predictions without prompts are matched by place, so none may be missing.")
    if examples.num_bad or len(records) != examples.num_records:
        raise RequestError(
            f"{path} holds {len(records)} predictions without prompts, the data {examples.num_records} records, "
            f"{examples.num_bad} of them bad; they can only be matched if every record is good and has one. Give "
            "prompts too: TSV of prompt and prediction, or JSON lines."
        )
    predictions = tuple(_prediction(records[example.index], is_table=False) for example in examples.examples)
    return MatchedPredictions(predictions=predictions, num_unused=0, bad=())


def _prompt(record: Record, *, is_table: bool) -> str | None:
    """Return the prompt that a line names; a table of one column has none."""
    names = PROMPT_FIELDS if is_table else PROMPT_FIELDS[:-1]
    name = next((name for name in names if name in record.fields), None)
    return None if name is None else _text(record, name)


def _prediction(record: Record, *, is_table: bool) -> str | Answer | T5kitError:
    """Return a line's prediction; in a table of prompts a line without a second column predicts nothing."""
    if record.fields.get("error") is not None:
        return DataError(str(record.fields["error"]))
    name = next((name for name in PREDICTION_FIELDS if name in record.fields), None)
    if name is None and "0" in record.fields:
        return "" if is_table else _text(record, "0")
    if name is None:
        present = ", ".join(list(record.fields)[:8])
        raise DataError(f"{record.place}: has no field {PREDICTION_FIELDS[0]!r}; it has: {present}.")
    text = _text(record, name)
    log_probability, confidence = _log_probability(record), _number(record.fields.get("confidence"))
    if confidence is not None and not 0.0 <= confidence <= 1.0:
        raise DataError(f"{record.place}: confidence = {confidence} must be between 0 and 1.")
    if confidence is None and log_probability is not None:
        return Answer.generated(text, is_cut=False, log_probability=log_probability)
    return text if confidence is None else Answer(text, False, log_probability, confidence)


def _log_probability(record: Record) -> float | None:
    """Return what a line tells: "log_probability", or the sum of "token_scores" (`t5kit generate --json`)."""
    scores = record.fields.get("token_scores")
    if "log_probability" in record.fields or not isinstance(scores, list):
        return _number(record.fields.get("log_probability"))
    found = [_number(score) for score in scores]
    return None if None in found else math.fsum(score for score in found if score is not None)


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _text(record: Record, name: str) -> str:
    value = record.fields[name]
    if not isinstance(value, str):
        raise DataError(f"{record.place}: field {name!r} is {type(value).__name__}, expected text.")
    try:
        check_text(value)
    except RequestError as error:
        raise DataError(f"{record.place}: {error}") from error
    return value

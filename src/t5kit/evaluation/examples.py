"""Records -> what is asked and what counts as right, each prompt with all of its references."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from t5kit.errors import DataError, RequestError
from t5kit.evaluation.config import RepeatedPrompts
from t5kit.evaluation.pair_form import PairColumns, is_empty
from t5kit.sources import BadRecord, MemoryTable, RecordTable
from t5kit.sources.records import header_hint
from t5kit.sources.tables import NUM_SHOWN
from t5kit.tasks import TaskForm, TextPair
from t5kit.tasks.task import stripped
from t5kit.text.tokenizer import check_text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationExample:
    """One prompt to be answered, which counts once."""

    prompt: str
    references: tuple[str, ...]
    """Texts that count as right, at least one."""
    targets: tuple[str, ...]
    """What its records hold as their target, whole, one a record: what perplexity is about."""
    index: int
    """Of its first record in the table."""
    place: str
    """Of its first record."""
    slices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of its first record: column -> value, for the columns that scores are asked by."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """Examples, and what became of all records."""

    examples: tuple[EvaluationExample, ...]
    num_records: int
    """Records read, bad ones among them."""
    num_repeated: int
    """Records whose prompt an earlier record has too."""
    num_left_out: int
    """Examples beyond max_examples."""
    num_bad: int
    bad: tuple[BadRecord, ...]
    """The first of the bad records."""
    findings: tuple[str, ...] = ()
    """What is strange about records that count nevertheless, a sentence each."""


def evaluation_set(
    form: TaskForm,
    table: RecordTable,
    *,
    repeated_prompts: RepeatedPrompts = "each",
    reference_separator: str = "",
    max_examples: int = 0,
    seed: int = 0,
    slice_by: Sequence[str] = (),
) -> EvaluationSet:
    """Return the examples of a table by a form's first phrasing, in the table's order.

    repeated_prompts, reference_separator: as in TaskEvaluationConfig. max_examples: so many are drawn by the seed (0:
    all are taken); more of them by the same seed hold the fewer. slice_by: columns whose values are kept, to score by
    them; a record that lacks one has "" there. Bad records, those that reading the table found among them, are counted
    and kept with their places. Prompts and targets of a `pair_form` that are empty count, and are findings.
    Raises: DataError if no record gives an example; RequestError for a column that no record has.
    """
    bad: list[BadRecord] = []
    pairs: list[tuple[int, TextPair]] = []
    for index in range(len(table)):
        pair = _checked(form.pair(table[index]))
        if isinstance(pair, TextPair):
            pairs.append((index, pair))
        else:
            bad.append(pair)
    num_bad, first_bad = len(bad), bad
    if isinstance(table, MemoryTable):
        num_bad += table.report.num_bad
        first_bad = [*table.report.bad, *bad]
    if not pairs:
        hint = header_hint(first_bad[0].place) if "has no field" in first_bad[0].error else ""
        raise DataError(f"no record can be evaluated; {num_bad} are bad, first: {first_bad[0].error}{hint}")
    if form.read_prediction is stripped:
        pairs = [(index, _without_spaces_around(pair)) for index, pair in pairs]
    found = _examples(pairs, is_grouped=repeated_prompts == "group", separator=reference_separator)
    chosen = _chosen(len(found), max_examples, seed)
    return EvaluationSet(
        examples=tuple(_with_slices([found[index] for index in chosen], table, slice_by)),
        num_records=len(pairs) + num_bad,
        num_repeated=len(pairs) - len({pair.prompt for _, pair in pairs}),
        num_left_out=len(found) - len(chosen),
        num_bad=num_bad,
        bad=tuple(first_bad[:NUM_SHOWN]),
        findings=tuple(_of_empty(form, pairs, table)),
    )


def _of_empty(form: TaskForm, pairs: Sequence[tuple[int, TextPair]], table: RecordTable) -> list[str]:
    """Return what is to be said of prompts and targets with nothing in them; a ready task may well make such."""
    columns = form.prepare
    if not isinstance(columns, PairColumns):
        return []
    prompts = [pair.place for n, pair in pairs if is_empty(columns.input, table[n].fields, pair.prompt)]
    targets = [pair.place for n, pair in pairs if is_empty(columns.target, table[n].fields, "".join(pair.references))]
    found = []
    for name, places, what in (
        ("prompt", prompts, "the model is asked nothing there"),
        ("target", targets, "an answer is right there only if it is empty too"),
    ):
        if places:
            found.append(
                f"{len(places):,} of {len(pairs):,} records have an empty {name}, first {places[0]}. They count; "
                f"{what}. If that is not meant, mend or remove them."
            )
    return found


def _with_slices(
    examples: list[EvaluationExample], table: RecordTable, columns: Sequence[str]
) -> list[EvaluationExample]:
    """Return the examples with the values of these columns in their records."""
    if isinstance(columns, str):
        raise RequestError(f"slice_by = {columns!r} must be a list of columns, such as [{columns!r}].")
    if not columns:
        return examples
    fields = [table[example.index].fields for example in examples]
    for column in columns:
        if not any(column in each for each in fields):
            known = ", ".join(list(fields[0])[:8]) or "none"
            raise RequestError(f"slice_by names {column!r}, a column that no record has; there are: {known}.")
    return [
        dataclasses.replace(example, slices={column: _slice_text(each.get(column)) for column in columns})
        for example, each in zip(examples, fields, strict=True)
    ]


def _slice_text(value: object) -> str:
    """Return a value as the name of a slice: lone surrogates, which no page can hold, are replaced."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8").strip()


def _checked(pair: TextPair | BadRecord) -> TextPair | BadRecord:
    """Return the pair, or why its texts are none: half of a surrogate pair can neither be encoded nor written."""
    if isinstance(pair, BadRecord):
        return pair
    try:
        for text in (pair.prompt, pair.target, *pair.references):
            check_text(text)
    except RequestError as error:
        return BadRecord(place=pair.place, error=f"{pair.place}: {error}")
    return pair


def _without_spaces_around(pair: TextPair) -> TextPair:
    return dataclasses.replace(pair, references=tuple(text.strip() for text in pair.references))


def _examples(pairs: Sequence[tuple[int, TextPair]], *, is_grouped: bool, separator: str) -> list[EvaluationExample]:
    groups: dict[str | int, list[tuple[int, TextPair]]] = {}
    for index, pair in pairs:
        groups.setdefault(pair.prompt if is_grouped else index, []).append((index, pair))
    examples = []
    for group in groups.values():
        index, first = group[0]
        references = [text for _, pair in group for text in pair.references]
        examples.append(
            EvaluationExample(
                prompt=first.prompt,
                references=tuple(
                    dict.fromkeys(accepted for text in references for accepted in _alternatives(text, separator))
                ),
                targets=tuple(pair.target for _, pair in group),
                index=index,
                place=first.place,
            )
        )
    return examples


def _alternatives(text: str, separator: str) -> list[str]:
    """Return the texts that a reference stands for: "was/were" -> "was", "were"; a text of separators alone stays."""
    if not separator:
        return [text]
    return [part.strip() for part in text.split(separator) if part.strip()] or [text]


def _chosen(num_found: int, max_examples: int, seed: int) -> list[int]:
    if max_examples == 0 or max_examples >= num_found:
        return list(range(num_found))
    order = np.random.Generator(np.random.Philox(seed)).permutation(num_found)
    return sorted(order[:max_examples].tolist())

"""Any file with prompts and right answers as a task form, by column names or templates."""

import dataclasses
import math
import string
from typing import ClassVar

from t5kit.errors import DataError
from t5kit.tasks import TaskForm, Template
from t5kit.tasks.templates import Fields, check_template

INPUT_COLUMNS = ("input", "source", "prompt")
"""Where the prompt is looked for if nothing is said; the first that a record has."""
TARGET_COLUMNS = ("target", "references")
"""The same for what is right."""


@dataclasses.dataclass(frozen=True, slots=True)
class PairColumns:
    """Makes {"prompt", "target", "references"} of a record.

    input, target: the name of a field, a template such as "summarize: {text}", or "" for the usual names. The first two
    columns of a file without a header are input and target, besides their numbers "0" and "1". A target field
    ("answers", or "{answers}" and nothing else) may be a list of texts, which then all count as right.
    """

    input: str = ""
    target: str = ""

    usual: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (INPUT_COLUMNS, TARGET_COLUMNS)

    def __call__(self, fields: Fields) -> Fields:
        """Return the prepared fields. Raises: DataError naming the field that is missing or no text."""
        if self.has_numbers_for_names(fields):
            fields = {**fields, **dict(zip(("input", "target"), fields.values(), strict=False))}
        inputs, targets = self.usual
        (prompt, *others) = _texts(fields, self.input, inputs)
        if others:
            raise DataError(f"field {self.input or inputs[0]!r} is a list, expected one text.")
        references = _texts(fields, self.target, targets)
        return {"prompt": prompt, "target": references[0], "references": references}

    @staticmethod
    def has_numbers_for_names(fields: Fields) -> bool:
        """Say whether a record is of a file without a header, whose first column is "0"."""
        return next(iter(fields), "") == "0"


def pair_form(input: str = "", target: str = "") -> TaskForm:
    """Return the form of records with a prompt and a target; see PairColumns.

    Raises: ConfigError for a template that is none.
    """
    for name, word in (("input", input), ("target", target)):
        if "{" in word:
            check_template(name, word)
    return TaskForm(
        (Template("{prompt}", "{target}"),), prepare=PairColumns(input, target), references_field="references"
    )


def is_empty(word: str, fields: Fields, text: str) -> bool:
    """Say whether there is nothing in a record's text, or in any field that its template names."""
    names = template_fields(word) if "{" in word else []
    values = [fields[name] for name in names if name in fields]
    return not text.strip() or bool(values and not any(str(value).strip() for value in values))


def template_fields(template: str) -> list[str]:
    """Return the names of the fields in a template: "{a}: {b}" -> "a", "b"."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def _texts(fields: Fields, word: str, usual: tuple[str, ...]) -> list[str]:
    """Return the texts that a word stands for in a record: one, or those of a field that is a list."""
    if "{" in word:
        names = template_fields(word)
        for name in names:
            _check_no_nan(name, fields.get(name))
        if [word] != [f"{{{name}}}" for name in names] or not isinstance(fields.get(names[0]), list | tuple):
            return [Template(word, "").render(fields)[0]]
        word = names[0]  # a list by itself
    name = word or next((name for name in usual if name in fields), usual[0])
    if name not in fields:
        present = ", ".join(list(fields)[:8]) or "none"
        hint = "" if word else f" Say which field is the {name} ({name}=, --{name})."
        raise DataError(f"has no field {name!r}; it has: {present}.{hint}")
    value = fields[name]
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(text, str | int | float) for text in values):
        raise DataError(f"field {name!r} is {value!r:.60}, expected text, a number, or a list of at least one text.")
    for each in values:
        _check_no_nan(name, each)
    return [str(text) for text in values]


def _check_no_nan(name: str, value: object) -> None:
    """Raise DataError for NaN, which pandas and Parquet have where a cell is empty."""
    if isinstance(value, float) and math.isnan(value):
        raise DataError(f"field {name!r} is NaN, which stands for an empty cell; expected text or a number.")

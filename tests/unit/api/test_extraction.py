"""Facts out of texts, by `Model.extract`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t5kit import Model
from t5kit.errors import DataError, RequestError
from t5kit.tasks.linear_form import linearize

SCHEMA: Any = {"name": str, "kind": ["cat", "dog"]}
FACTS = {
    "Ada has a cat": {"name": "Ada", "kind": "cat"},
    "Bob has a dog": {"name": "Bob", "kind": "dog"},
}
TEXTS = list(FACTS)


@pytest.fixture(scope="module")
def taught(tiny_folder: Path) -> Iterator[Model]:
    """A tiny model that has learned the lines by heart."""
    pairs = [(text, linearize(facts, SCHEMA)) for text, facts in FACTS.items()] * 16
    with Model.from_pretrained(tiny_folder, engine="reference") as model:
        with pytest.warns(UserWarning, match="too few"):
            model.fit(pairs, lr=1e-2, batch_tokens=512, num_steps=60, threads=1, precision="float32", progress=False)
        yield model


def test_a_text_without_words_has_no_optional_fields_and_names_itself_where_one_is_required(taught: Model) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}}}
    many = taught.extract(["...", "Ada has 2"], schema, method="fields", max_new_tokens=8)
    assert many[0].value is not None and "a" not in many[0].value and "a" in (many[1].value or {"a": 1})
    assert taught.extract("...", {**schema, "properties": {"a": {"type": "string"}}}, method="fields").value == {}
    with pytest.raises(DataError, match="Text 1: The text holds no word to copy"):
        taught.extract(["Ada", "..."], {**schema, "required": ["a"]}, method="fields", max_new_tokens=8)


@pytest.mark.parametrize("is_copied", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "length_penalty": 1.0}])
def test_a_line_that_is_valid_already_is_not_changed(taught: Model, is_copied: bool, options: dict[str, Any]) -> None:
    free = taught.generate(TEXTS, details=True, **options)
    assert [answer.text for answer in free] == [linearize(facts, SCHEMA) for facts in FACTS.values()]
    found = taught.extract(TEXTS, SCHEMA, prompt="{text}", is_copied=is_copied, **options)
    assert [each.line for each in found] == [answer.text for answer in free]  # of bytes, so the ids are equal too
    assert [each.value for each in found] == list(FACTS.values())
    assert [each.score for each in found] == pytest.approx([answer.score for answer in free], abs=1e-4)


@pytest.mark.parametrize("words", [{"forbid_copy": True}, {"forbidden_outputs": ["name: a"]}, {"regex": "a"}])
def test_what_the_schema_says_is_no_option(tiny_folder: Path, words: dict[str, Any]) -> None:
    with (
        Model.from_pretrained(tiny_folder) as model,
        pytest.raises(RequestError, match=f"extract takes no {next(iter(words))}"),
    ):
        model.extract("a text", {"name": str}, **words)


def test_words_that_truncate_leaves_out_are_not_copied(tiny_folder: Path) -> None:
    schema = {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2, "maxItems": 2}
    with Model.from_pretrained(tiny_folder, engine="reference", max_input_tokens=4) as model:
        found = model.extract(["Ada Bob Eve", "Eve Ada Bob"], schema, prompt="{text}", truncate=True)
        assert [each.value for each in found] == [["Ada", "Ada"], ["Eve", "Eve"]]

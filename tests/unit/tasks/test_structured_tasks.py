import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.errors import RequestError
from t5kit.sources import BadRecord, Record
from t5kit.tasks.structured_tasks import STRUCTURED_TASKS, entities_of_tags, items_of, items_text, structured_task

CASES = [
    (
        "named_entities",
        {"text": "Ada saw Paris", "entities": [{"text": "Ada", "type": "person"}, {"text": "Paris", "type": "place"}]},
        "extract entities: Ada saw Paris",
        "Ada | person; Paris | place",
    ),
    (
        "named_entities",
        {"tokens": ["Ada", "King", "saw", "it"], "tags": ["B-PER", "I-PER", "O", "O"]},
        "extract entities: Ada King saw it",
        "Ada King | PER",
    ),
    ("named_entities", {"text": "It rains", "entities": []}, "extract entities: It rains", "none"),
    (
        "relations",
        {"text": "Ada lives in Paris", "relations": [{"head": "Ada", "relation": "lives in", "tail": "Paris"}]},
        "extract relations: Ada lives in Paris",
        "Ada | lives in | Paris",
    ),
    (
        "semantic_roles",
        {"text": "Ada ate soup", "predicate": "ate", "arguments": [{"role": "A0", "text": "Ada"}]},
        "label roles: ate in: Ada ate soup",
        "A0 | Ada",
    ),
    (
        "question_answering",
        {"question": "Who?", "context": "Ada.", "answers": ["Ada", "Ada K."]},
        "question: Who? context: Ada.",
        "Ada",
    ),
    ("dialogue", {"turns": ["Hi", "Hello", "Well?"]}, "reply: A: Hi B: Hello A:", "Well?"),
    (
        "dialogue",
        {"turns": [{"speaker": "Ada", "text": "Hi"}, {"speaker": "Bo", "text": "Hello"}]},
        "reply: Ada: Hi Bo:",
        "Hello",
    ),
    (
        "table_to_text",
        {"header": ["name", "age"], "rows": [["Ada", 36], ["Bo", 4]], "text": "Ada is older."},
        "describe table: columns: name | age row 1: Ada | 36 row 2: Bo | 4",
        "Ada is older.",
    ),
    (
        "table_question",
        {"json": '{"name": "Ada", "born": {"year": 1815}, "tags": ["a", "b"]}', "question": "When?", "answer": "1815"},
        "question: When? table: name: Ada | born year: 1815 | tags: a, b",
        "1815",
    ),
    ("correction", {"wrong": "teh", "right": "the"}, "correct: teh", "the"),
    ("keywords_to_text", {"keywords": ["cat", "mat"], "text": "A cat."}, "write a sentence with: cat, mat", "A cat."),
]


@pytest.mark.parametrize(("name", "fields", "prompt", "target"), CASES)
def test_structures_become_text(name: str, fields: dict[str, object], prompt: str, target: str) -> None:
    pair = structured_task(name).pair(Record(fields=fields, place="f:1"))
    assert not isinstance(pair, BadRecord), pair
    assert (pair.prompt, pair.target) == (prompt, target)


@pytest.mark.parametrize(("name", "fields", "prompt", "target"), CASES)
def test_a_record_without_its_fields_is_bad(name: str, fields: dict[str, object], prompt: str, target: str) -> None:
    for missing in fields:
        rest = {key: value for key, value in fields.items() if key != missing}
        assert isinstance(structured_task(name).pair(Record(fields=rest, place="f:1")), BadRecord), missing


@pytest.mark.parametrize("fields", [{"rows": [[1]], "header": ["a", "b"]}, {"json": "[1]"}, {"json": "{"}, {"rows": 3}])
def test_odd_tables_are_bad_records(fields: dict[str, object]) -> None:
    record = Record(fields={**fields, "text": "t"}, place="f:1")
    assert isinstance(structured_task("table_to_text").pair(record), BadRecord)


def test_every_form_is_tried_and_can_go_to_a_worker() -> None:
    assert {name for name, *_ in CASES} == STRUCTURED_TASKS.keys()
    for form in STRUCTURED_TASKS.values():
        pickle.loads(pickle.dumps(form))
    with pytest.raises(RequestError, match="relations"):
        structured_task("relation")


words = st.text("abc é", min_size=1).map(lambda text: " ".join(text.split())).filter(bool)


@given(st.lists(st.tuples(words, words)))
def test_items_are_read_back_as_written(items: list[tuple[str, str]]) -> None:
    assert items_of(items_text(items)) == items


@given(st.text())
def test_any_generated_text_can_be_read(text: str) -> None:
    items_of(text)


def test_tags_give_entities_even_where_an_inside_tag_starts_one() -> None:
    tags = ["I-X", "B-X", "I-X", "I-Y", "O", "I-Y"]
    assert entities_of_tags(list("abcdef"), tags) == [("a", "X"), ("b c", "X"), ("d", "Y"), ("f", "Y")]

"""The paper's tasks on small records: prompts and targets to the letter."""

import pickle

import pytest

from t5kit.errors import RequestError
from t5kit.sources import BadRecord, Record
from t5kit.tasks.paper_tasks import PAPER_TASKS, pad_punctuation, paper_task

CASES = [
    ("glue/cola", {"sentence": "Fine.", "label": 1, "idx": 0}, "cola sentence: Fine.", "acceptable"),
    ("glue/cola", {"sentence": "Fine.", "label": -1}, "cola sentence: Fine.", "<unk>"),
    ("glue/sst2", {"sentence": "bad", "label": 0}, "sst2 sentence: bad", "negative"),
    ("glue/mrpc", {"sentence1": "a", "sentence2": "b", "label": 0}, "mrpc sentence1: a sentence2: b", "not_equivalent"),
    ("glue/qqp", {"question1": "a", "question2": "b", "label": 1}, "qqp question1: a question2: b", "duplicate"),
    ("glue/stsb", {"sentence1": "a", "sentence2": "b", "label": 3.75}, "stsb sentence1: a sentence2: b", "3.8"),
    ("glue/stsb", {"sentence1": "a", "sentence2": "b", "label": 5}, "stsb sentence1: a sentence2: b", "5.0"),
    ("glue/mnli", {"premise": "p", "hypothesis": "h", "label": 2}, "mnli hypothesis: h premise: p", "contradiction"),
    ("glue/qnli", {"question": "q", "sentence": "s", "label": 0}, "qnli question: q sentence: s", "entailment"),
    ("glue/rte", {"sentence1": "a", "sentence2": "b", "label": 1}, "rte sentence1: a sentence2: b", "not_entailment"),
    ("glue/wnli", {"sentence1": "a", "sentence2": "b", "label": 1}, "wnli sentence1: a sentence2: b", "entailment"),
    ("super_glue/boolq", {"question": "q", "passage": "p", "label": True}, "boolq passage: p question: q", "True"),
    ("super_glue/cb", {"premise": "p", "hypothesis": "h", "label": 1}, "cb hypothesis: h premise: p", "contradiction"),
    (
        "super_glue/copa",
        {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 1},
        "copa choice1: a choice2: b premise: p question: cause",
        "choice2",
    ),
    (
        "super_glue/multirc",
        {"paragraph": "<b>Sent 1: </b>One.<br>Two.", "question": "q", "answer": "a", "label": 0},
        "multirc question: q answer: a paragraph: Sent 1: One. Two.",
        "False",
    ),
    (
        "super_glue/record",
        {
            "query": "A @placeholder is a bird.",
            "entities": ["penguin", "potato"],
            "answers": ["penguin", "pigeon"],
            "passage": "One.\n@highlight\nTwo\n@highlight\nThree",
        },
        "record query: A @placeholder is a bird. entities: penguin, potato passage: One. Two. Three",
        "penguin",
    ),
    ("super_glue/rte", {"premise": "p", "hypothesis": "h", "label": 0}, "rte hypothesis: h premise: p", "entailment"),
    (
        "super_glue/wic",
        {"sentence1": "a", "sentence2": "b", "word": "w", "start1": 3, "label": 1},
        "wic sentence1: a sentence2: b word: w",
        "True",
    ),
    (
        "super_glue/wsc",
        {"text": "Bob asked Tom if he can go.", "span1_text": "Bob", "span2_text": "he", "span2_index": 4},
        "wsc: Bob asked Tom if *he* can go.",
        "Bob",
    ),
    (
        "dpr",
        {"sentence": "Bob asked Tom if he can go.", "pronoun": "he", "candidates": ["Bob", "Tom"], "label": 1},
        "wsc: Bob asked Tom if *he* can go.",
        "Tom",
    ),
    (
        "squad",
        {
            "question": "Who?",
            "context": "The U.S. (1776)",
            "answers": {"text": ["U.S.", "The U.S."], "answer_start": [4]},
        },
        "question: Who ? context: The U . S . ( 1776 ) ",
        "U . S . ",
    ),
    ("cnn_dailymail", {"article": "Long.", "highlights": "Short."}, "summarize: Long.", "Short."),
    ("wmt/en-de", {"translation": {"en": "Good.", "de": "Gut."}}, "translate English to German: Good.", "Gut."),
    ("wmt/en-fr", {"en": "Good.", "fr": "Bon."}, "translate English to French: Good.", "Bon."),
    ("wmt/en-ro", {"en": "Good.", "ro": "Bine."}, "translate English to Romanian: Good.", "Bine."),
]


@pytest.mark.parametrize(("name", "fields", "prompt", "target"), CASES)
def test_prompt_and_target_are_those_of_t5(name: str, fields: dict[str, object], prompt: str, target: str) -> None:
    pair = paper_task(name).pair(Record(fields=fields, place="f:1"))
    assert not isinstance(pair, BadRecord), pair
    assert (pair.prompt, pair.target) == (prompt, target)


def test_every_task_is_tried_and_can_go_to_a_worker() -> None:
    assert {name for name, *_ in CASES} == PAPER_TASKS.keys()
    for form in PAPER_TASKS.values():
        pickle.loads(pickle.dumps(form))


@pytest.mark.parametrize(("name", "fields", "prompt", "target"), CASES)
def test_a_record_without_its_fields_is_bad_and_says_so(
    name: str, fields: dict[str, object], prompt: str, target: str
) -> None:
    for missing in fields.keys() - {"idx", "start1"}:
        rest = {key: value for key, value in fields.items() if key != missing}
        found = paper_task(name).pair(Record(fields=rest, place="f:1"))
        assert isinstance(found, BadRecord), (name, missing)
        assert found.error.startswith("f:1: ")


def test_punctuation_is_padded_and_letters_of_all_scripts_are_not() -> None:
    assert pad_punctuation("naïve_1 «où?» é½") == "naïve_1 « où ? » é½"


def test_scores_are_those_of_the_task() -> None:
    pytest.importorskip("sklearn")
    form = paper_task("glue/mrpc")
    fields = {"sentence1": "a", "sentence2": "b"}
    pairs = [form.pair(Record(fields={**fields, "label": label}, place="f")) for label in (1, 1, 0, 0)]
    assert form.score(pairs, ["equivalent", "?", "not_equivalent", "?"]) == {"f1": 50.0, "accuracy": 50.0}
    squad = paper_task("squad")
    record = Record(fields={"question": "?", "context": "c", "answers": ["U.S.", "the States"]}, place="f")
    assert squad.score([squad.pair(record)], ["States"])["exact_match"] == 100.0


def test_unknown_tasks_name_the_known_ones() -> None:
    with pytest.raises(RequestError, match="glue/cola"):
        paper_task("glue/coal")

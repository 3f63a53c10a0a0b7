"""The paper's tasks on small records: prompts and targets to the letter."""

import pickle

import pytest

from t5kit.errors import DataError, RequestError
from t5kit.sources import BadRecord, Record, table_of
from t5kit.tasks.paper_tasks import PAPER_TASKS, pad_punctuation, paper_task, training_records

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
        "super_glue/wsc",  # punctuation on the pronoun's word, a space at the end
        {"text": 'He laughed. "Good for him," he said. ', "span1_text": "John", "span2_text": "him", "span2_index": 4},
        'wsc: He laughed. "Good for *him* ," he said.',
        "John",
    ),
    (
        "super_glue/wsc",  # the number is that of the word before the pronoun
        {"text": "It broke , they may use it , or not", "span1_text": "pan", "span2_text": "it", "span2_index": 5},
        "wsc: It broke , they may use *it* , or not",
        "pan",
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


WSC_TEXT = {"text": "Mark told Pete a lie , which he regretted.", "span2_text": "he", "span2_index": 7}


@pytest.mark.parametrize(
    ("referent", "label", "prediction", "is_right"),
    [
        ("Mark", 1, "Mark", True),
        ("Mark", True, "mark", True),
        ("Mark", 1, "Pete", False),
        ("Pete", 0, "Mark", True),
        ("Pete", False, "Pete", False),
        ("the fuzzy bunny", 1, "bunny", True),
        ("bunny", 1, "the fuzzy bunny", True),
        ("Bob's hat", 1, "Bob", False),
        ("Bob's hat", 0, "Bob", True),
        ("Mark", 1, "", False),
        ("Mark", 0, "the", False),
        ("Mark", 1, "Mark Pete", True),
    ],
)
def test_wsc_scores_whether_the_noun_was_named_against_the_label(
    referent: str, label: object, prediction: str, is_right: bool
) -> None:
    form = paper_task("super_glue/wsc")
    pair = form.pair(Record(fields={**WSC_TEXT, "span1_text": referent, "label": label}, place="f"))
    assert form.score([pair], [prediction]) == {"accuracy": 100.0 * is_right}


def test_wsc_trains_on_true_nouns_alone() -> None:
    rows = [
        {**WSC_TEXT, "span1_text": name, "label": label} for name, label in (("Mark", 1), ("Pete", 0), ("M.", True))
    ]
    chosen = training_records("super_glue/wsc", table_of(rows))
    assert [chosen[n].fields["span1_text"] for n in range(len(chosen))] == ["Mark", "M."]
    assert chosen[1].place == "record:3"


def test_a_pronoun_that_is_nowhere_makes_a_bad_record() -> None:
    fields = {**WSC_TEXT, "span1_text": "Mark", "span2_text": "she"}
    found = paper_task("super_glue/wsc").pair(Record(fields=fields, place="f:1"))
    assert isinstance(found, BadRecord) and "expected the pronoun 'she'" in found.error


def test_record_trains_each_answer_and_evaluates_each_query_once() -> None:
    rows = [
        {"query": f"@placeholder {n}", "entities": ["a", "b"], "passage": "p", "answers": answers}
        for n, answers in enumerate((["a", "b"], ["b"], []))
    ]
    table, form = table_of(rows), paper_task("super_glue/record")
    chosen = training_records("super_glue/record", table)
    pairs = [form.pair(chosen[n]) for n in range(len(chosen))]
    assert [(pair.prompt[14:28], pair.target) for pair in pairs] == [
        ("@placeholder 0", "a"),
        ("@placeholder 0", "b"),
        ("@placeholder 1", "b"),
        ("@placeholder 2", "<unk>"),
    ]
    assert len(pickle.loads(pickle.dumps(chosen))) == 4, "workers can be given it"
    evaluated = [form.pair(table[n]) for n in range(2)]
    assert evaluated[0].references == ("a", "b")
    assert form.score(evaluated, ["B", "a"]) == {"exact_match": 50.0, "f1": 50.0}


def test_multirc_counts_answers_and_whole_questions() -> None:
    form = paper_task("super_glue/multirc")
    rows = [("q1", "a", 1), ("q1", "b", 0), ("q2", "a", 1), ("q2", "c", 1)]
    pairs = [
        form.pair(Record(fields={"paragraph": "p", "question": q, "answer": a, "label": label}, place="f"))
        for q, a, label in rows
    ]
    assert form.score(pairs, ["True", "False", "True", "maybe"]) == {"f1": 80.0, "exact_match": 50.0}
    assert [pair.target for pair in pairs] == ["True", "False", "True", "True"]


def test_references_of_another_form_are_refused_by_multirc() -> None:
    with pytest.raises(DataError, match=r"references\[0\] is \('True',\)"):
        PAPER_TASKS["super_glue/multirc"].metrics[0]([("True",)], ["True"])


def test_other_tasks_train_on_their_table_as_it_is() -> None:
    table = table_of([{"sentence": "a", "label": 1}])
    assert training_records("glue/cola", table) is table
    with pytest.raises(RequestError, match="glue/cola"):
        training_records("glue/coal", table)


def test_unknown_tasks_name_the_known_ones() -> None:
    with pytest.raises(RequestError, match="glue/cola"):
        paper_task("glue/coal")

"""Examples, answers and scores, with an answerer whose answers are written down."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.errors import ConfigError, DataError, RequestError, T5kitError
from t5kit.evaluation.answering import Answer, Likelihood, Progress
from t5kit.evaluation.config import EvaluationConfig, TaskEvaluationConfig
from t5kit.evaluation.evaluator import (
    Bootstrap,
    Scoring,
    evaluate,
    evaluate_predictions,
    named_metrics,
    scoring_of,
)
from t5kit.evaluation.examples import EvaluationSet, evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.metrics import METRICS
from t5kit.sources.tables import read_table, table_of
from t5kit.tasks import TaskForm, Template

FORM = TaskForm((Template("say {source}", "{target}"), Template("other phrasing {source}", "{target}")))


class WrittenAnswers:
    """Answers from a table, and likelihoods by the number of letters; keeps what it was asked."""

    def __init__(self, answers: dict[str, Answer | T5kitError] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []

    def answer(self, prompts: Sequence[str], progress: Progress) -> list[Answer | T5kitError]:
        self.asked += prompts
        progress(len(prompts))
        return [self.answers[prompt] for prompt in prompts]

    def likelihoods(
        self, prompts: Sequence[str], targets: Sequence[str], progress: Progress
    ) -> list[Likelihood | T5kitError]:
        self.asked += prompts
        return [
            RequestError("no such target") if target == "?" else Likelihood(-float(len(target)), len(target) + 1)
            for target in targets
        ]


def rows(*pairs: tuple[str, str]) -> list[dict[str, object]]:
    return [{"source": source, "target": target} for source, target in pairs]


def examples_of(*pairs: tuple[str, str], **options: object) -> EvaluationSet:
    return evaluation_set(FORM, table_of(rows(*pairs)), **options)  # type: ignore[arg-type]


def test_each_distinct_prompt_is_answered_once_and_every_record_counts() -> None:
    answerer = WrittenAnswers({"say a": Answer("1"), "say b": Answer("9")})
    report = evaluate(examples_of(("a", "1"), ("b", "2"), ("a", "3")), answerer, scoring_of(["exact_match"]))
    assert answerer.asked == ["say a", "say b"]
    assert report.scores == {"exact_match": pytest.approx(100 / 3)}
    assert (len(report.results), report.num_records, report.num_repeated) == (3, 3, 1)
    assert [result.scores["exact_match"] for result in report.results] == [100.0, 0.0, 0.0]
    assert [result.place for result in report.results] == ["record:1", "record:2", "record:3"]


def test_grouped_prompts_count_once_with_all_their_targets() -> None:
    answerer = WrittenAnswers({"say a": Answer("3"), "say b": Answer("9")})
    examples = examples_of(("a", "1"), ("b", "2"), ("a", "3"), ("a", "1"), repeated_prompts="group")
    report = evaluate(examples, answerer, scoring_of(["exact_match"]))
    assert [result.references for result in report.results] == [("1", "3"), ("2",)]
    assert examples.examples[0].targets == ("1", "3", "1")
    assert report.scores == {"exact_match": 50.0}
    assert (report.num_records, report.num_repeated) == (4, 2)


def test_a_separator_gives_alternatives_in_any_number() -> None:
    examples = examples_of(("be", "was/were"), ("do", "did"), ("slash", "/"), reference_separator="/")
    assert [example.references for example in examples.examples] == [("was", "were"), ("did",), ("/",)]
    assert examples.examples[0].targets == ("was/were",)


def test_bad_records_are_counted_and_named_wherever_they_are_found(tmp_path: object) -> None:
    path = tmp_path / "data.jsonl"  # type: ignore[operator]
    path.write_text('{"source": "a", "target": "1"}\nnot json\n{"source": "b"}\n', encoding="utf-8")
    examples = evaluation_set(FORM, read_table(path))
    assert (examples.num_records, examples.num_bad, len(examples.examples)) == (3, 2, 1)
    assert [record.error.split(": ")[0] for record in examples.bad] == [f"{path}:2", f"{path}:3"]
    report = evaluate(examples, WrittenAnswers({"say a": Answer("1")}), scoring_of(["accuracy"]))
    assert (report.num_bad, report.bad) == (2, examples.bad)
    assert "2 bad records" in str(report)
    with pytest.raises(DataError, match=r"no record can be evaluated; 1 are bad, first: record:1: has no field"):
        evaluation_set(FORM, table_of([{"target": "1"}]))
    with pytest.raises(DataError, match=r"it has: text\. Say which field is the input \(input=, --input\)\."):
        evaluation_set(pair_form(), table_of([{"text": "1"}]))


def test_spaces_around_what_is_right_count_for_nothing() -> None:
    table = table_of([{"input": "a", "target": " good"}, {"input": "b", "target": "bad "}])
    examples = evaluation_set(pair_form(), table)
    report = evaluate(examples, WrittenAnswers({"a": Answer("good"), "b": Answer("bad")}), scoring_of(["accuracy"]))
    assert report.scores["accuracy"] == 100.0 and [each.is_right for each in report.results] == [True, True]
    written = evaluation_set(FORM, table_of([{"source": "a", "target": " good"}]))
    assert written.examples[0].references == ("good",)
    as_it_is = dataclasses.replace(FORM, read_prediction=str)  # a form that asks for the space
    assert evaluation_set(as_it_is, table_of([{"source": "a", "target": " good"}])).examples[0].references == (" good",)


def test_columns_named_by_numbers_are_no_file_without_a_header() -> None:
    with pytest.raises(DataError, match=r"has no field 'input'; it has: , 0, 1"):
        evaluation_set(pair_form(), table_of([{"": "17", "0": "a fine film", "1": "pos"}]))
    examples = evaluation_set(pair_form(), table_of([{"0": "a fine film", "1": "pos"}])).examples
    assert (examples[0].prompt, examples[0].references) == ("a fine film", ("pos",))


def test_half_a_surrogate_pair_makes_a_bad_record() -> None:
    examples = examples_of(("a", "1"), ("\ud800", "2"), ("b", "x\udc00"))
    assert len(examples.examples) == 1
    assert [record.place for record in examples.bad] == ["record:2", "record:3"]
    assert "lone surrogate U+D800" in examples.bad[0].error


@given(size=st.integers(1, 30), fewer=st.integers(1, 30), more=st.integers(1, 30), seed=st.integers(0, 99))
def test_a_larger_draw_by_the_same_seed_holds_the_smaller_in_order(size: int, fewer: int, more: int, seed: int) -> None:
    pairs = [(str(number), "x") for number in range(size)]
    fewer, more = min(fewer, more), max(fewer, more)
    small, large = (examples_of(*pairs, max_examples=most, seed=seed) for most in (fewer, more))
    places = [example.place for example in large.examples]
    assert len(small.examples) == min(fewer, size)
    assert small.num_left_out == size - len(small.examples)
    assert [place for place in places if place in {example.place for example in small.examples}] == [
        example.place for example in small.examples
    ]


def test_an_unanswerable_example_counts_as_wrong_and_says_why() -> None:
    answerer = WrittenAnswers({"say a": Answer("1", is_cut=True), "say b": RequestError("too long")})
    report = evaluate(examples_of(("a", "1"), ("b", "2")), answerer, scoring_of(["exact_match"]))
    assert report.scores == {"exact_match": 50.0}
    assert (report.num_unanswered, report.num_cut) == (1, 1)
    assert (report.results[1].prediction, report.results[1].error) == ("", "too long")
    assert report.results[1].to_json()["error"] == "too long"
    assert "1 without an answer, 1 answers cut at max_new_tokens" in report.counts()


def test_perplexity_is_that_of_all_targets_together() -> None:
    report = evaluate(examples_of(("a", "xx"), ("b", "yyyy")), WrittenAnswers(), scoring_of(["perplexity"]))
    assert report.scores == {"perplexity": pytest.approx(math.exp(6 / 8))}
    assert report.results[0].scores["perplexity"] == pytest.approx(math.exp(2 / 3))
    assert report.results[0].prediction is None
    failed = evaluate(examples_of(("a", "xx"), ("b", "?")), WrittenAnswers(), scoring_of(["perplexity"]))
    assert failed.num_unanswered == 1
    assert failed.scores == {"perplexity": pytest.approx(math.exp(2 / 3))}
    assert [list(result.scores) for result in failed.results] == [["perplexity"], []]
    with pytest.raises(RequestError, match="no such target"):
        evaluate(examples_of(("b", "?")), WrittenAnswers(), scoring_of(["perplexity"]))


def test_the_likeliest_choice_is_the_answer_by_length_or_not() -> None:
    examples = examples_of(("a", "yes"), ("b", "no"))
    plain = evaluate(examples, WrittenAnswers(), scoring_of(["accuracy"], choices=["yes", "no", "ok"]))
    assert [result.prediction for result in plain.results] == ["no", "no"]  # 2 letters; of equal ones the first
    scoring = scoring_of(["accuracy"], choices=["yes", "no"], is_length_normalized=True)
    assert evaluate(examples, WrittenAnswers(), scoring).scores == {"accuracy": 50.0}  # -2/3 a token beats -3/4


def test_intervals_hold_the_scores_and_follow_the_seed() -> None:
    pairs = [(str(number), str(number % 2)) for number in range(40)]
    answerer = WrittenAnswers({f"say {number}": Answer("1") for number in range(40)})
    examples, scoring = examples_of(*pairs), scoring_of(["accuracy", "classification_f1"])
    first, second, other = (
        evaluate(examples, answerer, scoring, bootstrap=Bootstrap(num_samples=200, seed=seed)) for seed in (1, 1, 2)
    )
    assert first.intervals == second.intervals != other.intervals
    assert set(first.scores) == {"accuracy.accuracy", "classification_f1.accuracy", "macro_f1", "micro_f1"}
    found = first.intervals["macro_f1"]
    assert found.low < first.scores["macro_f1"] == found.value < found.high
    assert first.to_json()["scores"]["macro_f1"]["low"] == found.low
    assert first.classification is not None
    assert "unknown predictions" in str(first)
    assert "95 % interval" in str(first)


def test_ready_predictions_score_as_the_model_that_wrote_them() -> None:
    examples = examples_of(("a", "1"), ("b", "2"))
    scoring = scoring_of(["exact_match", "squad"])
    model = evaluate(examples, WrittenAnswers({"say a": Answer("1"), "say b": Answer("3")}), scoring)
    ready = evaluate_predictions(examples, ["1", "3"], scoring)
    assert ready.scores == model.scores
    missing = evaluate_predictions(examples, ["1", DataError("missing")], scoring_of(["exact_match"]))
    assert (missing.num_unanswered, missing.scores) == (1, {"exact_match": 50.0})
    with pytest.raises(RequestError, match="needs a model"):
        evaluate_predictions(examples, ["1", "3"], scoring_of(["perplexity"]))
    with pytest.raises(RequestError, match="1 predictions were given for 2 examples"):
        evaluate_predictions(examples, ["1"], scoring)


def test_references_that_a_metric_cannot_take_are_refused_before_anything_is_answered() -> None:
    answerer = WrittenAnswers()
    examples = examples_of(("a", "1/2"), reference_separator="/")
    with pytest.raises(DataError, match=r"references\[0\] holds 2 texts, but this metric takes one"):
        evaluate(examples, answerer, scoring_of(["set_f1"]))
    assert answerer.asked == []


def test_what_metrics_see_is_what_the_task_reads() -> None:
    scoring = Scoring(metrics=named_metrics((METRICS["accuracy"],)), read_prediction=str.lower)
    report = evaluate_predictions(examples_of(("a", "x")), ["X"], scoring)
    assert report.scores == {"accuracy": 100.0}
    assert report.results[0].prediction == "x"


def test_two_metrics_of_one_name_stay_apart() -> None:
    assert list(named_metrics((METRICS["bleu"], METRICS["bleu"], METRICS["chrf"]))) == ["bleu", "bleu_2", "chrf"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"metrics": ("rogue",)}, "'rogue'; known are: accuracy"),
        ({"choices": ("a",)}, "at least two different"),
        ({"choices": ("a", "a")}, "at least two different"),
        ({"is_length_normalized": True}, r"no effect without task\.choices"),
        ({"repeated_prompts": "once"}, "must be one of: each, group"),
    ],
)
def test_a_task_config_refuses_what_has_no_meaning(words: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskEvaluationConfig(**words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 0),
        ("max_new_tokens", True),
        ("max_input_tokens", 1),
        ("batch_rows", 0),
        ("length_penalty", np.nan),
    ],
)
def test_a_run_config_names_the_field_that_is_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation\.{name}"):
        EvaluationConfig(**{name: value})  # type: ignore[arg-type]


def test_wrong_words_are_refused() -> None:
    with pytest.raises(RequestError, match="No metric is asked for"):
        scoring_of([])
    with pytest.raises(RequestError, match="must be a list of names"):
        scoring_of("rouge")
    for words in ({"num_samples": 0}, {"confidence": 95}, {"seed": -1}):
        with pytest.raises(RequestError, match=next(iter(words)).split("_")[-1]):
            Bootstrap(**words)

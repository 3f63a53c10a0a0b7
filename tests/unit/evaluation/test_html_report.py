"""The page of an evaluation, parsed: whole, self-contained, escaped, and true to the report."""

import html
import json
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest

from t5kit.errors import RequestError, T5kitError
from t5kit.evaluation.answering import Answer, Likelihood, Progress
from t5kit.evaluation.comparison import compare
from t5kit.evaluation.evaluator import Bootstrap, evaluate, evaluate_predictions, scoring_of
from t5kit.evaluation.examples import EvaluationSet, evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.evaluation.report import EvaluationReport
from t5kit.evaluation.slices import are_labels, slicings_of
from t5kit.sources.tables import table_of
from t5kit.testing.pages import Page

LABELS = ("cat", "dog", "<b>owl</b>")
HOSTILE = '</td><script>alert("x")</script> <img src=https://example.org/x.png> & "q"'
BOOTSTRAP = Bootstrap(num_samples=50)


def examples_of(size: int = 48) -> EvaluationSet:
    rows = [
        {
            "input": f"what is this {'word ' * (number % 7)}{number}",
            "target": LABELS[number % 3],
            "source": "web" if number % 2 else "book",
            "year": 1900 + number,
        }
        for number in range(size)
    ]
    rows[0]["input"] = HOSTILE
    return evaluation_set(pair_form(), table_of(rows), slice_by=("source", "year"))


def answers_of(examples: EvaluationSet, *, wrong_every: int) -> list[str | Answer | T5kitError]:
    """Right answers but for every so many; sure ones where right, and the first wrong one the surest."""
    answers: list[str | Answer | T5kitError] = []
    for number, example in enumerate(examples.examples):
        is_wrong = number % wrong_every == 0
        text = LABELS[(number + 1) % 3] if is_wrong else example.references[0]
        confidence = 0.99 if number == 0 else 0.3 if is_wrong else 0.9
        answers.append(Answer(text, False, math.log(confidence), confidence))
    return answers


@pytest.fixture(scope="module")
def examples() -> EvaluationSet:
    return examples_of()


@pytest.fixture(scope="module")
def report(examples: EvaluationSet) -> EvaluationReport:
    scoring = scoring_of(["accuracy", "exact_match"])
    return evaluate_predictions(examples, answers_of(examples, wrong_every=4), scoring, bootstrap=BOOTSTRAP)


@pytest.fixture(scope="module")
def page(report: EvaluationReport) -> Page:
    return Page(report.to_html(name="<model> & co"))


def plain(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


def table_named(text: str, caption: str) -> list[list[str]]:
    """Return the rows of the page's table with this caption, as texts."""
    for body in re.findall(r"<table.*?</table>", text, re.DOTALL):
        found = Page(body)
        if found.text_of["caption"] == [caption]:
            rows = re.findall(r"<tr>.*?</tr>", body, re.DOTALL)
            return [[plain(cell) for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row)] for row in rows]
    raise AssertionError(f"no table {caption!r}")


def test_the_page_asks_for_nothing_and_needs_no_script(report: EvaluationReport, page: Page) -> None:
    text = report.to_html()
    assert not {tag for tag, _ in page.found} & {"script", "link", "img", "iframe", "object", "embed", "base", "a"}
    assert not any(name in ("src", "href", "style") for _, found in page.found for name in found)
    assert "url(" not in text and "@import" not in text
    assert set(re.findall(r'https?://[^"<>& ]+', text)) == {"http://www.w3.org/2000/svg", "https://example.org/x.png"}


def test_every_text_of_the_data_is_shown_as_text(page: Page) -> None:
    assert page.text_of["h1"] == ["<model> & co"]
    assert HOSTILE in page.text_of["td"], "the surest wrong example's prompt"
    assert "<b>owl</b>" in page.text_of["th"]


def test_every_drawing_has_a_title_a_description_and_a_table(report: EvaluationReport, page: Page) -> None:
    charts = [found for tag, found in page.found if tag == "svg" and found.get("role") == "img"]
    identities = [found["id"] for _, found in page.found if "id" in found]
    assert len(charts) >= 7 and len(set(identities)) == len(identities)
    assert all(set((found["aria-labelledby"] or "").split()) <= set(identities) for found in charts)
    assert all(text for text in page.text_of["title"]) and all(text for text in page.text_of["desc"])
    assert len(page.text_of["caption"]) >= len(charts)
    assert page.text_of["h2"] == ["Scores", "Slices", "Labels", "Calibration", "Distributions", "Examples"]


def test_scores_stand_with_their_intervals(report: EvaluationReport, page: Page) -> None:
    rows = table_named(report.to_html(), "Scores over all examples")
    assert rows[1][:2] == ["accuracy", "75"]
    interval = report.intervals["accuracy"]
    assert rows[1][2] == f"{interval.low:.4g} to {interval.high:.4g}"


def test_slices_are_the_scores_of_their_examples(report: EvaluationReport) -> None:
    titles = [slicing.title for slicing in slicings_of(report)]
    assert titles == ["By source", "By year", "By right label", "By words of the input"]
    for slicing in slicings_of(report):
        places = sorted(place for part in slicing.places.values() for place in part)
        assert places == list(range(len(report.results))), "each example is in one slice"
        for part, (name, inside) in zip(slicing.of(report), slicing.places.items(), strict=True):
            right = [report.results[place].is_right for place in inside]
            assert (part.name, part.num_examples) == (name, len(inside))
            assert part.scores["accuracy"] == pytest.approx(100 * np.mean(right))
            assert part.intervals["accuracy"].low <= part.scores["accuracy"] <= part.intervals["accuracy"].high
    years = slicings_of(report)[1].places
    assert list(years) == ["1,900 to 1,911", "1,912 to 1,923", "1,924 to 1,935", "1,936 to 1,947"]
    assert dict(zip(("book", "web"), ("24", "24"), strict=True)) == {
        row[0]: row[1] for row in table_named(report.to_html(), "By source")[1:]
    }


def test_slices_of_numbers_that_are_close_have_names_of_their_own() -> None:
    rows = [{"input": f"t{n}", "target": "a", "lat": f"{48.1 + n * 1e-5:.6f}"} for n in range(200)]
    examples = evaluation_set(pair_form(), table_of(rows), slice_by=("lat",))
    made = evaluate_predictions(examples, ["a"] * 200, scoring_of(["accuracy"]), bootstrap=Bootstrap())
    (found,) = [slicing for slicing in slicings_of(made) if slicing.title == "By lat"]
    assert [len(places) for places in found.places.values()] == [50] * 4


def test_the_confusion_matrix_counts_right_labels_against_predictions(report: EvaluationReport) -> None:
    head, *rows = table_named(report.to_html(), "Confusion matrix")
    assert are_labels(report)
    assert head[1:] == [row[0] for row in rows]
    counts = np.array([[int(cell.replace("·", "0")) for cell in row[1:]] for row in rows])
    assert counts.sum() == 48 and np.trace(counts) == 36


def test_calibration_is_that_of_the_confidences(report: EvaluationReport, page: Page) -> None:
    figures = dict(zip(page.text_of["dt"], page.text_of["dd"], strict=True))
    assert figures["share right"] == "0.750"
    # 36 right at 0.9, 11 wrong at 0.3, one wrong at 0.99: bins 0.3 and 0.9
    expected = (11 * 0.3 + 37 * abs(36 / 37 - (36 * 0.9 + 0.99) / 37)) / 48
    assert figures["expected calibration error (ECE), 10 bins"] == f"{expected:.3f}"


def test_the_surest_wrong_example_comes_first(report: EvaluationReport) -> None:
    body = report.to_html()
    rows = table_named(body, "The most confident wrong examples")
    assert rows[1][-1] == "0.990"
    assert [row[-1] for row in rows[2:]] == ["0.300"] * 11


def test_the_worst_examples_are_the_lowest_by_the_first_score_of_single_examples() -> None:
    examples = evaluation_set(
        pair_form(), table_of([{"input": f"say {n}", "target": " ".join("bcdefghi"[: n + 2])} for n in range(7)])
    )
    report = evaluate_predictions(examples, ["b"] * 7, scoring_of(["squad", "bleu"]))
    rows = table_named(report.to_html(), "The worst examples by f1")
    assert [row[1] for row in rows[1:]] == [f"say {n}" for n in reversed(range(7))]
    assert "interval" not in report.to_html(), "none were asked for"
    errors = evaluate_predictions(examples, ["b"] * 7, scoring_of(["word_error_rate"]))
    rows = table_named(errors.to_html(), "The worst examples by wer")
    assert float(rows[1][-1]) > float(rows[-1][-1]), "lower is better"
    corpus = evaluate_predictions(examples, ["b"] * 7, scoring_of(["bleu"])).to_html()
    assert table_named(corpus, "The worst examples by F1 of words")[1][1] == "say 6"


def test_two_systems_stand_beside_each_other(examples: EvaluationSet, report: EvaluationReport) -> None:
    scoring = scoring_of(["accuracy", "exact_match"])
    other = evaluate_predictions(examples, answers_of(examples, wrong_every=2), scoring, bootstrap=BOOTSTRAP)
    found = compare(report, other, bootstrap=BOOTSTRAP)
    text = report.to_html(name="one", other=other, other_name="two", comparison=found)
    page = Page(text)
    assert page.text_of["h1"] == ["one beside two"] and "Comparison" in page.text_of["h2"]
    rows = table_named(text, "A beside B, by the paired bootstrap")
    assert rows[1][:4] == ["accuracy", "75", "50", "+25"] and rows[1][-1] == "A"
    assert "By accuracy, A is better on 12 examples, B on 0; on 36 they are equal." in page.text_of["p"]
    assert len(table_named(text, "A is better: the largest differences in accuracy")) == 1 + 12
    assert table_named(text, "By source")[0][2:4] == ["accuracy", "accuracy of B"]


def test_systems_with_other_scores_are_compared_by_those_that_both_have() -> None:
    examples = evaluation_set(pair_form(), table_of([{"input": f"say {n}", "target": f"b c {n}"} for n in range(6)]))
    first = evaluate_predictions(examples, ["b c 1"] * 6, scoring_of(["squad", "bleu"]))
    second = evaluate_predictions(examples, ["c"] * 6, scoring_of(["bleu", "exact_match"]))
    found = compare(first, second, bootstrap=BOOTSTRAP)
    text = first.to_html(other=second, comparison=found)
    assert any("they are equal" in each for each in Page(text).text_of["p"])
    assert len(table_named(text, "A beside B, by the paired bootstrap")) == 1 + len(found.differences)


class Model:
    """Answers "1" to everything but what is too long."""

    def answer(self, prompts: Sequence[str], progress: Progress) -> list[Answer | T5kitError]:
        return [RequestError("<too> long") if "x" in prompt else Answer("1") for prompt in prompts]

    def likelihoods(
        self, prompts: Sequence[str], targets: Sequence[str], progress: Progress
    ) -> list[Likelihood | T5kitError]:
        return [Likelihood(-float(len(prompt)), 1) for prompt in prompts]


def test_bad_records_failures_and_perplexity_alone_have_a_page() -> None:
    table = table_of([{"input": "a", "target": "1"}, {"input": "x", "target": "1"}, {"input": "b"}])
    examples = evaluation_set(pair_form(), table)
    text = evaluate(examples, Model(), scoring_of(["exact_match"]), bootstrap=BOOTSTRAP).to_html()
    assert table_named(text, "1 examples without an answer")[1][-1] == "<too> long"
    assert table_named(text, "The first of 1 bad records")
    assert "Calibration" not in Page(text).text_of["h2"], "the model told no likelihood"
    alone = evaluate(examples, Model(), scoring_of(["perplexity"]), bootstrap=BOOTSTRAP)
    assert Page(alone.to_html()).text_of["h2"][:2] == ["Scores", "Distributions"]


def test_choices_are_as_sure_as_their_share_and_generation_as_its_likelihood() -> None:
    examples = evaluation_set(pair_form(), table_of([{"input": "ab", "target": "ab"}]))

    class Ranking(Model):
        def likelihoods(
            self, prompts: Sequence[str], targets: Sequence[str], progress: Progress
        ) -> list[Likelihood | T5kitError]:
            return [Likelihood({"ab": -2.0, "b": -3.0}[target], 2) for target in targets]

    (result,) = evaluate(examples, Ranking(), scoring_of(["accuracy"], choices=("b", "ab"))).results
    assert (result.prediction, result.log_probability) == ("ab", -2.0)
    assert result.confidence == pytest.approx(math.exp(-2) / (math.exp(-2) + math.exp(-3)))
    assert Answer.generated("t", is_cut=False, log_probability=-0.5).confidence == pytest.approx(math.exp(-0.5))


def test_a_column_that_no_record_has_is_refused_with_those_there_are() -> None:
    table = table_of([{"input": "a", "target": "1", "kind": "x"}])
    with pytest.raises(RequestError, match="slice_by names 'knd', a column that no record has; there are: input"):
        evaluation_set(pair_form(), table, slice_by=("knd",))
    with pytest.raises(RequestError, match="must be a list of columns"):
        evaluation_set(pair_form(), table, slice_by="kind")


@pytest.mark.parametrize("wrong", ["cat", "dog", ""])
def test_a_page_of_one_class_is_whole(wrong: str) -> None:
    rows = [{"input": f"what is this {number}", "target": "cat"} for number in range(12)]
    examples = evaluation_set(pair_form(), table_of(rows))
    answers: list[str | Answer | T5kitError] = [
        Answer("cat" if number % 3 else wrong, False, -0.1, 0.9 if number % 3 else 0.6) for number in range(12)
    ]
    scoring = scoring_of(["classification_f1", "matthews"])
    report = evaluate_predictions(examples, answers, scoring, bootstrap=BOOTSTRAP)
    shown = Page(report.to_html())
    assert {"Scores", "Labels"} <= set(shown.text_of["h2"]) and "cat" in shown.text_of["th"]
    assert report.scores["accuracy"] == pytest.approx(100 if wrong == "cat" else 200 / 3)
    assert json.loads(json.dumps(report.to_json()))["num_examples"] == 12


def test_where_every_label_is_wrong_some_are_shown(examples: EvaluationSet) -> None:
    scoring = scoring_of(["accuracy"])
    report = evaluate_predictions(examples, answers_of(examples, wrong_every=1), scoring, bootstrap=BOOTSTRAP)
    assert report.scores["accuracy"] == 0.0
    assert len(table_named(report.to_html(), "The worst examples by accuracy")) > 2

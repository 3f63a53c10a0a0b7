"""Predictions from files, matched by prompt or by place."""

import json
import math
from pathlib import Path

import pytest

from t5kit.errors import DataError, RequestError
from t5kit.evaluation.answering import Answer
from t5kit.evaluation.evaluator import evaluate_predictions, scoring_of
from t5kit.evaluation.examples import EvaluationSet, evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.evaluation.predictions_file import examples_of_predictions, read_predictions
from t5kit.sources.tables import read_table, table_of


def examples(*prompts: str, **options: object) -> EvaluationSet:
    table = table_of([{"input": prompt, "target": prompt.upper()} for prompt in prompts])
    return evaluation_set(pair_form(), table, **options)  # type: ignore[arg-type]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", '{"prompt": "b", "prediction": "B"}\n{"prompt": "a", "prediction": "A"}\n'),
        ("p.jsonl", '{"input": "b", "text": "B"}\n{"input": "a", "text": "A"}\n'),
        ("p.tsv", "b\tB\na\tA\n"),
        ("p.csv", "prompt,prediction\nb,B\na,A\n"),
        ("p.txt", "A\nB\n"),
        ("p.hyp", "A\nB\n"),
        ("p.tsv", "A\nB\n"),
        ("p.jsonl", '"A"\n"B"\n'),
        ("p.jsonl", '{"prediction": "A"}\n{"prediction": "B"}\n'),
    ],
)
def test_every_form_of_a_file_gives_the_same_predictions(tmp_path: Path, name: str, text: str) -> None:
    found = read_predictions(write(tmp_path, name, text), examples("a", "b"))
    assert (found.predictions, found.num_unused, found.bad) == (("A", "B"), 0, ())


def test_what_is_missing_is_an_error_in_its_place_and_what_is_too_much_is_counted(tmp_path: Path) -> None:
    lines = ["a\tA", "x\tX", "c", "y\tY", "a\tlater", "a\tlast"]
    found = read_predictions(write(tmp_path, "p.tsv", "\n".join(lines) + "\n"), examples("a", "b", "c", "a"))
    first, missing, empty, again = found.predictions
    assert (first, empty, again, found.num_unused) == ("A", "", "A", 2)  # three lines for two: the first counts
    assert isinstance(missing, DataError)
    report = evaluate_predictions(examples("a", "b", "c", "a"), found.predictions, scoring_of(["exact_match"]))
    assert (report.scores, report.num_unanswered) == ({"exact_match": 50.0}, 1)


def test_as_many_lines_of_a_prompt_as_examples_are_for_one_each(tmp_path: Path) -> None:
    lines = ["a\tfirst", "b\tB", "a\tsecond", "b\ttoo much"]
    found = read_predictions(write(tmp_path, "p.tsv", "\n".join(lines) + "\n"), examples("a", "a", "b"))
    assert found.predictions == ("first", "second", "B")


def test_an_error_of_null_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, "p.jsonl", '{"prompt": "a", "prediction": "b", "error": null}\n')
    assert read_predictions(path, examples("a")).predictions == ("b",)


def test_a_line_with_an_error_is_no_prediction(tmp_path: Path) -> None:
    path = write(tmp_path, "p.jsonl", '{"prompt": "a", "prediction": "", "error": "too long"}\n')
    (found,) = read_predictions(path, examples("a")).predictions
    assert isinstance(found, DataError)
    assert str(found) == "too long"


def test_predictions_by_place_follow_the_records_that_were_drawn(tmp_path: Path) -> None:
    prompts = [str(number) for number in range(20)]
    path = write(tmp_path, "p.txt", "".join(f"answer {prompt}\n" for prompt in prompts))
    drawn = examples(*prompts, max_examples=5, seed=3)
    assert read_predictions(path, drawn).predictions == tuple(f"answer {each.prompt}" for each in drawn.examples)


def test_files_that_cannot_belong_to_the_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds 3 predictions without prompts, the data 2 records"):
        read_predictions(write(tmp_path, "p.txt", "A\nB\nC\n"), examples("a", "b"))
    with pytest.raises(RequestError, match="none of its 1 prompts is one of the data"):
        read_predictions(write(tmp_path, "p.tsv", "x\tX\n"), examples("a"))
    with pytest.raises(DataError, match=r"p\.jsonl:2: this line has no prompt"):
        read_predictions(write(tmp_path, "p.jsonl", '{"prompt": "a", "prediction": "A"}\n"B"\n'), examples("a", "b"))
    with pytest.raises(DataError, match="has no field 'prediction'; it has: prompt, guess"):
        read_predictions(write(tmp_path, "p.jsonl", '{"prompt": "a", "guess": "A"}\n'), examples("a"))
    with pytest.raises(DataError, match="field 'prediction' is int, expected text"):
        read_predictions(write(tmp_path, "p.jsonl", '{"prompt": "a", "prediction": 3}\n'), examples("a"))
    with pytest.raises(DataError, match="matched by place"):
        read_predictions(write(tmp_path, "p.jsonl", '"A"\nno json\n'), examples("a", "b"))
    data = write(tmp_path, "data.jsonl", '{"input": "a", "target": "A"}\n{"input": "b"}\n')
    with pytest.raises(RequestError, match="2 records, 1 of them bad"):
        read_predictions(write(tmp_path, "p.txt", "A\nB\n"), evaluation_set(pair_form(), read_table(data)))


def test_bad_lines_beside_prompts_are_kept_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, "p.jsonl", 'no json\n{"prompt": "a", "prediction": "A"}\n')
    found = read_predictions(path, examples("a"))
    assert found.predictions == ("A",)
    assert [record.place for record in found.bad] == [f"{path}:1"]


def test_what_a_report_writes_scores_the_same_when_it_is_read(tmp_path: Path) -> None:
    before = evaluate_predictions(examples("a", "b", "c"), ["A", "no", DataError("lost")], scoring_of(["exact_match"]))
    lines = [json.dumps(result.to_json()) for result in before.results]
    path = write(tmp_path, "p.jsonl", "\n".join(lines) + "\n")
    alone = evaluation_set(pair_form(), table_of(examples_of_predictions(path)))
    after = evaluate_predictions(alone, read_predictions(path, alone).predictions, scoring_of(["exact_match"]))
    assert after.scores == before.scores
    assert [result.error for result in after.results] == [None, None, "lost"]
    with pytest.raises(DataError, match="no fields 'prompt' and 'references'"):
        list(examples_of_predictions(write(tmp_path, "q.jsonl", '{"prompt": "a", "prediction": "A"}\n')))


@pytest.mark.parametrize(
    ("record", "words", "prompt", "references"),
    [
        ({"input": "x", "target": "y"}, {}, "x", ("y",)),
        ({"source": "x", "target": 3}, {}, "x", ("3",)),
        ({"0": "x", "1": "y"}, {}, "x", ("y",)),
        ({"0": "x", "1": "y"}, {"input": "1", "target": "0"}, "y", ("x",)),
        ({"0": "x", "1": "y", "2": "z"}, {"input": "say {input}", "target": "2"}, "say x", ("z",)),
        ({"question": "q", "answers": ["y", "z"]}, {"input": "question: {question}", "target": "answers"},
         "question: q", ("y", "z")),
    ],
)  # fmt: skip
def test_prompts_and_targets_come_from_columns_or_templates(
    record: dict[str, object], words: dict[str, str], prompt: str, references: tuple[str, ...]
) -> None:
    (example,) = evaluation_set(pair_form(**words), table_of([record])).examples
    assert (example.prompt, example.references) == (prompt, references)


@pytest.mark.parametrize(
    ("record", "words", "message"),
    [
        ({"text": "x"}, {}, "has no field 'input'; it has: text"),
        ({"input": ["x", "y"], "target": "z"}, {}, "'input' is a list, expected one text"),
        ({"input": "x", "target": []}, {}, r"'target' is \[\], expected text"),
        ({"input": "x", "target": None}, {}, "'target' is None, expected text"),
        ({"input": "x", "target": "y"}, {"input": "{other}"}, "has no field 'other'"),
        ({"input": "x", "target": math.nan}, {}, "'target' is NaN, which stands for an empty cell"),
        ({"input": "x", "target": ["y", math.nan]}, {}, "'target' is NaN"),
        ({"input": math.nan, "target": "y"}, {"input": "say {input}"}, "'input' is NaN"),
    ],
)
def test_a_record_that_does_not_fit_says_what_it_has(
    record: dict[str, object], words: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        evaluation_set(pair_form(**words), table_of([record]))


@pytest.mark.parametrize(
    ("line", "log_probability", "confidence"),
    [
        ('{"input": "a", "text": "A", "token_scores": [-0.5, -1.0]}', -1.5, math.exp(-1.5)),
        ('{"prompt": "a", "prediction": "A", "log_probability": -2.0, "confidence": 0.7}', -2.0, 0.7),
        ('{"prompt": "a", "prediction": "A", "confidence": 0.7}', None, 0.7),
    ],
)
def test_what_a_line_says_of_its_likelihood_is_kept(
    tmp_path: Path, line: str, log_probability: float | None, confidence: float
) -> None:
    asked = examples("a")
    (answer,) = read_predictions(write(tmp_path, "p.jsonl", line + "\n"), asked).predictions
    assert answer == Answer("A", False, log_probability, pytest.approx(confidence))
    broken = line.replace("0.7", "1.7") if "0.7" in line else None
    if broken:
        with pytest.raises(DataError, match=r"confidence = 1\.7 must be between 0 and 1"):
            read_predictions(write(tmp_path, "q.jsonl", broken + "\n"), asked)

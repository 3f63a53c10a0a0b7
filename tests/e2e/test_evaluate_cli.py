"""`t5kit evaluate` and Model.evaluate as a user meets them."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from t5kit import Model
from t5kit.api.engines import Engine
from t5kit.cli import main as cli
from t5kit.errors import DataError, RequestError, T5kitError
from t5kit.metrics import METRICS
from t5kit.runtime.native import unavailable_reason
from t5kit.sources.tables import table_of
from t5kit.tasks import Task, TaskForm, Template
from t5kit.tasks.structured_tasks import STRUCTURED_TASKS
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.pages import Page


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]
ROWS = [("one", "1"), ("two", "2"), ("three", "3"), ("one", "uno"), ("five", "5")]
MODEL_WORDS = ("--engine", "reference", "--max-new-tokens", "6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model.from_pretrained(folder, engine="reference")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.tsv"
    path.write_text("".join(f"{prompt}\t{target}\n" for prompt, target in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.delenv("T5KIT_MODEL", raising=False)

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["t5kit", "evaluate", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "internal error" not in captured.err
        code = stop.value.code
        return Result(code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err)

    return run


def test_the_command_prints_what_python_returns(run: Run, folder: Path, data: Path, model: Model) -> None:
    report = model.evaluate(data, ["exact_match", "pronunciation", "perplexity"], max_new_tokens=6)
    found = run(folder, "--data", data, "--metrics", "exact_match,pronunciation,perplexity", *MODEL_WORDS)
    assert (found.code, found.out, found.err) == (0, f"{report}\n", "")
    as_json = run(folder, "-d", data, "--metrics", "exact_match,pronunciation,perplexity", "--json", *MODEL_WORDS)
    assert json.loads(as_json.out) == report.to_json()
    assert json.loads(as_json.out)["num_repeated"] == 1


def test_beams_are_compared_as_the_paper_does_if_asked(run: Run, folder: Path, data: Path, model: Model) -> None:
    beams = dict(num_beams=3, length_penalty=2.0)
    words = ("--metrics", "accuracy", *MODEL_WORDS, "--num-beams", "3", "--length-penalty", "2", "--json")
    answers = []
    for formula in ("power", "paper"):
        out = data.with_name(f"{formula}.jsonl")
        found = run(folder, "-d", data, *words, "--length-penalty-formula", formula, "--predictions", out)
        assert found.code == 0, found.err
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        answers.append([line["prediction"] for line in lines])
        prompts = [prompt for prompt, _ in ROWS]
        expected = model.generate(prompts, max_new_tokens=6, length_penalty_formula=formula, **beams)  # type: ignore[arg-type]
        assert answers[-1] == [text.strip() for text in expected]
    wrong = run(folder, "-d", data, *words, "--length-penalty-formula", "papre")
    assert wrong.code == 2 and "must be one of: power, paper" in wrong.err


def test_answers_are_those_of_generate_and_scores_those_of_score(model: Model, data: Path) -> None:
    report = model.evaluate(data, ["accuracy", "perplexity"], max_new_tokens=6, num_beams=2)
    prompts, targets = [prompt for prompt, _ in ROWS], [target for _, target in ROWS]
    assert [result.prediction for result in report.results] == [
        text.strip() for text in model.generate(prompts, max_new_tokens=6, num_beams=2)
    ]
    total, tokens = sum(model.score(prompts, targets)), sum(len(target) + 1 for target in targets)
    assert report.scores["perplexity"] == pytest.approx(2.718281828459045 ** (-total / tokens), rel=1e-5)


def test_the_likeliest_choice_is_that_of_score(model: Model, data: Path) -> None:
    choices = ["1", "2", "uno"]
    report = model.evaluate(data, ["accuracy"], choices=choices)
    assert len(report.results) == len(ROWS)
    for result in report.results:
        scores = model.score([result.prompt] * 3, choices)
        assert result.prediction == choices[scores.index(max(scores))]


def test_written_predictions_score_the_same_without_the_model(
    run: Run, folder: Path, data: Path, tmp_path: Path
) -> None:
    predictions = tmp_path / "p.jsonl"
    words = ("--metrics", "chrf,exact_match")
    with_model = run(folder, "--data", data, *words, "--predictions", predictions, *MODEL_WORDS)
    lines = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    assert [(line["prompt"], line["references"]) for line in lines] == [(prompt, [right]) for prompt, right in ROWS]
    assert lines[0]["place"] == f"{data}:1"
    without = run("--predictions-only", predictions, "--data", data, *words)
    assert without.out.splitlines()[:3] == with_model.out.splitlines()[:3]
    alone = run("--predictions-only", predictions, *words)
    assert alone.out == without.out


def test_predictions_take_no_options_of_a_model_and_any_encoding(run: Run, tmp_path: Path) -> None:
    data, predictions = tmp_path / "d.tsv", tmp_path / "p.txt"
    data.write_bytes("ein Maß\tGröße\n".encode("cp1252"))
    predictions.write_bytes("Größe\n".encode("cp1252"))
    words = ("--predictions-only", predictions, "--data", data, "--metrics", "exact_match")
    assert "exact_match  100.00" in run(*words, "--encoding", "cp1252").out
    for more in (("--choice", "a", "--choice", "b"), ("--num-beams", "2"), ("--truncate",), ("--max-new-tokens", "5")):
        refused = run(*words, "--encoding", "cp1252", *more)
        assert refused.code == 2 and f"{more[0]} ask something of a model" in refused.err


@pytest.mark.parametrize("slice_name", ["source", "target", "input", "0"])
def test_written_predictions_may_have_slices_of_any_name(run: Run, tmp_path: Path, slice_name: str) -> None:
    line = {"prompt": "a", "references": ["A"], "prediction": "A", "slices": {slice_name: "web"}}
    path, page = tmp_path / "p.jsonl", tmp_path / "page.html"
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    words = ("--predictions-only", path, "--metrics", "exact_match", "--json", "--num-bootstrap-samples", "0")
    found = run(*words, "--slice-by", slice_name, "--report", page)
    assert found.code == 0, found.err
    assert json.loads(found.out)["scores"]["exact_match"]["value"] == 100.0


def test_empty_targets_and_prompts_are_told_and_count(run: Run, model: Model, tmp_path: Path) -> None:
    path, page, predictions = tmp_path / "rows.csv", tmp_path / "page.html", tmp_path / "p.txt"
    path.write_text("text,target\na,A\nb,\n ,C\n", encoding="utf-8")
    predictions.write_text("A\n\nC\n", encoding="utf-8")
    words = ("--predictions-only", predictions, "--data", path, "--metrics", "exact_match")
    found = run(*words, "--input", "say: {text}", "--report", page)
    assert found.code == 0 and "3 examples of 3 records" in found.out
    told = found.err.splitlines()
    assert told[0].startswith(f"t5kit: found: 1 of 3 records have an empty prompt, first {path}:4. They count; ")
    assert told[1].startswith(f"t5kit: found: 1 of 3 records have an empty target, first {path}:3. They count; ")
    shown = Page(page.read_text(encoding="utf-8"))
    assert "Findings" in shown.text_of["h2"] and told[1].removeprefix("t5kit: found: ") in shown.text_of["p"]
    with pytest.warns(UserWarning, match="1 of 2 records have an empty target, first row:2"):
        report = model.evaluate([("a", "A"), ("b", "")], ["exact_match"], max_new_tokens=2)
    assert len(report.results) == 2 and len(report.to_json()["findings"]) == 1


def test_another_encoding_is_told_with_its_option(run: Run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "enc.tsv"
    words = (folder, "--data", path, "--metrics", "exact_match", *MODEL_WORDS)
    path.write_bytes("\u00fcber\tA\nb\tB\n".encode("cp1252"))
    some = run(*words)
    assert some.code == 1 and f"{path}:1: not UTF-8" in some.err and some.err.count("--encoding cp1252") == 1
    path.write_bytes("\u00fcber\tA\n".encode("cp1252"))
    every = run(*words)
    assert every.code == 1 and "not UTF-8" in every.err and every.err.count("--encoding cp1252") == 1


def test_scoring_a_file_of_predictions_loads_no_torch(data: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("1\n2\n3\n1\n5\n", encoding="utf-8")
    code = (
        "import sys\nfrom t5kit.cli.main import main\n"
        f"sys.argv = ['t5kit', 'evaluate', '--predictions-only', {str(tmp_path / 'p.txt')!r}, '--data', {str(data)!r},"
        " '--metrics', 'exact_match']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[1].split()[:2] == ["exact_match", "80.00"]


def test_a_model_is_compared_with_another_and_with_a_file(run: Run, folder: Path, data: Path, tmp_path: Path) -> None:
    words = ("--data", data, "--metrics", "exact_match,chrf", "--num-bootstrap-samples", "50", *MODEL_WORDS)
    same = run(folder, "--compare", folder, *words, "--json")
    comparison = json.loads(same.out)["comparison"]
    assert comparison["scores"]["chrf"]["difference"]["value"] == 0.0
    assert comparison["scores"]["chrf"]["p_value"] == 1.0
    right = tmp_path / "right.tsv"
    right.write_text("".join(f"{prompt}\t{target}\n" for prompt, target in ROWS), encoding="utf-8")
    other = run(folder, "--compare", right, *words)
    assert other.code == 0
    assert f"A: {folder}\n" in other.out
    assert f"B: {right}\n" in other.out
    line = next(line for line in other.out.split("B: ")[1].splitlines() if line.startswith("exact_match"))
    assert line.split()[1:4] == ["0.00", "100.00", "-100.00"]  # of the two lines for "one" each is for its own example
    assert line.split()[-2:] == ["0.062", "-"]  # five examples are too few to call it better
    right.write_text("one\t1\n", encoding="utf-8")
    short = run(folder, "--compare", right, *words)
    assert short.code == 1
    assert [line.split(": ")[1:3] for line in short.err.splitlines()] == [["B", f"{data}:{n}"] for n in (2, 3, 5)]


def test_several_right_answers_are_one_example(run: Run, folder: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("one\tuno\ntwo\t2\nthree\t3\nfive\t6\n", encoding="utf-8")
    words = ("--predictions-only", tmp_path / "p.tsv", "--data", data, "--metrics", "exact_match", "--json")
    assert json.loads(run(*words).out)["scores"]["exact_match"]["value"] == pytest.approx(60.0)
    grouped = json.loads(run(*words, "--repeated-prompts", "group").out)
    assert (grouped["num_examples"], grouped["scores"]["exact_match"]["value"]) == (4, 75.0)
    (tmp_path / "v.tsv").write_text("be\twas/were\ndo\tdid\n", encoding="utf-8")
    (tmp_path / "w.txt").write_text("were\ndid\n", encoding="utf-8")
    words = ("--predictions-only", tmp_path / "w.txt", "--data", tmp_path / "v.tsv", "--metrics", "accuracy", "--json")
    assert json.loads(run(*words, "--reference-separator", "/").out)["scores"]["accuracy"]["value"] == 100.0
    assert json.loads(run(*words).out)["scores"]["accuracy"]["value"] == 50.0


def test_columns_and_templates_make_prompts(run: Run, folder: Path, tmp_path: Path, model: Model) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": ["z"]}\n', encoding="utf-8")
    words = ("--metrics", "exact_match", "--input", "say {text}", "--target", "labels", *MODEL_WORDS)
    predictions = tmp_path / "p.jsonl"
    assert run(folder, "--data", path, *words, "--predictions", predictions).code == 0
    first = json.loads(predictions.read_text(encoding="utf-8").splitlines()[0])
    assert (first["prompt"], first["references"]) == ("say a", ["x", "y"])
    assert first["prediction"] == model.generate("say a", max_new_tokens=6).strip()


def test_a_file_without_a_header_in_another_encoding_is_read(run: Run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_bytes("1,schön,x\n2,grün,y\n".encode("cp1252"))
    words = (folder, "--data", path, "--encoding", "cp1252", "--metrics", "exact_match", *MODEL_WORDS)
    found = run(*words, "--columns", ",input,target", "--predictions", tmp_path / "p.jsonl")
    assert found.code == 0, found.err
    answers = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer["prompt"] for answer in answers] == ["schön", "grün"]
    unnamed = run(*words)
    assert unnamed.code == 1 and "If the file has no header, name its columns: --columns text,label" in unnamed.err


def test_bad_records_and_unanswerable_prompts_are_named_counted_and_fail(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"input": "a", "target": "x"}\nnot json\n{"input": "b"}\n{"input": "much too long", "target": "x"}\n',
        encoding="utf-8",
    )
    words = ("--data", path, "--metrics", "exact_match", "--max-input-tokens", "5", *MODEL_WORDS)
    found = run(folder, *words)
    assert found.code == 1
    assert "2 examples of 4 records, 2 bad records, 1 without an answer" in found.out
    assert [line.split(": ")[1] for line in found.err.splitlines()] == [f"{path}:2", f"{path}:3", f"{path}:4"]
    assert "The text has" in found.err
    cut = run(folder, *words, "--truncate")
    assert "without an answer" not in cut.out


CHOICES = ("--choice", "x", "--choice", "y")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "There is nothing to evaluate"),
        (("M",), "--data is missing"),
        (("M", "--data", "D"), "--metrics is missing; known are: accuracy"),
        (("M", "--data", "D", "--metrics", "rougeL"), "'rougeL' is a number of the metric 'rouge'"),
        (("M", "--data", "D", "--metrics", "blue"), "Did you mean bleu"),
        (("M", "--data", "D", "--metrics", "bleu", "--repeated-prompts", "x"), "must be one of: each, group"),
        (("M", "--data", "D", "--metrics", "bleu", "--choice", "x"), "at least two different"),
        (("M", "--data", "D", "--metrics", "bleu", "--length-normalized"), "no effect without choices"),
        (
            ("M", "--data", "D", "--metrics", "accuracy", *CHOICES, "--num-beams", "2"),
            "num_beams: choices are",
        ),
        (("M", "--data", "D", "--metrics", "accuracy", *CHOICES, "--forbid-copy"), "forbid_copy: choices are"),
        (
            ("M", "--data", "D", "--metrics", "perplexity", "--max-new-tokens", "3"),
            "max_new_tokens: perplexity",
        ),
        (("M", "--data", "D", "--metrics", "bleu", "--input", "{a"), "input = '{a' is no template"),
        (("M", "--data", "D", "--metrics", "bleu", "--format", "xml"), "--format 'xml' must be one of"),
        (("M", "--data", "D", "--metrics", "bleu", "--confidence", "95"), "between 0 and 1"),
        (("M", "--data", "D", "--metrics", "bleu", "--num-beams", "0"), "num_beams"),
        (("M", "--data", "D", "--metrics", "bleu", "--input", "{a!r}"), "expected field names alone"),
        (("M", "--data", "D", "--metrics", "bleu", "--compare", "none.jsonl"), "none.jsonl: there is no such file"),
        (("M", "--data", "D", "--metrics", "bleu", "--compare", "X", "--num-bootstrap-samples", "0"), "resampling"),
        (("M", "--model", "N", "--data", "D", "--metrics", "bleu"), "are given; expected one model"),
        (("M", "--predictions-only", "P", "--data", "D", "--metrics", "bleu"), "are given; expected one model"),
        (("--predictions-only", "D", "--data", "D", "--metrics", "perplexity"), "perplexity needs a model"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(
    run: Run, folder: Path, data: Path, words: tuple[str, ...], message: str
) -> None:
    found = run(*[{"M": str(folder), "D": str(data)}.get(word, word) for word in words], "--engine", "reference")
    assert (found.code, found.out) == (2, "")
    assert message in found.err
    assert len(found.err.splitlines()) == 1


def test_files_that_are_not_there_fail_with_their_name(run: Run, folder: Path, data: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.tsv"
    found = run(folder, "--data", missing, "--metrics", "bleu", "--engine", "reference")
    assert (found.code, str(missing) in found.err) == (1, True)
    found = run("--predictions-only", missing, "--data", data, "--metrics", "bleu")
    assert (found.code, str(missing) in found.err) == (1, True)
    found = run(folder, "--data", data, "--metrics", "accuracy", "--compare", tmp_path / "no model", *MODEL_WORDS)
    assert (found.code, "no model" in found.err, found.out) == (1, True, "")


def test_the_environment_names_the_model(monkeypatch: pytest.MonkeyPatch, run: Run, folder: Path, data: Path) -> None:
    monkeypatch.setenv("T5KIT_MODEL", str(folder))
    assert run("--data", data, "--metrics", "exact_match", *MODEL_WORDS).code == 0


def test_a_ready_task_makes_prompts_and_metrics_of_its_records(
    run: Run, folder: Path, tmp_path: Path, model: Model
) -> None:
    rows = [
        {"text": "Ada saw Paris", "entities": [{"text": "Ada", "type": "person"}]},
        {"text": "It rains", "entities": []},
        {"text": "no entities"},
    ]
    data = tmp_path / "entities.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = run(folder, "-d", data, "--form", "named_entities", "--json", *MODEL_WORDS)
    task = Task("t", STRUCTURED_TASKS["named_entities"], {"test": table_of(rows)})
    expected = model.evaluate(task, max_new_tokens=6)
    assert expected.results[0].prompt == "extract entities: Ada saw Paris"
    assert json.loads(found.out)["scores"] == expected.to_json()["scores"]
    assert found.code == 1 and "entities.jsonl:3: field 'entities'" in found.err
    wrong = run(folder, "-d", data, "--form", "named_entity", *MODEL_WORDS)
    assert wrong.code == 2 and "Did you mean named_entities" in wrong.err
    missing = run("--predictions-only", data, "--form", "named_entities")
    assert missing.code == 2 and "name a file of them with --data" in missing.err


def test_a_task_brings_its_own_prompts_and_metrics(model: Model) -> None:
    form = TaskForm((Template("say {word}", "{number}"),), (METRICS["exact_match"],))
    rows = [{"word": prompt, "number": target} for prompt, target in ROWS]
    task = Task("numbers", form, {"test": table_of(rows)})
    report = model.evaluate(task, max_new_tokens=4, num_bootstrap_samples=0)
    assert (list(report.scores), report.intervals) == (["exact_match"], {})
    assert report.results[0].prompt == "say one"
    with pytest.raises(RequestError, match="makes its own prompts"):
        model.evaluate(task, input="word")
    with pytest.raises(RequestError, match="no split 'dev'"):
        model.evaluate(task, split="dev")


@pytest.mark.parametrize(
    ("data", "words", "kind", "message"),
    [
        (5, {}, RequestError, "data is int"),
        ([("a", "b", "c")], {}, RequestError, "row 1 is"),
        ([], {}, DataError, "there are no rows"),
        (ROWS, {"metrics": None}, RequestError, "metrics is missing"),
        (ROWS, {"metrics": "bleu"}, RequestError, "must be a list of names"),
        (ROWS, {"max_examples": -1}, RequestError, "max_examples"),
        (ROWS, {"max_new_token": 3}, RequestError, "Did you mean max_new_tokens"),
        (ROWS, {"num_bootstrap_samples": -1}, RequestError, "num_bootstrap_samples"),
        (ROWS, {"choices": "ab"}, RequestError, "at least two different"),
    ],
)
def test_wrong_words_in_python_are_refused(
    model: Model, data: Any, words: dict[str, Any], kind: type[T5kitError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        model.evaluate(data, **{"metrics": ["exact_match"], **words})


def test_rows_may_hold_several_right_answers(model: Model) -> None:
    report = model.evaluate([("a", ["x", "y"]), ("b", "z")], ["exact_match"], max_new_tokens=2)
    assert [result.references for result in report.results] == [("x", "y"), ("z",)]


@pytest.mark.slow
def test_real_weights_score_alike_on_native_and_torch(test_files: Path) -> None:
    pytest.importorskip("torch")
    if unavailable_reason() is not None:
        pytest.skip(f"the native engine cannot be loaded: {unavailable_reason()}")
    rows = [
        (f"summarize: {words}", words.split(".")[0])
        for words in (
            "The library reads and writes compressed files. It has bindings for Python and for Perl.",
            "A small editor for the terminal. It highlights the syntax of many programming languages.",
        )
    ]
    reports = []
    engines: tuple[Engine, Engine] = ("native", "torch")
    for engine in engines:
        with Model.from_pretrained(test_files / "flan-t5-small", engine=engine, weights="float32", threads=1) as real:
            reports.append(real.evaluate(rows, ["rouge", "chrf", "perplexity"], max_new_tokens=16, num_beams=2))
    native, torch = reports
    assert [result.prediction for result in native.results] == [result.prediction for result in torch.results]
    assert native.scores == pytest.approx(torch.scores, rel=1e-4)  # float32, sums of some 20 log-probabilities
    assert native.scores["rouge1"] > 0.0


def test_the_page_is_written_with_its_slices_and_the_comparison(
    run: Run, folder: Path, tmp_path: Path, model: Model
) -> None:
    data, page, answers = tmp_path / "rows.jsonl", tmp_path / "page.html", tmp_path / "answers.jsonl"
    rows = [{"input": prompt, "target": target, "kind": target.isdigit()} for prompt, target in ROWS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ("--data", data, "--metrics", "exact_match,chrf", "--slice-by", "kind", *MODEL_WORDS)
    found = run(folder, *words, "--report", page, "--predictions", answers)
    assert (found.code, found.err) == (0, f"t5kit: the report is {page}\n")
    written = Page(page.read_text(encoding="utf-8"))
    assert written.text_of["h1"] == ["tiny"]
    assert {"By kind: exact_match", "Confidence", "Length of answers"} <= set(written.text_of["figcaption"])
    line = json.loads(answers.read_text(encoding="utf-8").splitlines()[0])
    assert line["log_probability"] == pytest.approx(model.generate("one", max_new_tokens=6, details=True).score)
    assert line["slices"] == {"kind": "True"}
    again = run("--predictions-only", answers, "--metrics", "exact_match", "--report", page, "--compare", answers)
    assert again.code == 0
    compared = Page(page.read_text(encoding="utf-8"))
    assert compared.text_of["h1"] == ["answers.jsonl beside answers.jsonl"]
    assert "Confidence" in compared.text_of["figcaption"], "a file of predictions carries it on"
    python = model.evaluate(data, ["exact_match"], slice_by=["kind"], max_new_tokens=6).to_html(name="tiny")
    assert "By kind: exact_match" in Page(python).text_of["figcaption"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--slice-by", "kind"), "--slice-by is for the page of --report"),
        (("--report", "page.html", "--slice-by", "kind"), "a column that no record has; there are: input, target"),
        (("--report", "."), "is a folder; name a file"),
        (("--report", "no such folder/page.html"), "its folder no such folder does not exist"),
    ],
)
def test_a_page_that_cannot_be_is_refused_before_any_work(
    run: Run, folder: Path, tmp_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"input": "a", "target": "b"}\n', encoding="utf-8")
    found = run(folder, "--data", "rows.jsonl", "--metrics", "exact_match", *words, *MODEL_WORDS)
    assert (found.code, found.out, message in found.err) == (2, "", True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]

"""A book in one cell of a table: every command that reads it cuts it, says so, and ends."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from t5kit.cli.app import app
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.pages import Page

BOOK = "Ada met Bob " * 850_000
"""10 MB: what is read, measured or shown whole somewhere takes seconds here, and is refused or fills a page."""
MODEL_WORDS = ["--engine", "reference", "--max-input-tokens", "64"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A column of two books and short texts, and a column of two labels."""
    path = tmp_path_factory.mktemp("data") / "books.csv"
    rows = [f"film {n},{'good' if n % 2 else 'bad'}\n" for n in range(6)]
    path.write_text("".join(["text,label\n", f"{BOOK},good\n", f"{BOOK}again,bad\n", *rows]), encoding="utf-8")
    return path


def run(verb: str, *words: str | Path, stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [verb, *map(str, words)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def finetuned(data: Path, tiny: str, out: Path, *words: str | Path) -> tuple[str, str]:
    """Return what four steps said, and the report."""
    quick = ["--num-steps", "4", "--batch-tokens", "512", "--threads", "1", "--precision", "float32"]
    exit_code, stdout, stderr = run("finetune", "-d", data, "-m", tiny, "-o", out, *quick, *words)
    assert exit_code == 0 and stdout == f"{out / 'model'}\n" and len(stderr) < 20_000
    page = (out / "report.html").read_text("utf-8")
    assert len(page) < 200_000
    return stderr, page


def test_a_book_is_trained_on_cut_and_told(tiny: str, books: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words: list[str | Path] = ["--input", "review: {text}", "--target", "label", "--max-input-tokens", "64"]
    stderr, page = finetuned(books, tiny, out, *words, "--dev", books, "--test", books)
    told = "the longest input has 10,200,014 tokens and the longest target 5; what is over 64 and 16 is cut"
    assert told in stderr and told in page
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert scores["dev"]["num_examples"] == scores["test"]["num_examples"] == 8
    assert (out / "scores.json").stat().st_size < 200_000


def test_a_target_of_ten_million_letters_is_trained_on_cut_and_told(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "targets.csv"
    rows = [f"film {n},it was number {n}\n" for n in range(8)]
    path.write_text("".join(["input,target\n", *rows, f"a book,{BOOK}\n"]), encoding="utf-8")
    words: list[str | Path] = ["--max-target-tokens", "32", "--dev", path, "--metrics", "exact_match"]
    stderr, page = finetuned(path, tiny, tmp_path / "out", *words)
    told = "the longest target 10,200,000; what is over 256 and 32 is cut"
    assert told in stderr and told in page


def test_a_book_is_evaluated_cut(tiny: str, books: Path, tmp_path: Path) -> None:
    page, predictions = tmp_path / "page.html", tmp_path / "predictions.jsonl"
    words: list[str | Path] = [
        "--model",
        tiny,
        "-d",
        books,
        "--input",
        "text",
        "--target",
        "label",
        "--metrics",
        "accuracy",
    ]
    words += [*MODEL_WORDS, "--max-new-tokens", "4", "--num-bootstrap-samples", "0", "--report", str(page)]
    exit_code, stdout, _ = run("evaluate", *words, "--truncate", "--predictions", predictions)
    assert exit_code == 0 and "8 examples" in stdout
    shown = Page(page.read_text("utf-8"))
    assert page.stat().st_size < 200_000 and any("(10,200,00" in text for text in shown.text_of["td"])
    exit_code, _, stderr = run("evaluate", *words)
    assert exit_code == 1 and "--truncate" in stderr and len(stderr) < 20_000


def test_a_book_is_classified_and_its_facts_are_of_what_was_read(tiny: str, books: Path) -> None:
    words: list[str | Path] = ["-m", tiny, "-i", books, *MODEL_WORDS]
    exit_code, stdout, stderr = run("classify", *words, "-l", "good", "-l", "bad", "--truncate")
    assert exit_code == 0 and len(stdout.splitlines()) == 8 and stderr == ""
    schema = json.dumps({"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 1})
    words += ["--prompt", "Find names: {text}", "--schema", schema]
    exit_code, stdout, stderr = run("extract", *words, "--truncate")
    assert exit_code == 0 and len(stdout.splitlines()) == 8 and stderr == ""
    exit_code, stdout, stderr = run("extract", *words)
    assert exit_code == 1 and "--truncate" in json.loads(stdout.splitlines()[0])["error"]

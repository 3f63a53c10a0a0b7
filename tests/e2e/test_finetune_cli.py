"""`t5kit finetune`, as a person types it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from t5kit.cli.app import app
from t5kit.errors import CheckpointError
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.pages import Page

QUICK = ["--num-steps", "4", "--batch-tokens", "256", "--threads", "1", "--precision", "float32"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    rows = [f"film {n},{'good' if n % 2 else 'bad'}" for n in range(60)]
    path.write_text("\n".join(["text,label", *rows, "odd one,godo", "empty,"]) + "\n", encoding="utf-8")
    return path


def run(*words: str | Path, verb: str = "finetune") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [verb, *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_one_command_from_a_csv_to_a_scored_model(tiny: str, reviews: Path, tmp_path: Path) -> None:
    words = ["--data", reviews, "--input", "review: {text}", "--target", "{label}", "--model", tiny, *QUICK]
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="61 records from 1 file.*, 1 bad"):
        exit_code, stdout, stderr = run(*words, "--test", reviews, "--out", out)
    assert exit_code == 0 and stdout == f"{out / 'model'}\n"
    said = " ".join(stderr.split())
    for fact in (
        "records: 54 to learn from, 7 dev (dev: held out of the data",
        "targets: 3 labels: bad 49.2%, good 49.2%, godo 1.6%",
        "metrics: classification_f1 (they fit the targets)",
        "the best accuracy is kept",
        "label 'godo' (once) looks like 'good' (30 times) mistyped",
        "61 of 61 test inputs are in train too",
        "test: accuracy",
        f"use it: t5kit generate --model {out / 'model'} 'review: film",
    ):
        assert fact in said, fact
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert set(scores) == {"engine", "command", "dev", "test"} and scores["test"]["num_examples"] == 61
    page = (out / "report.html").read_text("utf-8")
    for fact in ("test, by label", "What was chosen, and why", "looks like", "t5kit generate", "its target is empty"):
        assert fact in page, fact
    with pytest.warns(UserWarning, match="nothing is left to train"):
        again = run(*words, "--test", reviews, "--out", out, "--json")
    assert again[0] == 0 and json.loads(again[1])["scores"]["dev"] == scores["dev"]


def test_a_dry_run_says_all_and_leaves_nothing(tiny: str, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["-d", reviews, "--input", "text", "--target", "label", "-m", tiny, "-o", out, "--dry-run"]
    exit_code, stdout, stderr = run(*words)
    assert (exit_code, stdout) == (0, "") and not out.exists()
    assert "learning rate:" in stderr and "mistyped" in stderr and "its target is empty" in stderr


def test_a_file_without_a_header_is_trained_on_by_the_names_that_are_given(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("".join(f"film {n},{'good' if n % 2 else 'bad'}\n" for n in range(40)), encoding="utf-8")
    words = ["-d", path, "-m", tiny, "-o", tmp_path / "out", "--dry-run", "--precision", "float32"]
    with pytest.raises(ValueError, match="If the file has no header, name its columns: --columns text,label"):
        run(*words, "--input", "text", "--target", "label")
    exit_code, _, stderr = run(*words, "--columns", "text,label", "--input", "text", "--target", "label")
    assert exit_code == 0 and "records: 36 to learn from, 4 dev" in stderr, stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "labl"], "target names the column 'labl'.*Did you mean 'label'"),
        (["--precision", "float8"], "--precision 'float8' must be one of"),
        (["--metrics", "accuracyy"], "There is no metric 'accuracyy'"),
        (["--encoding", "klingon"], "is not known; usual ones are"),
        (["--lr", "-1"], "lr = -1.0 must be a number above 0"),
    ],
)
def test_a_wrong_word_is_one_sentence(tiny: str, reviews: Path, tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run("-d", reviews, "--input", "text", "--target", "label", "-m", tiny, "-o", tmp_path / "out", *words)


def test_lora_is_trained_and_its_folder_answers(tiny: str, reviews: Path, tmp_path: Path) -> None:
    words = ["-d", reviews, "--input", "text", "--target", "label", "-m", tiny, "-o", tmp_path / "out", *QUICK]
    with pytest.warns(UserWarning, match="its target is empty"):
        exit_code, stdout, stderr = run(*words, "--method", "lora", "--rank", "2", "--targets", "q,v")
    assert exit_code == 0 and stdout == f"{tmp_path / 'out' / 'model'}\n" and "on low-rank additions" in stderr
    answer = ["film 3", "--engine", "reference", "--max-new-tokens", "3"]
    merged = run(*answer, "-m", tmp_path / "out" / "model", verb="generate")
    assert run(*answer, "-m", tmp_path / "out" / "adapter", verb="generate") == merged and merged[0] == 0
    on = ["-d", reviews, "--input", "text", "--target", "label", "-m", tmp_path / "out" / "adapter", *QUICK]
    with pytest.raises(CheckpointError, match=r"adapter is an adapter's folder, expected a model's.*t5kit convert"):
        run(*on, "-o", tmp_path / "on")
    with pytest.raises(ValueError, match="rank = 2 has no effect without method = 'lora'"):
        run(*words, "--rank", "2")


@pytest.mark.parametrize(
    ("method", "more", "folder", "said"),
    [
        ("prompt", ["--num-prompt-tokens", "3"], "adapter", "adamw_rms, on vectors before every input"),
        ("head", [], "model", "adafactor, on the output head alone"),
    ],
)
def test_a_prompt_and_a_head_are_trained_and_their_folders_answer(
    tiny: str, reviews: Path, tmp_path: Path, method: str, more: list[str], folder: str, said: str
) -> None:
    out = tmp_path / "out"
    words = ["-d", reviews, "--input", "text", "--target", "label", "-m", tiny, "-o", out, *QUICK]
    with pytest.warns(UserWarning, match="its target is empty"):
        exit_code, stdout, stderr = run(*words, "--method", method, *more)
    assert exit_code == 0 and stdout == f"{out / folder}\n" and said in stderr
    assert f"use it: t5kit generate --model {out / folder} 'film" in " ".join(stderr.split())
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert set(scores) == {"engine", "command", "dev"} and scores["dev"]["num_examples"] == 7
    assert said in (out / "report.html").read_text("utf-8")
    answer = ["film 3", "--engine", "reference", "--max-new-tokens", "3", "-m", out / folder]
    assert run(*answer, verb="generate")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--synonyms", "words.txt"], "augmentation: other words (in 50% of the train inputs)"),
        (["--noise-rate", "0.1"], "augmentation: mistyped letters (in 50% of the train inputs)"),
        (["--instructions", "instructions.txt"], "instruction: "),
        (["--method", "prompt", "--num-prompt-tokens", "300"], "packed into rows of 312 and"),
    ],
)
def test_an_option_reaches_the_plan(
    tiny: str, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("film, movie\n", encoding="utf-8")
    Path("instructions.txt").write_text("review: {text}\nIs it good? {text}\n", encoding="utf-8")
    way = [] if "--instructions" in words else ["--input", "text"]
    exit_code, _, stderr = run("-d", reviews, *way, "--target", "label", "-m", tiny, "-o", "out", "--dry-run", *words)
    assert exit_code == 0 and said in stderr, stderr
    if "--instructions" in words:
        assert "best of 2 untrained" in stderr
        with pytest.raises(ValueError, match="input and instructions say the same"):
            run("-d", reviews, "--input", "text", "--target", "label", "-m", tiny, "-o", "out", "--dry-run", *words)


def test_back_translations_are_asked_for_in_the_given_words_and_learned(
    tiny: str, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def louder(models: list[str], there: str, back: str, **_: Any) -> Any:
        asked.append((models, there, back))
        return lambda texts: [text.upper() for text in texts]

    monkeypatch.setattr("t5kit.api.paraphrasing.BackTranslation", louder)
    words = ["-d", reviews, "--input", "review: {text}", "--target", "label", "-m", tiny, "--precision", "float32"]
    words += ["-o", tmp_path / "out", "--dry-run", "--back-translate", "to", "--back-translate", "home"]
    exit_code, _, stderr = run(*words, "--there", "into German: {text}", "--back", "out of it: {text}")
    assert exit_code == 0 and "paraphrases: 54 train inputs in other words" in stderr
    assert "records: 108 to learn from, 7 dev" in stderr
    run(*words)
    usual = ("translate English to German: {text}", "translate German to English: {text}")
    assert asked == [(["to", "home"], "into German: {text}", "out of it: {text}"), (["to", "home"], *usual)]


def test_one_class_is_trained_scored_and_told(tiny: str, tmp_path: Path) -> None:
    path, out = tmp_path / "train.csv", tmp_path / "out"
    path.write_text("text,label\n" + "".join(f"film {n},good\n" for n in range(40)), encoding="utf-8")
    words = ["-d", path, "--input", "text", "--target", "label", "-m", tiny, "-o", out, *QUICK]
    exit_code, stdout, stderr = run(*words, "--test", path)
    told = "every target is 'good': there is nothing to tell apart"
    assert exit_code == 0 and stdout == f"{out / 'model'}\n" and f"t5kit: found: {told}" in stderr
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert scores["dev"]["num_examples"] == 4 and scores["test"]["num_examples"] == 40
    shown = Page((out / "report.html").read_text("utf-8"))
    assert any(told in text for text in shown.text_of["li"])


def test_three_rows_are_trained_on_and_told_to_be_too_few(tiny: str, tmp_path: Path) -> None:
    path, out = tmp_path / "train.csv", tmp_path / "out"
    path.write_text("text,label\nfine,good\nawful,bad\nnice,good\n", encoding="utf-8")
    exit_code, stdout, stderr = run("-d", path, "--input", "text", "--target", "label", "-m", tiny, "-o", out, *QUICK)
    told = "3 record(s) are too few to hold some out"
    assert exit_code == 0 and stdout == f"{out / 'model'}\n" and f"t5kit: found: {told}" in stderr
    assert "records: 3 to learn from (too few to hold some out)" in stderr
    assert set(json.loads((out / "scores.json").read_text("utf-8"))) == {"engine", "command"}
    shown = Page((out / "report.html").read_text("utf-8"))
    assert any(told in text for text in shown.text_of["li"])


def test_a_search_prints_the_best_model(tiny: str, reviews: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    out = tmp_path / "out"
    words = ["-d", reviews, "--input", "text", "--target", "{label}", "-m", tiny, "-o", out, "--threads", "1"]
    words += ["--num-epochs", "1", "--batch-tokens", "512", "--num-trials", "1", "--precision", "float32", "--quiet"]
    with pytest.warns(UserWarning, match="its target is empty"):
        exit_code, stdout, stderr = run(*words, verb="tune")
    assert exit_code == 0 and stdout == f"{out / 'model'}\n" and (out / "tuning.html").is_file()
    assert (
        f"the best settings again: t5kit finetune --model {tiny} --data {reviews}" in stderr and "--lr 0.003" in stderr
    )

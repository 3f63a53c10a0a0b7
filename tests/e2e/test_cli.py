"""The command line as a user meets it: arguments, pipes and files in; answers, sentences and exit codes out."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from t5kit import Model
from t5kit.cli import main as cli
from t5kit.testing.folders import write_tiny_folder


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Run:
    """Run `t5kit` in this process; --model and --engine are filled in where the verb takes them."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
        words = [str(argument) for argument in arguments]
        if words[0] in ("generate", "score", "embed") and "--model" not in words:
            words += ["--model", str(folder)]
        if words[0] in ("generate", "score", "embed") and "--engine" not in words:
            words += ["--engine", "reference"]
        monkeypatch.setattr(sys, "argv", ["t5kit", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        code = stop.value.code
        assert "Traceback" not in captured.err
        return Result(code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def expected(folder: Path) -> Callable[[list[str]], list[str]]:
    def answer(texts: list[str]) -> list[str]:
        with Model.from_pretrained(folder, engine="reference") as model:
            return [" ".join(text.splitlines()) for text in model.generate(texts, max_new_tokens=8)]

    return answer


def test_standard_output_carries_the_answer_alone(run: Run, expected: Callable[[list[str]], list[str]]) -> None:
    result = run("generate", "hello", "--max-new-tokens", "8")
    assert (result.code, result.out) == (0, expected(["hello"])[0] + "\n")


def test_a_pipe_is_answered_line_by_line(run: Run, expected: Callable[[list[str]], list[str]]) -> None:
    lines = ["one", "", "three"]
    for arguments in (["generate", "-"], ["generate"], ["generate", "--input", "-"]):
        result = run(*arguments, "--max-new-tokens", "8", stdin="\n".join(lines).encode() + b"\n")
        assert (result.code, result.out.split("\n")[:-1]) == (0, expected(lines))


def test_json_lines_go_in_and_come_out_in_order_with_scores(run: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": i, "text": "x" * i}) + "\n" for i in range(7)), encoding="utf-8")
    result = run("generate", "-i", source, "-o", target, "--json", "--batch-size", "3", "--max-new-tokens", "4")
    assert (result.code, result.out) == (0, "")
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["input"] for row in rows] == ["x" * i for i in range(7)]
    assert all(row["score"] < 0 and len(row["token_ids"]) == len(row["token_scores"]) for row in rows)


def test_a_bad_line_loses_no_other(run: Run, tmp_path: Path, expected: Callable[[list[str]], list[str]]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"text": "one"}\n{broken\n{"texd": "x"}\n{"text": "\xff"}\n{"text": "five"}\n')
    result = run("generate", "-i", source, "--max-new-tokens", "8")
    first, last = expected(["one", "five"])
    assert (result.code, result.out.split("\n")) == (1, [first, "", "", "", last, ""])
    for line in (2, 3, 4):
        assert f"in.jsonl:{line}:" in result.err
    as_json = run("generate", "-i", source, "--json", "--max-new-tokens", "8")
    assert ["error" in json.loads(line) for line in as_json.out.splitlines()] == [False, True, True, True, False]


def test_a_stream_prints_the_same_answer(run: Run) -> None:
    plain = run("generate", "hello", "--max-new-tokens", "12", "--json")
    streamed = run("generate", "hello", "--max-new-tokens", "12", "--stream")
    assert streamed.out == json.loads(plain.out)["text"] + "\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate", "a", "--model", "no/such-folder-here", "--offline"], 1, ["no/such-folder-here"]),
        (["generate", "a", "--model", "/nonexistent/model"], 1, ["/nonexistent/model"]),
        (["generate", "a", "--model", "mini"], 1, ["mini"]),
        (["generate", "-i", "missing.txt"], 1, ["missing.txt", "cannot be read"]),
        (["generate", "a", "-i", "b.txt"], 2, ["exclude each other"]),
        (["generate", "a", "--engine", "warp"], 2, ["warp", "reference"]),
        (["generate", "a", "--early-stopping", "maybe"], 2, ["never"]),
        (["generate", "a", "--num-beams", "0"], 2, ["num_beams"]),
        (["generate", "a", "--max-input-tokens", "1"], 1, ["max_input_tokens = 1", "--truncate"]),
        (["generate", "a", "--no-such-option"], 2, ["no-such-option"]),
        (["generate", "a", "-o", "/nonexistent/out.txt"], 2, ["does not exist"]),
        (["score", "a"], 2, ["one source and one target"]),
        (["inspect", "."], 1, ["config.json"]),
        (["convert", ".", "copy"], 1, ["config.json"]),
        (["tokenizer", "train", "missing.txt", "-o", "v"], 1, ["missing.txt"]),
        (["fly"], 2, ["fly"]),
    ],
)
def test_misuse_is_one_clear_sentence_and_a_code(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code == code
    assert result.out == "" or result.out == "\n"
    for word in words:
        assert word in result.err


def test_score_prints_one_number_a_pair(run: Run, tmp_path: Path, folder: Path) -> None:
    with Model.from_pretrained(folder, engine="reference") as model:
        scores = model.score(["a", "b"], ["c", "d"])
    assert float(run("score", "a", "c").out) == pytest.approx(scores[0], abs=1e-5)
    source = tmp_path / "pairs.tsv"
    source.write_text("a\tc\nalone\nb\td\n", encoding="utf-8")
    result = run("score", "-i", source)
    first, empty, last = result.out.split("\n")[:-1]
    assert (result.code, empty) == (1, "") and "pairs.tsv:2" in result.err
    assert [float(first), float(last)] == pytest.approx(scores, abs=1e-5)


def test_embed_writes_lists_or_one_array(run: Run, tmp_path: Path) -> None:
    vector = json.loads(run("embed", "hello").out)
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("hello\nworld\n", encoding="utf-8")
    assert run("embed", "-i", source, "-o", target).code == 0
    array = np.load(target, allow_pickle=False)
    assert array.shape == (2, len(vector)) and array.dtype == np.float32
    np.testing.assert_allclose(array[0], vector, atol=1e-5)


def test_inspect_says_what_was_inferred_and_why(run: Run, folder: Path) -> None:
    text = run("inspect", folder)
    assert text.code == 0
    for word in ("tied", "scaled", "parameters"):
        assert word in text.out.lower()
    assert isinstance(json.loads(run("inspect", folder, "--json").out), dict)


def test_convert_halves_the_weights_and_keeps_the_answers_readable(run: Run, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "half"
    assert run("convert", folder, target, "--dtype", "bfloat16").code == 0
    assert run("generate", "hello", "--model", target, "--max-new-tokens", "4").code == 0
    again = run("convert", folder, target)
    assert again.code == 1 and "--overwrite" in again.err
    assert run("convert", folder, target, "--overwrite").code == 0


def test_a_vocabulary_is_trained_and_used(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i} of a small text about foxes and dogs\n" for i in range(400)), encoding="utf-8")
    made = run("tokenizer", "train", text, "-o", tmp_path / "v", "--vocab-size", "330", "--num-sentinels", "10")
    assert made.code == 0, made.err
    ids = run("tokenizer", "encode", tmp_path / "v", "small foxes").out.split()
    assert run("tokenizer", "decode", tmp_path / "v", *ids).out == "small foxes\n"


def test_no_space_left_is_one_sentence_and_leaves_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full_disk)
    result = run("generate", "hello", "-o", tmp_path / "out.txt", "--max-new-tokens", "2")
    assert result.code == 1 and "no space left" in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_ends_the_run_quietly(folder: Path) -> None:
    command = [sys.executable, "-c", "from t5kit.cli.main import main; main()", "generate", "--model", str(folder)]
    command += ["--engine", "reference", "--max-new-tokens", "2", "--batch-size", "1"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b"hello\n" * 200)
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert b"Traceback" not in errors and b"Exception" not in errors


def test_control_characters_go_in_and_an_answer_comes_out(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "odd.jsonl"
    texts = [chr(i) for i in range(32)] + ["\x7f", "\u200b", "\ufeff", "\U0001f642", "\ud800"]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    result = run("generate", "-i", source, "--json", "--max-new-tokens", "2")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert len(rows) == len(texts)
    assert ["error" in row for row in rows] == [False] * (len(texts) - 1) + [True]  # a lone surrogate is no text


def test_a_hundred_thousand_characters_are_refused_or_cut(run: Run) -> None:
    text = ("word " * 20_000).encode()
    refused = run("generate", "-", "--max-new-tokens", "2", stdin=text)
    assert refused.code == 1 and "max_input_tokens = 4,096" in refused.err
    cut = run("generate", "-", "--max-new-tokens", "2", "--truncate", "--max-input-tokens", "64", stdin=text)
    assert cut.code == 0

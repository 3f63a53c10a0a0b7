"""The command line as a user meets it: arguments, pipes and files in; answers, sentences and exit codes out."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from t5kit import Model, __version__
from t5kit.cli import main as cli
from t5kit.cli.outputs import open_output
from t5kit.testing.folders import write_tiny_folder


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]

T5KIT = [sys.executable, "-c", "from t5kit.cli.main import main; main()"]


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
            return [re.sub(r"\r\n|\r|\n", " ", text) for text in model.generate(texts, max_new_tokens=8)]

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
        (["generate", "a", "--model", "mini", "--revision", "main"], 1, ["mini", "no revision"]),
        (["generate", "-i", "missing.txt"], 1, ["missing.txt", "cannot be read"]),
        (["generate", "a", "-i", "b.txt"], 2, ["exclude each other"]),
        (["generate", "a", "--engine", "warp"], 2, ["warp", "reference"]),
        (["generate", "a", "--early-stopping", "maybe"], 2, ["never"]),
        (["generate", "a", "--num-beams", "0"], 2, ["num_beams"]),
        (["generate", "a", "--max-input-tokens", "1"], 1, ["max_input_tokens = 1", "--truncate"]),
        (["generate", "a", "--no-such-option"], 2, ["no-such-option"]),
        (["generate", "a", "-o", "/nonexistent/out.txt"], 2, ["does not exist"]),
        (["generate", "a", "-"], 2, ["cannot be one of several"]),
        (["generate", "a", "-o", ""], 2, ["is a folder"]),
        (["generate", "a", "--stream", "--json"], 2, ["--stream", "--json"]),
        (["generate", "a", "--logit-bias", "7"], 2, ["ID=DELTA"]),
        (["generate", "-", "--num-beams", "0"], 2, ["num_beams"]),
        (["embed", "-", "--pooling", "sum"], 2, ["pooling"]),
        (["convert", ".", "copy", "--max-shard-size", "nan"], 2, ["max-shard-size"]),
        (["convert", ".", "copy", "--max-shard-size", "inf"], 2, ["finite"]),
        (["convert", ".", "copy", "--dtype", "int4"], 2, ["int4", "bfloat16"]),
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


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_embed_writes_what_the_suffix_says(run: Run, tmp_path: Path, suffix: str, separator: str) -> None:
    target = tmp_path / f"v{suffix}"
    assert run("embed", "hello", "world", "-o", target).code == 0
    rows = [[float(cell) for cell in line.split(separator)] for line in target.read_text().splitlines()]
    assert rows == [json.loads(line) for line in run("embed", "hello", "world").out.splitlines()]
    failed = run("embed", "hello", "a" * 5000, "-o", tmp_path / f"w{suffix}")
    assert failed.code == 1 and "was not written" in failed.err and not (tmp_path / f"w{suffix}").exists()


def test_embed_refuses_an_ending_that_it_does_not_write(run: Run, tmp_path: Path) -> None:
    result = run("embed", "hello", "-o", tmp_path / "v.parquet", "--model", "none")
    assert result.code == 2 and "v.parquet: must end in one of: .jsonl, .ndjson, .npy, .csv, .tsv." in result.err


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
    command = [*T5KIT, "generate", "--model", str(folder)]
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


def test_an_output_that_is_no_regular_file_stays_what_it_is(run: Run, tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.txt", tmp_path / "target.txt"
    os.mkfifo(pipe)
    target.write_text("old")
    link.symlink_to(target)
    answer = run("generate", "hello", "--max-new-tokens", "4").out
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    assert run("generate", "hello", "--max-new-tokens", "4", "-o", pipe).code == 0
    reader.join(timeout=30)
    assert received == [answer] and pipe.is_fifo()
    assert run("generate", "hello", "--max-new-tokens", "4", "-o", link).code == 0
    assert link.is_symlink() and target.read_text(encoding="utf-8") == answer
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.txt", "pipe", "target.txt"]


def test_a_failed_run_leaves_the_old_output_and_its_neighbours(run: Run, tmp_path: Path) -> None:
    target, neighbour = tmp_path / "out.txt", tmp_path / ".out.txt.partial"
    target.write_text("old")
    neighbour.write_text("mine")
    result = run("generate", "-i", tmp_path / "missing.txt", "-o", target)
    assert result.code == 1 and "missing.txt" in result.err
    assert (target.read_text(), neighbour.read_text()) == ("old", "mine")
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_of_something_else_does_not_take_the_outputs_name(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, open_output(tmp_path / "out.txt"):
        raise OSError(errno.EIO, "broken", "model.safetensors")
    assert caught.value.filename == "model.safetensors"


@pytest.mark.parametrize("delay_s", [0.02, 0.1, 0.2, 0.35, 0.6])
def test_an_interrupt_at_the_start_is_one_sentence(folder: Path, delay_s: float) -> None:
    script = "import sys; from t5kit.cli.main import main; print('up', file=sys.stderr, flush=True); main()"
    command = [sys.executable, "-c", script, "generate", "--model", str(folder), "--engine", "reference"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, b"", b"t5kit: interrupted.\n")


def test_the_package_runs_as_a_module() -> None:
    made = subprocess.run([sys.executable, "-m", "t5kit", "--version"], capture_output=True, text=True, check=True)
    assert made.stdout == f"{__version__}\n"


def test_an_interrupt_at_work_is_one_sentence_and_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    command = [*T5KIT, "generate", "--model", str(folder), "--engine", "reference", "--batch-size", "1"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out.txt")], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"hello\n" * 3000)
    process.stdin.flush()
    while not list(tmp_path.iterdir()):
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"t5kit: interrupted.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("closed", "code", "words"),
    [("<&-", 2, "There is no text"), (">&-", 1, "standard output is closed"), ("2>&-", 2, "")],
)
def test_a_closed_standard_stream_is_no_traceback(folder: Path, closed: str, code: int, words: str) -> None:
    shell = f'exec "$@" {closed}'
    command = ["sh", "-c", shell, "sh", *T5KIT, "generate", "--model", str(folder), "--engine", "reference"]
    if closed != "<&-":
        command += ["hello", "--num-beams", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == code
    assert words in result.stderr and "Traceback" not in result.stderr and result.stderr.count("\n") <= 1


def test_standard_output_is_utf8_whatever_the_environment_says(folder: Path) -> None:
    ids = [str(i) for i in Model.from_pretrained(folder, engine="reference").tokenizer.encode("\u4f60").tolist()]
    result = subprocess.run(
        [*T5KIT, "tokenizer", "decode", str(folder), *ids],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, b"")
    result.stdout.decode("utf-8")


def test_every_text_has_as_many_lines_as_answers_were_asked(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"text": "one"}\n{broken\n{"text": "three"}\n')
    words = ["generate", "-i", source, "--num-beams", "3", "--num-return-sequences", "3", "--max-new-tokens", "3"]
    result = run(*words)
    assert result.code == 1
    lines = result.out.split("\n")[:-1]
    assert len(lines) == 9 and lines[3:6] == ["", "", ""]
    few = run("generate", "one", *words[3:], "--allowed", "a")  # one answer is possible, three were asked for
    assert few.out.count("\n") == 3
    as_json = json.loads(run("generate", "one", *words[3:], "--allowed", "a", "--json").out)
    assert isinstance(as_json["outputs"], list)


def test_what_is_forbidden_is_not_answered(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("say: yes\nsay: no\n", encoding="utf-8")
    words = ["generate", "-i", source, "--allowed", "yes", "--allowed", "no"]
    assert run(*words, "--forbid-copy").out == "no\nyes\n"
    assert run(*words, "--forbidden", "no").out == "yes\nyes\n"
    without_one = run(*words, "--forbid-copy", "--forbidden", "no")
    assert without_one.code == 1 and without_one.out == "\nyes\n" and "forbid_copy" in without_one.err
    none_left = run(*words, "--forbidden", "no", "--forbidden", " yes")
    assert (none_left.code, none_left.out) == (2, "") and "no answer left" in none_left.err


def test_a_file_in_another_encoding_is_told_once_with_what_to_do(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "la tin.txt"
    source.write_bytes("sch\u00f6n\n\u00fcbel\ngood\n".encode("latin-1"))
    result = run("generate", "-i", source, "--max-new-tokens", "2")
    assert result.code == 1 and len(result.out.splitlines()) == 3
    assert result.err.count("not UTF-8 (byte") == 2 and result.err.count("such as --encoding cp1252 (") == 1
    explained = run("explain", "-", "--model", "none", stdin="sch\u00f6n".encode("latin-1"))
    assert "such as --encoding cp1252 (" in explained.err
    assert "give the text as -" in run("explain", "a", "--model", "none", "--encoding", "latin-1").err


def test_an_encoding_and_columns_are_said_of_the_input(
    run: Run, tmp_path: Path, expected: Callable[[list[str]], list[str]]
) -> None:
    source = tmp_path / "plain.csv"
    source.write_bytes("1,sch\u00f6n\n2,gr\u00fcn\n".encode("cp1252"))
    words = ("--columns", "number,text", "--encoding", "cp1252", "--max-new-tokens", "8")
    result = run("generate", "-i", source, *words)
    assert (result.code, result.out.splitlines()) == (0, expected(["sch\u00f6n", "gr\u00fcn"])), result.err
    piped = run("generate", "--format", "csv", *words, stdin=source.read_bytes())
    assert (piped.code, piped.out) == (0, result.out), piped.err
    assert run("embed", "-i", source, *words[:4]).out.count("\n") == 2
    pairs = run("score", "-i", source, "--columns", "source,target", "--encoding", "cp1252")
    assert (pairs.code, pairs.out.count("\n")) == (0, 2), pairs.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--columns", "a,a"), 2, "--columns 'a,a' must be names apart by commas, each there once"),
        (("--encoding", "klingon"), 1, "encoding = 'klingon' is not known"),
        (("--columns", "a,b"), 2, "in.csv:1: has no field 'text'; it has: a, b. Name one with --field."),
        ((), 2, "it has: x, y. Name one with --field. If the file has no header, name its columns: --columns text,lab"),
        (("--columns", "a,b", "--format", "jsonl"), 1, "columns (a, b) are names for CSV and TSV without a header"),
    ],
)
def test_wrong_columns_and_encodings_are_told(
    run: Run, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    source = tmp_path / "in.csv"
    source.write_text("x,y\nu,v\n", encoding="utf-8")
    result = run("generate", "-i", source, *words)
    assert (result.code, said in result.err, result.out) == (code, True, ""), result.err


def test_a_missing_field_says_which_option_names_one(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"body": "a"}\n', encoding="utf-8")
    asked = run("generate", "-i", source)
    assert asked.code == 2 and "in.jsonl:1: has no field 'text'; it has: body. Name one with --field." in asked.err
    assert "it has: body. Name one with --source-field." in run("score", "-i", source).err


@pytest.mark.parametrize("verb", ["generate", "embed"])
def test_a_wrong_field_is_told_once_and_not_of_each_line(run: Run, tmp_path: Path, verb: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"body": "a", "label": "b"}\n' * 30, encoding="utf-8")
    result = run(verb, "-i", source, "--field", "bdy")
    assert (result.code, result.out) == (2, "")
    assert result.err.strip() == f"t5kit: {source}:1: has no field 'bdy'; it has: body, label. Name one with --field."


def test_a_record_that_lacks_the_field_of_others_is_a_bad_line(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"label": "b"}\n{broken\n{"text": "a"}\n', encoding="utf-8")
    result = run("embed", "-i", source)
    assert result.code == 1 and ["error" in json.loads(line) for line in result.out.splitlines()[:2]] == [True, True]
    assert isinstance(json.loads(result.out.splitlines()[2]), list)


def test_a_stream_takes_one_text_and_says_what_is_wrong_with_it(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"{broken\n")
    bad = run("generate", "-i", source, "--stream")
    assert bad.code == 1 and "in.jsonl:1: not valid JSON" in bad.err
    assert "got more" in run("generate", "a", "b", "--stream").err
    assert "got none" in run("generate", "-", "--stream").err


def test_a_stream_does_not_read_an_endless_pipe_to_its_end(folder: Path) -> None:
    command = [*T5KIT, "generate", "--model", str(folder), "--engine", "reference", "--stream"]
    endless = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    try:
        result = subprocess.run(command, stdin=endless.stdout, capture_output=True, timeout=60, check=False)
    finally:
        endless.kill()
        endless.communicate()
    assert result.returncode == 2 and b"got more" in result.stderr


def test_decode_refuses_ids_that_the_vocabulary_does_not_have(run: Run, folder: Path) -> None:
    for token in ("-1", "99999999", str(2**70)):
        result = run("tokenizer", "decode", folder, "--", "5", token)
        assert result.code == 2 and token in result.err and "[0, " in result.err
    missing = run("tokenizer", "encode", "no/such-folder-here", "a", "--offline")
    assert missing.code == 1 and "no/such-folder-here" in missing.err


def test_score_reads_tsv_from_standard_input_however_it_is_named(run: Run) -> None:
    pipe = run("score", stdin=b"a\tc\n")
    named = run("score", "--input", "-", stdin=b"a\tc\n")
    assert (pipe.code, named.code) == (0, 0) and pipe.out == named.out


def test_only_a_missing_vocabulary_is_tolerated_by_convert(run: Run, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    for name in ("config.json", "tokenizer_config.json"):  # no longer a ByT5, which needs no vocabulary file
        words = config if name == "config.json" else {}
        (copy / name).write_text(json.dumps(words | {"tokenizer_class": "T5Tokenizer"}), encoding="utf-8")
    (copy / "spiece.model").write_bytes(b"broken")
    broken = run("convert", copy, tmp_path / "out")
    assert broken.code == 1 and "spiece.model" in broken.err and not (tmp_path / "out").exists()
    (copy / "spiece.model").unlink()
    missing = run("convert", copy, tmp_path / "out")
    assert missing.code == 0 and "no tokenizer" in missing.err


def test_the_words_of_python_are_understood_too(run: Run) -> None:
    dashed = ["--max-length", "5", "--do-sample", "--seed", "1", "--suppress-tokens", "5", "--stop-strings", "zz"]
    short = ["--max-new-tokens", "4", "--sample", "--seed", "1", "--suppress-token", "5", "--stop", "zz"]
    assert run("generate", "hello", *dashed) == run("generate", "hello", *short)
    forced = json.loads(run("generate", "hello", "--logit-bias", "7=1000", "--max-length", "3", "--json").out)
    assert forced["token_ids"] == [7, 7]


def test_samples_do_not_depend_on_the_batch_size(run: Run) -> None:
    arguments = ["generate", "--temperature", "1.5", "--seed", "1", "--max-new-tokens", "6", "--json"]
    outputs = [run(*arguments, "--batch-size", size, stdin=b"same\nsame\nother\n").out for size in ("1", "2", "3")]
    assert outputs[0] == outputs[1] == outputs[2]
    first, second, _ = (json.loads(line)["token_ids"] for line in outputs[0].splitlines())
    assert first != second

"""`t5kit generate --resume`: killed at any moment and started again, no line is lost, repeated or different."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from t5kit.checkpoint import open_folder
from t5kit.checkpoint.adapters import linear_map_shapes, write_lora
from t5kit.cli import generate
from t5kit.cli.main import main
from t5kit.errors import RequestError
from t5kit.testing.folders import write_tiny_folder

NUM_TEXTS = 1200
COMMAND = [sys.executable, "-c", "from t5kit.cli.main import main; main()"]
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("resume") / "tiny")


@pytest.fixture
def arguments(folder: Path, tmp_path: Path) -> Arguments:
    texts = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"text {number % 50}"}) for number in range(NUM_TEXTS)]
    lines[7] = "not JSON"
    texts.write_text("\n".join(lines) + "\n")

    def made(output: Path, *more: str) -> list[str]:
        sampling = ["--temperature", "0.9", "--seed", "3", "--max-new-tokens", "6", "--batch-size", "40"]
        threads = ["--threads", "1", "--weights", "float32"]
        return ["generate", "-m", str(folder), "-i", str(texts), "-o", str(output), *sampling, *threads, *more]

    return made


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["t5kit", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert isinstance(left.value.code, int)
    return left.value.code


def test_a_run_killed_again_and_again_writes_what_one_run_writes(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    assert run(arguments(whole, "--json"), monkeypatch) == 1  # one line is not JSON
    partial = tmp_path / "resumed.jsonl.partial"
    for share in (0.2, 0.6):
        process = subprocess.Popen([*COMMAND, *arguments(resumed, "--json", "--resume")], stderr=subprocess.DEVNULL)
        while process.poll() is None and (
            not partial.exists() or partial.stat().st_size < share * whole.stat().st_size
        ):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not resumed.exists()
    with partial.open("r+b") as stream:
        stream.seek(-3, os.SEEK_END)
        stream.truncate()  # as if it had been killed within a line
    assert run(arguments(resumed, "--json", "--resume"), monkeypatch) == 0
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.jsonl", "texts.jsonl", "whole.jsonl"]


def test_several_lines_a_text_are_kept_together(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole.txt", tmp_path / "resumed.txt"
    run(arguments(whole, "--num-return-sequences", "2"), monkeypatch)
    (tmp_path / "resumed.txt.partial").write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:101]))
    options = arguments(resumed, "--num-return-sequences", "2", "--resume")
    assert run(options, monkeypatch) == 2  # nobody knows what it was asked
    monkeypatch.undo()
    (tmp_path / "resumed.txt.partial").unlink()
    assert run(options, monkeypatch) == 1
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_run_about_something_else_is_refused(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    process = subprocess.Popen([*COMMAND, *arguments(output, "--resume")], stderr=subprocess.DEVNULL)
    partial = tmp_path / "out.jsonl.partial"
    while process.poll() is None and (not partial.exists() or not partial.stat().st_size):
        time.sleep(0.002)
    if process.poll() is None:
        assert run(arguments(output, "--resume"), monkeypatch) == 2
        assert "another run is writing it" in capsys.readouterr().err
    process.kill()
    process.wait()
    assert run(arguments(output, "--resume", "--top-k", "5"), monkeypatch) == 2
    assert "top_k = None, and now it is 5" in capsys.readouterr().err
    assert run(arguments(output, "--resume", "--stream"), monkeypatch) == 2


def test_a_run_does_not_go_on_with_another_adapter(
    folder: Path,
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, output = "encoder.block.0.layer.0.SelfAttention.o", tmp_path / "out.jsonl"
    rows, columns = linear_map_shapes(open_folder(folder).config)[name]
    for letter, value in (("a", 0.1), ("b", 0.2)):
        parts = {name: (np.full((1, columns), value, np.float32), np.ones((rows, 1), np.float32))}
        write_lora(tmp_path / letter, parts, rank=1, alpha=1.0, dropout=0.0, targets=["o"], base=str(folder))

    def stop(*_: object, **__: object) -> None:
        raise RequestError("stopped")

    answer = generate.answer_chunk
    chunks = iter([answer, stop])
    monkeypatch.setattr(generate, "answer_chunk", lambda *words, **more: next(chunks)(*words, **more))
    assert run(arguments(output, "--resume", "-m", str(tmp_path / "a")), monkeypatch) == 2
    monkeypatch.setattr(generate, "answer_chunk", answer)
    capsys.readouterr()
    for other in (tmp_path / "b", folder):
        assert run(arguments(output, "--resume", "-m", str(other)), monkeypatch) == 2
        assert "its stopped run had adapter = " in capsys.readouterr().err
    assert run(arguments(output, "--resume", "-m", str(tmp_path / "a")), monkeypatch) == 0
    assert "going on after them" in capsys.readouterr().err

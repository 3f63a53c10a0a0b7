"""`t5kit generate --runner ray` on a Ray cluster of this machine: the same lines in the same order as one process."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from t5kit.cli import generate
from t5kit.cli.main import main
from t5kit.cli.ray_runner import ray_cluster
from t5kit.errors import RequestError
from t5kit.testing.folders import write_tiny_folder

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 't5kit[ray]'"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors, one for each actor"),
]

NUM_TEXTS = 90
ON_RAY = ["--runner", "ray", "--num-actors", "2", "--threads", "1"]
Run = Callable[..., int]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Any]:
    """The cluster that all runs here use, since starting one takes seconds: of RAY_ADDRESS, or of this machine."""
    with ray_cluster(None) as ray:
        yield ray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("ray") / "tiny")


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Answer a file with repeated, bad, long and odd lines, by names that only the command's own folder knows."""
    lines = [json.dumps({"text": f"text {number % 7}"}) for number in range(NUM_TEXTS)]
    lines[5] = "not JSON"
    lines[33] = json.dumps({"text": "x" * 200})
    lines[60] = json.dumps({"text": "half of a pair: \ud800"})
    lines[61] = json.dumps({"body": "no text"})
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n")

    def run(output: str, *more: str) -> int:
        command = ["generate", "-m", str(folder), "-i", "texts.jsonl", "-o", output, "--max-input-tokens", "100"]
        command += ["--max-new-tokens", "6", "--batch-size", "8", "--weights", "float32"]
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["t5kit", *command, *more])
            with pytest.raises(SystemExit) as left:
                main()
        assert isinstance(left.value.code, int)
        return left.value.code

    return run


SAMPLING = ["--json", "--temperature", "0.9", "--seed", "3"]


def test_two_actors_write_what_one_process_writes(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("one.jsonl", *SAMPLING) == 1  # four lines cannot be answered
    told = capsys.readouterr().err
    assert run("ray.jsonl", *SAMPLING, *ON_RAY) == 1
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    ours = [line for line in capsys.readouterr().err.splitlines() if line.startswith("t5kit:")]
    assert ours == told.splitlines() and "texts.jsonl:6: not valid JSON" in told and len(ours) == 5


def test_a_stopped_run_goes_on_and_writes_what_one_process_writes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    several = ["--num-return-sequences", "2", "--temperature", "0.9", "--seed", "3"]
    run("one.txt", *several)
    write, num_written = generate.write_answered, 0

    def stop_after_three(*words: Any) -> None:
        nonlocal num_written
        if num_written == 3:
            raise RequestError("stopped")
        num_written += 1
        write(*words)

    monkeypatch.setattr(generate, "write_answered", stop_after_three)
    assert run("ray.txt", *several, *ON_RAY, "--resume") == 2
    partial = tmp_path / "ray.txt.partial"
    assert partial.read_text().count("\n") == 3 * 8 * 2
    with partial.open("a") as stream:
        stream.write("half of a text's two lines\n")
    monkeypatch.setattr(generate, "write_answered", write)
    assert run("ray.txt", *several, "--resume") == 2  # another runner's, which may be another engine's
    assert "its stopped run had engine = ['auto over ray', 'float32']" in capsys.readouterr().err
    assert run("ray.txt", *several, *ON_RAY, "--resume") == 1
    assert "24 texts were answered before" in capsys.readouterr().err
    assert (tmp_path / "ray.txt").read_bytes() == (tmp_path / "one.txt").read_bytes()


def test_what_an_actor_cannot_do_is_told_as_in_one_process(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("out.txt", *ON_RAY, "--engine", "quantum") == 2
    assert "engine = 'quantum' must be one of" in capsys.readouterr().err
    assert not (tmp_path / "out.txt").exists()

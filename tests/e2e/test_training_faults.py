"""Training that is killed, interrupted or runs out of disk, in real processes: nothing is lost, to the bit.

The long form, T5KIT_NUM_KILLS=20 pytest tests/e2e/test_training_faults.py, kills more often.
"""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from t5kit.training.run_folder import TIMED_KEYS, RunFolder

NUM_KILLS = int(os.environ.get("T5KIT_NUM_KILLS", "3"))

SERVER = """
import json, os, sys, traceback, warnings
from pathlib import Path
from t5kit.errors import T5kitError
from t5kit.testing.runs import tiny_run
from t5kit.training.config import ComputeConfig, TrainingConfig
from t5kit.training import environment, loop, step
from t5kit.training.loop import train

def go(order):
    path = Path(order["path"])
    if order["num_operations"] is not None:
        left = order["num_operations"]
        def count(event, arguments):
            nonlocal left
            if event in EVENTS and any(str(path) in str(a) for a in arguments):
                left -= 1
                if left < 0:
                    os._exit(9)
        sys.addaudithook(count)
    if order["file_size"]:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"],) * 2)
    run = tiny_run(path, TrainingConfig(**order["training"]), compute=ComputeConfig(**order["compute"]))
    with run.folder:
        train(run)

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    code = 1
    try:
        os.setpgid(0, 0)
        sys.stdin = open(os.devnull)
        go(json.loads(line))
        code = 0
    except T5kitError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
        code = 99
    finally:
        sys.stderr.flush()
        os._exit(code)
"""
"""Starts a process for every order, by forking: PyTorch is loaded once and each start takes a moment."""

TRAINING = dict(num_steps=16, log_every=5, evaluate_every=4, checkpoint_every=2, keep_checkpoints=1)
COMPUTE = dict(precision="bfloat16", num_threads=1, device="cpu")


class Starter:
    """Starts runs as processes of their own."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        environment = os.environ | {"PYTHONWARNINGS": "ignore::UserWarning", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.open("wb"),
            env=environment,
            text=True,
        )
        assert self._line() == "ready", errors.read_text()

    def start(
        self,
        path: Path,
        *,
        num_operations: int | None = None,
        file_size: int = 0,
        training: dict[str, Any] | None = None,
        compute: dict[str, Any] | None = None,
    ) -> int:
        """Begin or resume the run in `path` and return the process's number."""
        order: dict[str, Any] = {"path": str(path), "num_operations": num_operations, "file_size": file_size}
        order |= {"training": TRAINING | (training or {}), "compute": COMPUTE | (compute or {})}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def wait_for(self, pid: int, is_true: Callable[[], bool]) -> None:
        """Wait until something is true, or the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            while not is_true():
                os.kill(pid, 0)
                time.sleep(0.001)

    def code(self) -> int:
        """Wait for that process and return its exit code, negative for a signal."""
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self, pid: int) -> int:
        """Kill the process and return its exit code: 0 if it had finished before."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = self.code()
        assert code in (0, -signal.SIGKILL), self.errors.read_text()
        return code

    def finish(self, path: Path, **others: Any) -> None:
        self.start(path, **others)
        assert self.code() == 0, self.errors.read_text()


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    starter = Starter(tmp_path_factory.mktemp("starter") / "errors")
    yield starter
    assert starter.process.stdin is not None
    starter.process.stdin.close()
    starter.process.wait(60)


@pytest.fixture(scope="module")
def whole(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that never stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    starter.finish(path)
    return path


def lines_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED_KEYS} for line in lines]


def assert_equal_runs(one: Path, two: Path) -> None:
    """Every metric line, the result, the final model and the last checkpoint are the same to the bit."""
    assert lines_of(one) == lines_of(two)
    assert (one / "result.json").read_bytes() == (two / "result.json").read_bytes()
    for folder in ("model", "checkpoints/step-00000016"):
        for name in sorted(path.name for path in (two / folder).iterdir()):
            if name not in ("state.json", "manifest.json"):  # they hold seconds
                assert (one / folder / name).read_bytes() == (two / folder / name).read_bytes(), name
    assert sorted(p.name for p in (one / "checkpoints").iterdir()) == sorted(
        p.name for p in (two / "checkpoints").iterdir()
    )


def has_started(folder: Path, num_starts: int) -> bool:
    path = folder / "environment.json"
    return path.exists() and len(json.loads(path.read_text())) >= num_starts


def test_killed_at_random_instants_a_run_resumes_to_the_bit(starter: Starter, whole: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    starter.finish(tmp_path / "timed")
    whole_s = time.monotonic() - begun
    assert_equal_runs(tmp_path / "timed", whole)  # what is compared with is a fact, not luck
    rng, share = random.Random(NUM_KILLS), 2 / (min(NUM_KILLS, 4) + 1)
    num_runs = num_starts = num_kills = 0
    while num_kills < NUM_KILLS:
        path = tmp_path / f"run {num_runs}"
        pid, num_starts = starter.start(path), num_starts + 1
        # Then it trains: the instants spread over steps, evaluations, saving and rotating.
        starter.wait_for(pid, functools.partial(has_started, path, num_starts))
        time.sleep(rng.random() * share * whole_s)
        if starter.kill(pid) == 0:  # it was done before
            assert_equal_runs(path, whole)
            num_runs, num_starts = num_runs + 1, 0
            continue
        num_kills += 1
        print(f"{path.name} killed at {sorted(p.name for p in path.glob('checkpoints/*'))}")
    starter.finish(path)
    assert_equal_runs(path, whole)


def test_killed_before_any_operation_on_a_file_a_run_resumes_to_the_bit(
    starter: Starter, whole: Path, tmp_path: Path
) -> None:
    """Start after start dies at a later operation: in creating, restoring, saving, rotating, finishing."""
    num_deaths, stride = 0, 29 if NUM_KILLS <= 3 else 5
    for allowed in range(0, 10_000, stride):
        starter.start(tmp_path / "run", num_operations=allowed)
        if (code := starter.code()) == 0:
            break
        assert code == 9, starter.errors.read_text()
        num_deaths += 1
    print(f"{num_deaths} deaths, the last start was allowed {allowed} operations")
    assert num_deaths >= 3
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_sentence_its_exit_code_and_a_run_to_resume(
    number: signal.Signals, starter: Starter, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    pid = starter.start(path)
    starter.wait_for(pid, (path / "checkpoints" / "step-00000002").exists)
    os.kill(pid, number)
    assert starter.code() == 128 + number
    assert f"stopped by {number.name} after step" in starter.errors.read_text().splitlines()[-1]
    starter.finish(path)
    assert_equal_runs(path, whole)


def test_a_disk_that_is_full_while_saving_loses_nothing(starter: Starter, whole: Path, tmp_path: Path) -> None:
    """The system lets no file grow beyond what checkpoint 2's weights need: the first save fails, half written."""
    path = tmp_path / "run"
    starter.start(path, file_size=100_000)
    assert starter.code() == 1
    assert "There is no space left to write" in starter.errors.read_text().splitlines()[-1]
    assert list((path / "checkpoints").iterdir()) == []
    pid = starter.start(path)
    starter.wait_for(pid, (path / "checkpoints" / "step-00000004").exists)
    starter.kill(pid)
    last = max(path.glob("checkpoints/step-*"))
    before = {file.name: file.read_bytes() for file in last.iterdir()}
    starter.start(path, file_size=100_000)
    assert starter.code() == 1
    assert {file.name: file.read_bytes() for file in last.iterdir()} == before
    starter.finish(path)
    assert_equal_runs(path, whole)


def test_an_altered_checkpoint_is_refused_by_name_and_the_one_before_serves(
    starter: Starter, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    two = dict(keep_checkpoints=2)
    pid = starter.start(path, training=two)
    starter.wait_for(pid, (path / "checkpoints" / "step-00000008").exists)
    starter.kill(pid)
    newest = max(path.glob("checkpoints/step-*"))
    with (newest / "optimizer.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    starter.finish(path)
    assert (path / "checkpoints" / f"{newest.name}.refused").is_dir()
    for refused in (path / "checkpoints").glob("*.refused"):
        refused.rename(tmp_path / refused.name)
    assert_equal_runs(path, whole)


def test_two_processes_on_one_folder_are_refused(starter: Starter, whole: Path) -> None:
    with RunFolder(whole):
        starter.start(whole)
        assert starter.code() == 2
    assert f"another process is training in {whole}" in starter.errors.read_text().splitlines()[-1]
    starter.finish(whole)  # it is finished, and free again

"""Two processes that train one model are stopped and go on to the bit; the first of them writes for both."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from t5kit.training.run_folder import TIMED_KEYS

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from pathlib import Path
import torch
from t5kit.errors import T5kitError
from t5kit.testing.runs import tiny_run
from t5kit.training.config import ComputeConfig, OptimizerConfig, TrainingConfig
from t5kit.training.loop import train

config = TrainingConfig(num_steps=8, log_every=3, evaluate_every=4, checkpoint_every=int(sys.argv[2]))
compute = ComputeConfig(precision="bfloat16", num_threads=1, device="cpu")
run = tiny_run(Path(sys.argv[1]), config, compute=compute, optimizer=OptimizerConfig(name="adamw"))
code = 0
with run.folder:
    try:
        result = train(run)
        assert result.num_steps == 8 and result.model_path.is_dir(), result
    except T5kitError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
torch.distributed.barrier()
torch.distributed.destroy_process_group()
sys.exit(code)
"""


def start_two(path: Path, *, checkpoint_every: int = 3) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), str(checkpoint_every)],
            env=os.environ | several | {"RANK": str(rank), "PYTHONHASHSEED": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def codes(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    try:
        errors = "".join(process.communicate(timeout=120)[1] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def finish(path: Path) -> None:
    found, errors = codes(start_two(path))
    assert found == [0, 0], errors
    assert "not equal to the bit" not in errors


def lines_of(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED_KEYS} for line in lines]


def test_two_processes_stop_together_and_resume_to_the_bit(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    processes = start_two(tmp_path / "run", checkpoint_every=1)
    while not (tmp_path / "run" / "checkpoints" / "step-00000001").exists() and processes[0].poll() is None:
        time.sleep(0.001)
    processes[1].send_signal(signal.SIGTERM)  # the second process alone hears it
    stopped, errors = codes(processes)
    assert stopped == [143, 143], errors
    assert errors.count("stopped by SIGTERM after step") == 2
    assert not (tmp_path / "run" / "result.json").exists()
    finish(tmp_path / "run")
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")
    for name in ("model/model.safetensors", "checkpoints/step-00000008/optimizer.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

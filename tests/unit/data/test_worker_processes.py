"""What becomes of data workers when signals come."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing, sys, time
from t5kit.data import BlockMaker
from t5kit.data.workers import BlockJob, BlockPlace
from t5kit.sources import table_of
from t5kit.tasks import PairExamples, TaskForm, Template
from t5kit.text import ByteTokenizer

if __name__ == "__main__":
    table = table_of([{"source": str(n), "target": str(n)} for n in range(20)])
    pairs = PairExamples(TaskForm((Template("{source}"),)), table, ByteTokenizer(), block_size=4)
    with BlockMaker([pairs], seed=0, is_shuffled=True, num_workers=1) as maker:
        first = maker.block(BlockJob(BlockPlace(0, 0, 0)))
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        sys.stdin.readline()
        print(len(maker.block(BlockJob(BlockPlace(0, 0, 1))).examples), flush=True)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, with one data worker."""
    path = tmp_path / "loads.py"
    path.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as started:
        yield started
        started.kill()


def _is_alive(pid: int) -> bool:
    try:
        # A zombie that nobody has waited for is dead too.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc to see whether a process is alive")
def test_workers_end_when_their_process_is_killed(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    assert workers
    assert all(map(_is_alive, workers))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(map(_is_alive, workers)):
        assert time.monotonic() < deadline, "a worker outlived the process that started it"
        time.sleep(0.05)


def test_ctrl_c_leaves_the_workers_to_the_process_that_started_them(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdin is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    for worker in workers:
        os.kill(worker, signal.SIGINT)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "4\n"

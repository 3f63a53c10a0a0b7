"""The engine's threads: processes that fork, systems that give none, callers from several threads, cgroups' quotas."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from t5kit.errors import EngineError
from t5kit.runtime import Need, StepInput
from t5kit.runtime.native import NativeRuntime
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

_native = pytest.importorskip("t5kit._native")
CONFIG = TINY_CONFIGS["t5_v1_1"]


def runtime_of(threads: int) -> NativeRuntime:
    return NativeRuntime(CONFIG, random_tensors(CONFIG), weights="float32", threads=threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_can_let_go_of_the_model() -> None:
    runtime = runtime_of(4)
    runtime.encoder_states([np.array([5, 1], np.int32)])
    time.sleep(0.02)  # its threads sleep by now
    child = os.fork()
    if child == 0:
        del runtime
        os._exit(0)
    end_s = time.monotonic() + 20
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end_s:
        time.sleep(0.01)
    if found == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert found[0] == child and os.waitstatus_to_exitcode(found[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("is_new_one_closed_first", [False, True])
def test_a_forked_child_can_load_the_model_again(is_new_one_closed_first: bool) -> None:
    """The system gives the child's threads the names of those that stayed behind."""
    prompt = [np.array([5, 9, 1], np.int32)]
    runtime = runtime_of(3)
    (expected,) = runtime.encoder_states(prompt)
    child = os.fork()
    if child == 0:
        is_same = False
        with contextlib.suppress(BaseException):
            again = runtime_of(3)
            if is_new_one_closed_first:
                is_same = np.array_equal(again.encoder_states(prompt)[0], expected)
                again.close()
            runtime.close()
            if not is_new_one_closed_first:
                is_same = np.array_equal(again.encoder_states(prompt)[0], expected)
                again.close()
        os._exit(0 if is_same else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_model_of_one_thread_answers_in_a_forked_child() -> None:
    """Servers that fork after loading share the weights so; a model of more threads leaves them behind and says so."""
    prompt = [np.array([5, 9, 1], np.int32)]
    alone, several = runtime_of(1), runtime_of(3)
    (expected,) = alone.encoder_states(prompt)
    child = os.fork()
    if child == 0:
        is_same = False
        with contextlib.suppress(BaseException):
            is_same = np.array_equal(alone.encoder_states(prompt)[0], expected)
            try:
                several.encoder_states(prompt)
            except EngineError as error:
                os._exit(0 if is_same and "loaded before the process was forked" in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


FEW_THREADS = """
import resource, sys
from t5kit.errors import EngineError
from t5kit.runtime.native import NativeRuntime
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

config = TINY_CONFIGS["t5"]
tensors = list(random_tensors(config))
# Each thread needs address space for its stack; there is room for some, and not for a thousand.
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, resource.RLIM_INFINITY))
try:
    NativeRuntime(config, tensors, threads=1024)
except EngineError as error:
    assert "of 1024 threads" in str(error) and "threads=" in str(error), error
    NativeRuntime(config, tensors, threads=2)
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_threads_that_the_system_does_not_give_are_an_error() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FEW_THREADS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr


LITTLE_MEMORY = """
import dataclasses, resource
import numpy as np
from t5kit.runtime import Need, StepInput
from t5kit.runtime.native import NativeRuntime
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], vocab_size=60_000)
tensors = list(random_tensors(config))

def outcome(margin):
    runtime = NativeRuntime(config, tensors, weights="int8", threads=2)
    slots = runtime.open_slots(runtime.encode([np.array([5, 1], np.int32)] * 64))
    step = StepInput.one_token_each(slots, np.zeros(64, np.int32), need=Need(top_k=3000))
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + margin, resource.RLIM_INFINITY))
    try:
        runtime.step(step)
        return "answered"
    except MemoryError:
        return "refused"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        runtime.close()

found = {outcome(number * 150_000) for number in range(200)}
assert found == {"answered", "refused"}, found
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_memory_that_runs_out_anywhere_in_a_step_is_an_error() -> None:
    # Every allocation of 4 KB and more asks the system, so that a limit can stop any of them.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "4096", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY], env={**os.environ, **malloc}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_in_the_middle_of_another_threads_call_is_told_so() -> None:
    runtime = runtime_of(1)
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            runtime.encoder_states([np.full(400, 5, np.int32)] * 40)

    def told_in_a_child() -> str:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                runtime.encoder_states([np.array([5, 1], np.int32)])
                os._exit(0)
            except EngineError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as said:
            return said.read()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        end_s = time.monotonic() + 20
        while not (told := told_in_a_child()) and time.monotonic() < end_s:
            pass
        is_over.set()
        working.result()
    assert "when the process was forked" in told and "Load it again" in told


def test_a_second_thread_is_told_that_the_model_is_at_work() -> None:
    runtime = runtime_of(1)
    long = [np.full(400, 5, np.int32)] * 40
    is_told = threading.Event()
    told: list[str] = []

    def ask(sequences: list[np.ndarray]) -> None:
        end_s = time.monotonic() + 30
        while not is_told.is_set() and time.monotonic() < end_s:
            try:
                runtime.encoder_states(sequences)  # without Python's lock, so the other thread runs meanwhile
            except EngineError as error:
                told.append(str(error))
                is_told.set()

    with ThreadPoolExecutor(2) as pool:
        for asked in [pool.submit(ask, long), pool.submit(ask, long)]:
            asked.result()
    assert told and all("another thread" in each for each in told)
    runtime.encoder_states(long)  # nothing is left of it


def test_two_engines_in_two_threads_give_the_bits_of_each_alone() -> None:
    prompts = [np.random.default_rng(n).integers(2, CONFIG.vocab_size, 5 + 3 * n).astype(np.int32) for n in range(6)]

    def answers(runtime: NativeRuntime) -> list[bytes]:
        found = [states.tobytes() for states in runtime.encoder_states(prompts)]
        slots = runtime.open_slots(runtime.encode(prompts))
        tokens = np.zeros(len(prompts), np.int32)
        for _ in range(12):
            out = runtime.step(StepInput.one_token_each(slots, tokens, need=Need(top_k=2)))
            tokens = out.top_ids[:, 0].astype(np.int32)
            found.append(out.top_logits.tobytes())
        runtime.close_slots(slots)
        return found

    runtimes = [runtime_of(2), runtime_of(2)]
    alone = answers(runtimes[0])
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(answers, runtimes):
            assert found == alone


def test_threads_that_wait_for_work_sleep() -> None:
    runtime = runtime_of(4)
    runtime.encoder_states([np.array([5, 1], np.int32)])
    time.sleep(0.05)
    before_s = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before_s < 0.2, "three threads that look for work would have taken 1.5 s"


def group(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "cpu.max").write_text(text)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("0::/\n", 0),
        ("0::/system.slice/t5.service\n", 2),
        ("0::/system.slice\n", 3),
        ("0::/user.slice/deep/er\n", 0),
        ("1:name=systemd:/system.slice\n", 0),
        ("5:cpu,cpuacct:/docker/abc\n0::/\n", 1),
        ("no line of such a file\n", 0),
        ("", 0),
    ],
)
def test_the_least_quota_of_a_group_and_those_around_it_counts(tmp_path: Path, groups: str, expected: int) -> None:
    root = tmp_path / "cgroup"
    group(root, "system.slice", "300000 100000\n")
    group(root, "system.slice/t5.service", "150000 100000\n")  # one and a half
    group(root, "user.slice", "max 100000\n")
    group(root, "user.slice/deep", "not a number")
    old = root / "cpu" / "docker" / "abc"
    old.mkdir(parents=True)
    (old / "cpu.cfs_quota_us").write_text("50000\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    (root / "cpu" / "docker" / "cpu.cfs_quota_us").write_text("-1\n")
    lines = tmp_path / "groups"
    lines.write_text(groups)
    assert _native.cgroup_threads(str(lines), str(root)) == expected


def test_no_cgroups_at_all_are_no_quota(tmp_path: Path) -> None:
    assert _native.cgroup_threads(str(tmp_path / "none"), str(tmp_path)) == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_the_engine_takes_the_processors_that_the_process_may_use() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os, t5kit._native as n; os.sched_setaffinity(0, {{{one}}}); assert n.default_threads() == 1"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Memory that a run has freed goes back to the system; numbers do not change by it."""

import ctypes
import platform
from pathlib import Path

import pytest

from t5kit.testing.runs import tiny_run
from t5kit.training import loop, memory
from t5kit.training.config import TrainingConfig
from t5kit.training.memory import TRIM_EVERY, HeapTrimmer, heap_trim, resident_bytes_now


class Heap:
    """A process's memory that grows by a share each look and falls to `least` when it is trimmed."""

    def __init__(self, growth: float) -> None:
        self.growth, self.least, self.resident, self.num_trims = growth, 1e9, 1e9, 0

    def resident_bytes(self) -> int:
        self.resident *= self.growth
        return int(self.resident)

    def trim(self) -> int:
        self.num_trims += 1
        self.resident = self.least
        return 1


def most_after(heap: Heap, num_steps: int) -> float:
    trimmer, most = HeapTrimmer(trim=heap.trim, resident_bytes=heap.resident_bytes), 0.0
    for step in range(1, num_steps + 1):
        trimmer.after_step(step)
        most = max(most, heap.resident)
    return most


def test_memory_that_grows_is_bounded() -> None:
    heap = Heap(growth=1.05)
    assert most_after(heap, 200 * TRIM_EVERY) < 1.4 * heap.least, "without trimming it would be 17,000 times as much"
    assert heap.num_trims > 10


def test_memory_that_stays_is_left_alone() -> None:
    heap = Heap(growth=1.0)
    most_after(heap, 200 * TRIM_EVERY)
    assert not heap.num_trims, "each trim costs the pages that the next steps fault in again"


def test_a_larger_usual_size_is_learnt_once() -> None:
    heap = Heap(growth=1.0)
    trimmer = HeapTrimmer(trim=heap.trim, resident_bytes=heap.resident_bytes)
    trimmer.after_step(TRIM_EVERY)
    heap.resident = heap.least = 3e9  # as where evaluation keeps a second model
    for look in range(2, 50):
        trimmer.after_step(look * TRIM_EVERY)
    assert heap.num_trims == 1


def weights_after_a_run(path: Path) -> bytes:
    run = tiny_run(path, TrainingConfig(num_steps=6, checkpoint_every=6, log_every=6), evaluates=False)
    with run.folder:
        loop.train(run)
    return (path / "model" / "model.safetensors").read_bytes()


def test_a_run_that_trims_at_every_other_step_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = weights_after_a_run(tmp_path / "usual")
    heap, trim = Heap(growth=2.0), heap_trim() or bool

    def trim_both() -> None:
        heap.trim()
        trim()

    made = HeapTrimmer(trim=trim_both, resident_bytes=heap.resident_bytes)
    monkeypatch.setattr(memory, "TRIM_EVERY", 1)
    monkeypatch.setattr(loop, "HeapTrimmer", lambda: made)
    assert weights_after_a_run(tmp_path / "trimmed") == usual
    assert heap.num_trims == 3


def test_without_glibc_or_proc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    heap = Heap(growth=1.0)
    blind = HeapTrimmer(trim=heap.trim, resident_bytes=lambda: 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert heap_trim() is None
    unable = HeapTrimmer(resident_bytes=Heap(growth=2.0).resident_bytes)
    for look in range(1, 10):
        blind.after_step(look * TRIM_EVERY)
        unable.after_step(look * TRIM_EVERY)
    assert not heap.num_trims


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not Path("/proc/self/statm").exists(), reason="needs glibc")
def test_glibc_gives_back_what_lies_between() -> None:
    allocate = ctypes.CDLL(None).malloc
    free = ctypes.CDLL(None).free
    allocate.argtypes, allocate.restype, free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [allocate(100_000) for _ in range(1000)]  # below the least mmap threshold: they lie in the heap
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[:-1]:  # the last one keeps the heap's end where it is
        free(block)
    full = resident_bytes_now()
    trim = heap_trim()
    assert trim is not None
    trim()
    assert resident_bytes_now() < full - 90_000_000
    free(blocks[-1])

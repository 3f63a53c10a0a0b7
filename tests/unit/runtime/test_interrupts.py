"""Signals wait for a block's end, all of them take effect then, and none stays caught."""

import random
import signal
import time
from collections.abc import Iterator
from types import FrameType

import numpy as np
import pytest

from t5kit.runtime import ReferenceRuntime
from t5kit.runtime.interrupts import interrupts_between_blocks, interrupts_wait
from t5kit.runtime.opened import encoded, opened
from t5kit.testing.counting_runtime import CountingRuntime
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

CONFIG = TINY_CONFIGS["t5"]


class TooLateError(Exception):
    """What a program's own time-out raises."""


def too_late(number: int, frame: FrameType | None) -> None:
    raise TooLateError


@pytest.fixture
def handlers() -> Iterator[list[int]]:
    """Let SIGALRM raise and SIGTERM be noted in a list."""
    noted: list[int] = []
    usual = {
        signal.SIGALRM: signal.signal(signal.SIGALRM, too_late),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number)),
    }
    yield noted
    for number, handler in usual.items():
        signal.signal(number, handler)


@interrupts_wait()
def receive(*numbers: signal.Signals) -> None:
    for number in numbers:
        signal.raise_signal(number)


def test_a_handler_that_raises_costs_no_other_signal(handlers: list[int]) -> None:
    with pytest.raises(TooLateError):
        receive(signal.SIGALRM, signal.SIGTERM, signal.SIGTERM)
    assert handlers == [signal.SIGTERM] * 2


def test_the_last_of_several_errors_is_raised(handlers: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        receive(signal.SIGALRM, signal.SIGINT)


@pytest.mark.parametrize("holds", [False, True])
def test_time_outs_at_any_moment_leave_nothing_open_and_no_signal_caught(handlers: list[int], holds: bool) -> None:
    runtime = CountingRuntime(ReferenceRuntime(CONFIG, random_tensors(CONFIG)))
    prompts = [np.array([5, 9, 1], np.int32)]
    generator, num_late = random.Random(7), 0

    def work() -> None:
        with encoded(runtime, prompts) as handles, opened(runtime, handles):
            pass

    end_s = time.monotonic() + 20
    while num_late < 300 and time.monotonic() < end_s:
        try:
            signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-5, 1e-3))
            if holds:
                with interrupts_between_blocks():
                    work()
                    with interrupts_wait():
                        pass
            else:
                work()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except TooLateError:
            num_late += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert num_late == 300
    assert runtime.has_nothing_open
    signal.raise_signal(signal.SIGTERM)
    assert handlers == [signal.SIGTERM]
    with pytest.raises(TooLateError):
        signal.raise_signal(signal.SIGALRM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with interrupts_wait():
        signal.raise_signal(signal.SIGTERM)
        assert handlers == [signal.SIGTERM]
    assert handlers == [signal.SIGTERM] * 2

"""The inside of an engine process, run in this one."""

import dataclasses
import multiprocessing
import signal

import pytest

from t5kit.scheduling import ServiceLimits
from t5kit.scheduling.worker import LoadedEngine, run_engine
from t5kit.testing.counting_runtime import CountingRuntime


@dataclasses.dataclass(slots=True)
class Loader:
    """Gives a runtime that is loaded already."""

    runtime: CountingRuntime

    def __call__(self) -> LoadedEngine:
        return LoadedEngine(runtime=self.runtime)


def test_an_engine_whose_server_left_while_it_loaded_ends_quietly(
    runtime: CountingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # this process heeds its signals
    closed: list[bool] = []
    monkeypatch.setattr(CountingRuntime, "close", lambda self: closed.append(True), raising=False)
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    run_engine(theirs, Loader(runtime), ServiceLimits())
    assert closed == [True]

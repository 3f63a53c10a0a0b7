"""Signals as requests: a run that is told to stop finishes its step, saves itself and says so."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

from t5kit.errors import T5kitError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingError(T5kitError, RuntimeError):
    """Training cannot go on: its updates are no longer finite, or its memory ran out."""


class RunStoppedError(T5kitError, RuntimeError):
    """A run was told to stop and did, with everything saved. `exit_code` is the signal's: 130 or 143."""

    def __init__(
        self, *, signal_number: int, step: int, num_steps: int, path: Path, model_path: Path | None = None
    ) -> None:
        rest = (
            "the run is finished. The same command does what comes after it."
            if model_path is not None
            else "resume the run to go on as if it had never stopped."
        )
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after step {step} of {num_steps}. Everything is saved "
            f"in {path}; {rest}"
        )
        self.exit_code = 128 + signal_number
        self.model_path = model_path
        """The final model's folder, where the run was over when the signal came."""


class EvaluationCut(BaseException):
    """Raised within an evaluation to end it at once when a stop is requested.

    Like KeyboardInterrupt, it must pass every `except Exception` on its way.
    """


class StopRequest:
    """Catches SIGINT and SIGTERM while used as a context: the first asks to stop, a second interrupts at once.

    Outside the main thread, where Python catches no signals, nothing is caught.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        """The signal that came; None before."""
        self._cuts = False
        self._usual: dict[int, Any] = {}

    @property
    def is_made(self) -> bool:
        """Whether a signal came."""
        return self.signal_number is not None

    def answer(self, *, step: int, num_steps: int, path: Path, model_path: Path | None = None) -> RunStoppedError:
        """Return the error to leave with; the signal may have reached another process alone."""
        number = self.signal_number or signal.SIGTERM
        return RunStoppedError(signal_number=number, step=step, num_steps=num_steps, path=path, model_path=model_path)

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        """Let a request end the block at once, by `EvaluationCut`."""
        self._cuts = True
        try:
            if self.is_made:
                raise EvaluationCut
            yield
        finally:
            self._cuts = False

    def _receive(self, signal_number: int, frame: FrameType | None) -> None:
        if self.is_made:
            raise KeyboardInterrupt
        self.signal_number = signal_number
        if self._cuts:
            raise EvaluationCut

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # None: somebody outside Python caught the signal; it cannot be handed back.
            self._usual = {number: signal.signal(number, self._receive) or signal.SIG_DFL for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, usual in self._usual.items():
            signal.signal(number, usual)
        self._usual = {}

"""What of a run's data did not become an example as it stands: said when it is known, not when the run is over."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t5kit.checkpoint.atomic import write_file
from t5kit.data.configured import TrainingData
from t5kit.tasks.configured import OpenedTask

if TYPE_CHECKING:
    from t5kit.training.hooks import TrainingResult, TrainingRun


class DataWarnings:
    """A hook that warns (UserWarning) of bad lines at the start, and of bad and cut examples as they come up.

    Each is said when a line of metrics first finds it, and once more at the end if there were more by then. What they
    came to is added to the run folder's data.json, which the report shows.
    """

    def __init__(self, tasks: Sequence[OpenedTask], data: TrainingData, *, facts: Path | None = None) -> None:
        """facts: data.json; None: nothing is written."""
        self._tasks = tasks
        self._data = data
        self._facts = facts
        self._told: dict[str, tuple[int, ...]] = {}
        """What is said already: task (or "" for lengths) -> its numbers."""

    def started(self, run: "TrainingRun", step: int) -> None:
        """Tell of lines that could not be read."""
        for task in self._tasks:
            for split, report in task.reports.items():
                if report.num_bad:
                    _warn(f"{task.name}, {split}: {report}")

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell what has come up for the first time."""
        self._tell(again=False)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing: evaluation warns of its own records."""

    def saved(self, step: int, path: Path) -> None:
        """Do nothing."""

    def finished(self, result: "TrainingResult") -> None:
        """Tell what has grown since it was told, and keep the numbers."""
        self._tell(again=True)
        self._keep()

    def stopped(self, reason: str) -> None:
        """Tell what has grown since it was told, and keep the numbers."""
        self._tell(again=True)
        self._keep()

    def _tell(self, *, again: bool) -> None:
        loader = self._data.loader
        sources = zip(self._data.mixture.members, loader.shares(), loader.bad(), strict=True)
        for task, share, bad in sources:
            if share.num_bad and self._is_news(task.name, (share.num_bad_in_pass,), again=again):
                first = f", such as {bad[0].error}" if bad else ""
                _warn(f"{task.name}: {share.num_bad_in_pass:,} records gave no example (so far, in one pass){first}")
        lengths = (loader.num_truncated, loader.num_dropped)
        if any(lengths) and self._is_news("", lengths, again=again):
            _warn(
                f"{loader.num_truncated:,} examples were cut to data.encoder_length or data.target_length, "
                f"{loader.num_dropped:,} left out (so far, in all passes)."
            )

    def _keep(self) -> None:
        if self._facts is None:
            return
        loader, names = self._data.loader, [task.name for task in self._data.mixture.members]
        facts = json.loads(self._facts.read_text(encoding="utf-8"))
        shares = zip(names, loader.shares(), strict=True)
        facts["gave_no_example_in_a_pass"] = {name: share.num_bad_in_pass for name, share in shares}
        facts |= {"examples_cut": loader.num_truncated, "examples_left_out": loader.num_dropped}
        write_file(self._facts, (json.dumps(facts, indent=1) + "\n").encode())

    def _is_news(self, name: str, numbers: tuple[int, ...], *, again: bool) -> bool:
        is_news = self._told.get(name) != numbers if again else name not in self._told
        if is_news:
            self._told[name] = numbers
        return is_news


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)

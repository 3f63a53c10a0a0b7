"""A run's metrics for TensorBoard; a resumed run goes on in the same curves and doubles no point."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5kit.errors import DependencyError

if TYPE_CHECKING:
    from t5kit.training.hooks import TrainingResult, TrainingRun

FOLDER = "tensorboard"
FLUSH_S = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One number of one curve; wall_time in seconds since 1970."""

    tag: str
    step: int
    value: float
    wall_time: float


class TensorBoardWriter:
    """Hook: writes event files into the run folder's tensorboard/, as train/NAME and dev/NAME.

    At the first point of a process, the files of earlier ones are written anew without their points from that step on:
    a run that was killed wrote some after its last checkpoint, and resuming makes them again. Values that are not
    finite are left out.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._writer: Any = None

    def started(self, run: "TrainingRun", step: int) -> None:
        """Take the folder of the run. Raises: DependencyError without tensorboard."""
        require_tensorboard()
        self._folder = run.folder.path / FOLDER

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a line of training metrics."""
        self._write("train", step, metrics)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write an evaluation, so that it is seen at once."""
        self._write("dev", step, metrics)
        self._flush()

    def saved(self, step: int, path: Path) -> None:
        """Bring everything up to the checkpoint to the disk."""
        self._flush()

    def finished(self, result: "TrainingResult") -> None:
        """Close the file."""
        self._close()

    def stopped(self, reason: str) -> None:
        """Close the file."""
        self._close()

    def _write(self, part: str, step: int, metrics: Mapping[str, float]) -> None:
        if self._folder is None:
            return
        now = time.time()
        points = [
            Point(f"{part}/{key}", step, value, now)
            for key, value in metrics.items()
            if key not in ("step", "kind") and math.isfinite(value)
        ]
        if self._writer is None:
            self._writer = continue_folder(self._folder, step, {f"{part}/{key}" for key in metrics})
        for point in points:
            _add(self._writer, point)

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def continue_folder(folder: Path, step: int, tags: set[str]) -> Any:
    """Return tensorboard's EventFileWriter of a new file, to go on in a folder with the points of `tags` at `step`.

    It begins with the points of the folder's earlier files, with their times, but for those after `step` and those of
    `tags` at `step`; then the earlier files are removed.
    """
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    earlier = sorted(folder.glob("events.out.tfevents.*"))
    found = [point for path in earlier for point in read_points(path)]
    # A kill between writing and removing leaves points twice.
    kept = {(p.tag, p.step): p for p in found if p.step < step or (p.step == step and p.tag not in tags)}
    writer = EventFileWriter(str(folder), flush_secs=FLUSH_S, filename_suffix=f".from-{step}")
    for point in sorted(kept.values(), key=lambda p: p.step):
        _add(writer, point)
    writer.flush()
    for path in earlier:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    return writer


def read_points(path: Path) -> Sequence[Point]:
    """Return the points of an event file, up to where it is damaged, if it is."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    return [
        Point(value.tag, event.step, value.simple_value, event.wall_time)
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def _add(writer: Any, point: Point) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    value = Summary.Value(tag=point.tag, simple_value=point.value)
    writer.add_event(Event(wall_time=point.wall_time, step=point.step, summary=Summary(value=[value])))


def require_tensorboard() -> None:
    """Raise DependencyError where tensorboard is not installed."""
    try:
        import tensorboard.summary.writer.event_file_writer  # noqa: F401
    except ImportError:
        raise DependencyError.for_extra("tensorboard", "train", "Writing for TensorBoard") from None

"""TensorBoard's files: the run's numbers, once each, also after a kill."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from t5kit.training.tensorboard import TensorBoardWriter

pytest.importorskip("tensorboard")


def started(folder: Path, step: int = 0) -> TensorBoardWriter:
    hook = TensorBoardWriter()
    hook.started(SimpleNamespace(folder=SimpleNamespace(path=folder)), step)
    return hook


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself would show, in the order of its files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=False).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_the_numbers_back(tmp_path: Path) -> None:
    hook = started(tmp_path)
    hook.logged(10, {"step": 10, "loss": 2.5, "lr": math.nan})
    hook.evaluated(10, {"loss": 3.0, "rougeL": 31.5})
    hook.logged(20, {"loss": 2.0, "lr": 0.5})
    hook.finished(None)
    assert curves(tmp_path) == {
        "train/loss": [(10, 2.5), (20, 2.0)],
        "train/lr": [(20, 0.5)],
        "dev/loss": [(10, 3.0)],
        "dev/rougeL": [(10, 31.5)],
    }


def test_a_resumed_run_doubles_no_point(tmp_path: Path) -> None:
    killed = started(tmp_path)
    for step in (10, 20, 30, 40):
        killed.logged(step, {"loss": float(step)})
        if step == 20:
            killed.evaluated(20, {"loss": 20.5})
            killed.saved(20, tmp_path / "step-00000020")
    killed._writer.flush()  # what reached the disk before the kill
    resumed = started(tmp_path, 20)
    resumed.logged(30, {"loss": 30.25})
    resumed.evaluated(40, {"loss": 40.75})
    resumed.stopped("an error")
    assert curves(tmp_path) == {
        "train/loss": [(10, 10.0), (20, 20.0), (30, 30.25)],
        "dev/loss": [(20, 20.5), (40, 40.75)],
    }
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_an_evaluation_made_again_leaves_the_training_line_of_its_step(tmp_path: Path) -> None:
    first = started(tmp_path)
    first.logged(20, {"loss": 1.0})
    first.evaluated(20, {"loss": 2.0})
    first.stopped("killed")
    second = started(tmp_path, 20)
    second.evaluated(20, {"loss": 2.0})
    second.logged(30, {"loss": 3.0})
    second.finished(None)
    assert curves(tmp_path) == {"train/loss": [(20, 1.0), (30, 3.0)], "dev/loss": [(20, 2.0)]}


def test_earlier_points_keep_their_time_and_a_torn_file_its_whole_part(tmp_path: Path) -> None:
    from t5kit.training.tensorboard import read_points

    first = started(tmp_path)
    first.logged(10, {"loss": 1.0})
    first.logged(20, {"loss": 2.0})
    first.stopped("killed")
    (path,) = (tmp_path / "tensorboard").iterdir()
    before = read_points(path)
    path.write_bytes(path.read_bytes()[:-7])
    second = started(tmp_path, 20)
    second.logged(30, {"loss": 3.0})
    second.finished(None)
    (path,) = (tmp_path / "tensorboard").iterdir()
    after = read_points(path)
    assert [(p.tag, p.step, p.value) for p in after] == [("train/loss", 10, 1.0), ("train/loss", 30, 3.0)]
    assert after[0].wall_time == before[0].wall_time


def test_nothing_is_written_before_the_first_point(tmp_path: Path) -> None:
    started(tmp_path).finished(None)
    assert not list(tmp_path.iterdir())

"""Checkpoints are whole or refused, and give back every bit."""

import dataclasses
import errno
import json
import math
import os
import resource
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5kit.errors import CheckpointError
from t5kit.testing.runs import tiny_run
from t5kit.training.config import OptimizerConfig, TrainingConfig

torch = pytest.importorskip("torch")

from t5kit.training.checkpoints import (  # noqa: E402
    Snapshot,
    checkpoint_path,
    newest_whole_checkpoint,
    read_checkpoint,
    remove_old_checkpoints,
    set_newer_aside,
    verify_checkpoint,
    write_checkpoint,
)
from t5kit.training.hooks import TrainingRun  # noqa: E402
from t5kit.training.state import Best, TrainingState, Window  # noqa: E402

FILES = ("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
STATE = TrainingState(
    step=3,
    num_skipped=1,
    best=Best(step=2, metric="loss", value=0.1 + 0.2, metrics={"loss": 0.1 + 0.2, "pearson": math.nan}),
    evaluated_step=2,
    num_lines=4,
    window=Window(num_steps=1, num_targets=7.0, loss=1 / 3, seconds=0.25, lr=1e-3),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A run of AdamW after three steps."""
    path = tmp_path_factory.mktemp("runs") / "run"
    run = tiny_run(path, TrainingConfig(num_steps=3), optimizer=OptimizerConfig(name="adamw"))
    with run.folder:
        for step in range(3):
            run.step(next(run.loader), step=step, lr=1e-2)
    return run


@pytest.fixture(scope="module")
def snapshot(run: TrainingRun) -> Snapshot:
    return Snapshot.of(run.model, run.optimizer, STATE, run.loader.state())


@pytest.fixture
def saved(snapshot: Snapshot, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path, snapshot)


def test_a_checkpoint_gives_back_every_bit(saved: Path, snapshot: Snapshot) -> None:
    verify_checkpoint(saved)
    read = read_checkpoint(saved)
    for mine, theirs in ((read.model, snapshot.model), (read.optimizer, snapshot.optimizer)):
        assert mine.keys() == theirs.keys() and mine
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert all(mine[name].dtype == torch.float32 for name in mine)
    assert read.loader == snapshot.loader
    assert repr(read.training) == repr(STATE), "repr, because NaN is not equal to itself"


def test_everything_is_plain_data_that_other_tools_read(saved: Path) -> None:
    from safetensors.torch import load_file

    assert {path.name for path in saved.iterdir()} == set(FILES)
    model = load_file(saved / "model.safetensors")
    assert {tensor.dtype for tensor in model.values()} == {torch.float32}
    assert "shared.weight/exp_avg" in load_file(saved / "optimizer.safetensors")
    assert json.loads((saved / "state.json").read_text())["training"]["step"] == 3
    assert json.loads((saved / "manifest.json").read_text())["files"].keys() == set(FILES) - {"manifest.json"}


def test_a_model_and_its_optimizer_take_a_checkpoint_back(saved: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    fresh = tiny_run(tmp_path / "fresh", TrainingConfig(num_steps=3, seed=1), optimizer=OptimizerConfig(name="adamw"))
    fresh.folder.close()
    read_checkpoint(saved).put_into(fresh.model, fresh.optimizer)
    again = Snapshot.of(fresh.model, fresh.optimizer, STATE, {})
    assert all(torch.equal(again.model[name], snapshot.model[name]) for name in snapshot.model)
    assert again.optimizer.keys() == snapshot.optimizer.keys()
    assert all(torch.equal(again.optimizer[name], snapshot.optimizer[name]) for name in snapshot.optimizer)


@pytest.mark.parametrize("wrong", ["missing", "unknown", "shape", "dtype", "optimizer"])
def test_a_checkpoint_that_does_not_fit_changes_nothing(wrong: str, run: TrainingRun, snapshot: Snapshot) -> None:
    model, optimizer = dict(snapshot.model), dict(snapshot.optimizer)
    name = "shared.weight"
    match wrong:
        case "missing":
            del model[name]
        case "unknown":
            model["more"] = model[name]
        case "shape":
            model[name] = model[name][1:]
        case "dtype":
            model[name] = model[name].double()
        case "optimizer":
            del optimizer[f"{name}/step"]
    before = {key: tensor.clone() for key, tensor in run.model.state_dict().items()}
    bad = dataclasses.replace(snapshot, model={key: tensor + 1 for key, tensor in model.items()}, optimizer=optimizer)
    with pytest.raises(CheckpointError, match="more" if wrong == "unknown" else name):
        bad.put_into(run.model, run.optimizer)
    after = run.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.fixture(scope="module")
def pristine(snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("pristine"), snapshot)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_detected_and_named(name: str, place: float, bit: int, pristine: Path) -> None:
    path = pristine / name
    whole = path.read_bytes()
    altered = bytearray(whole)
    altered[int(place * len(altered))] ^= 1 << bit
    path.write_bytes(altered)
    try:
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            verify_checkpoint(pristine)
    finally:
        path.write_bytes(whole)
    verify_checkpoint(pristine)


def test_every_byte_of_a_manifest_counts(pristine: Path) -> None:
    whole = (pristine / "manifest.json").read_bytes()
    try:
        for place in range(len(whole)):
            (pristine / "manifest.json").write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
            with pytest.raises(CheckpointError, match="manifest"):
                verify_checkpoint(pristine)
    finally:
        (pristine / "manifest.json").write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["removed", "cut", "longer", "empty", "a pipe", "a folder"])
def test_other_damage_is_named_too(name: str, damage: str, saved: Path) -> None:
    path = saved / name
    whole = path.read_bytes()
    path.unlink()
    match damage:
        case "cut":
            path.write_bytes(whole[:-1])
        case "longer":
            path.write_bytes(whole + b"\n")
        case "empty":
            path.write_bytes(b"")
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        verify_checkpoint(saved)


def test_a_renamed_checkpoint_is_refused(saved: Path) -> None:
    saved.rename(saved.with_name("step-00000009"))
    with pytest.raises(CheckpointError, match=r"step-00000009 holds step 3: the folder was renamed"):
        verify_checkpoint(saved.with_name("step-00000009"))


def test_a_checkpoint_of_another_format_is_refused(saved: Path) -> None:
    from t5kit.training import checkpoints

    manifest = json.loads((saved / "manifest.json").read_text()) | {"format": 2}
    del manifest["sha256"]
    (saved / "manifest.json").write_bytes(checkpoints._manifest_bytes(manifest))
    with pytest.raises(CheckpointError, match="format 2; this version of t5kit reads 1"):
        verify_checkpoint(saved)


def at_steps(folder: Path, snapshot: Snapshot, *steps: int) -> None:
    for step in steps:
        write_checkpoint(folder, dataclasses.replace(snapshot, training=dataclasses.replace(STATE, step=step)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_whole_one_is_found_and_each_refused_one_named(snapshot: Snapshot, tmp_path: Path) -> None:
    at_steps(tmp_path, snapshot, 3, 9, 99, 100_000_000)
    (tmp_path / "step-100000000" / "manifest.json").unlink()
    with (tmp_path / "step-00000099" / "state.json").open("r+b") as file:
        file.write(b"[")
    with pytest.warns(UserWarning, match="refused") as caught:
        assert newest_whole_checkpoint(tmp_path) == tmp_path / "step-00000009"
    assert [str(w.message).split(": ")[0] for w in caught] == ["refused", "refused"]
    assert "step-100000000 has no manifest.json" in str(caught[0].message)
    assert "step-00000099/state.json was altered" in str(caught[1].message)


def test_refused_ones_count_no_more(snapshot: Snapshot, tmp_path: Path) -> None:
    at_steps(tmp_path, snapshot, 3, 6, 9)
    set_newer_aside(tmp_path, tmp_path / "step-00000003")
    assert names(tmp_path) == ["step-00000003", "step-00000006.refused", "step-00000009.refused"]
    at_steps(tmp_path, snapshot, 6)
    set_newer_aside(tmp_path, tmp_path / "step-00000003")  # an older refused one makes room
    remove_old_checkpoints(tmp_path, keep=1, best_step=None)
    assert names(tmp_path) == ["step-00000003", "step-00000006.refused", "step-00000009.refused"]


def test_no_checkpoint_is_a_beginning_and_none_whole_is_an_error(snapshot: Snapshot, tmp_path: Path) -> None:
    assert newest_whole_checkpoint(tmp_path) is None
    assert newest_whole_checkpoint(tmp_path / "absent") is None
    at_steps(tmp_path, snapshot, 3)
    (tmp_path / "step-00000003" / "state.json").unlink()
    with (
        pytest.warns(UserWarning, match="state.json cannot be opened"),
        pytest.raises(CheckpointError, match="none of the 1 checkpoints"),
    ):
        newest_whole_checkpoint(tmp_path)


def test_the_newest_and_the_best_stay(snapshot: Snapshot, tmp_path: Path) -> None:
    at_steps(tmp_path, snapshot, 2, 4, 6, 8, 10)
    remove_old_checkpoints(tmp_path, keep=2, best_step=4)
    assert names(tmp_path) == ["step-00000004", "step-00000008", "step-00000010"]
    remove_old_checkpoints(tmp_path, keep=1, best_step=10)
    assert names(tmp_path) == ["step-00000010"]


def test_a_checkpoint_replaces_one_of_its_step(saved: Path, snapshot: Snapshot) -> None:
    other = dataclasses.replace(snapshot, training=dataclasses.replace(STATE, evaluated_step=3))
    assert write_checkpoint(saved.parent, other) == saved
    assert read_checkpoint(saved).training.evaluated_step == 3
    assert names(saved.parent) == [saved.name]


@pytest.mark.parametrize("place", ["fsync", "rename", "write"])
def test_a_full_disk_leaves_the_checkpoints_as_they_were(
    place: str, saved: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    match place:
        case "fsync":
            monkeypatch.setattr(os, "fsync", refuse)
        case "rename":
            monkeypatch.setattr(Path, "rename", refuse)
        case "write":
            monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(CheckpointError, match=r"There is no space left to write .*step-00000009"):
        at_steps(saved.parent, snapshot, 9)
    monkeypatch.undo()
    assert names(saved.parent) == [saved.name]
    assert newest_whole_checkpoint(saved.parent) == saved


def test_a_file_that_the_system_cuts_short_loses_nothing(saved: Path, snapshot: Snapshot) -> None:
    """A real short write: the system refuses to let any file grow beyond 4,096 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="There is no space left to write"):
            write_checkpoint(saved.parent, snapshot)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(saved.parent) == [saved.name]
    verify_checkpoint(saved)


def test_a_state_that_json_cannot_hold_is_never_written(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(tmp_path, dataclasses.replace(snapshot, loader={"x": math.nan}))
    assert not names(tmp_path)


@pytest.mark.parametrize("text", ["{}", '{"training": 1, "loader": {}}', '{"training": {}, "loader": {}}'])
def test_a_state_of_another_shape_is_refused(text: str, saved: Path) -> None:
    (saved / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="state"):
        read_checkpoint(saved)


def test_paths_sort_as_numbers(snapshot: Snapshot, tmp_path: Path) -> None:
    assert checkpoint_path(tmp_path, 123_456_789).name == "step-123456789"
    at_steps(tmp_path, snapshot, 99_999_999, 100_000_000)
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "step-100000000"
    shutil.rmtree(tmp_path / "step-100000000")

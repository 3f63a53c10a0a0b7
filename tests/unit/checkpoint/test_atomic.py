"""Folders appear whole or not at all, whatever goes wrong while they are written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from t5kit.checkpoint import atomic, atomic_folder, open_folder, write_folder
from t5kit.checkpoint.atomic import recover_folder, remove_folder, write_file
from t5kit.config import T5Config
from t5kit.errors import CheckpointError
from t5kit.testing.tiny import random_tensors


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_appears_only_at_the_end(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert contents(tmp_path) == {"a/b/deep/x": b"1"}


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_any_failure_leaves_nothing_behind_and_passes_through(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").write_text("old")
    with pytest.raises(type(error)), atomic_folder(tmp_path / "m", overwrite=True) as folder:  # noqa: PT012
        (folder / "new").write_text("new")
        raise error
    assert contents(tmp_path) == {"m/old": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_parents_made_for_a_failed_folder_go_with_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a" / "b" / "m"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_file_without_write_permission_is_kept(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "m") as folder:
        (folder / "x").write_text("1")
        (folder / "x").chmod(0o400)
    assert contents(tmp_path) == {"m/x": b"1"}


def test_overwriting_replaces_everything(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").write_text("old")
    with atomic_folder(tmp_path / "m", overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path) == {"m/new": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_empty_folder_may_be_filled_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "link").symlink_to("m")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "x").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "m") == {"x": b"1"}


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("mine")
    with pytest.raises(CheckpointError, match="is no folder"), atomic_folder(tmp_path / "m", overwrite=True):
        pass
    with pytest.raises(CheckpointError, match="cannot be written"), atomic_folder(tmp_path / "m" / "below"):
        pass
    assert (tmp_path / "m").read_text() == "mine"


def test_a_folder_filled_meanwhile_is_not_destroyed(tmp_path: Path) -> None:
    def write_both() -> None:
        with atomic_folder(tmp_path / "m") as folder:
            (folder / "x").write_text("late")
            (tmp_path / "m").mkdir()
            (tmp_path / "m" / "x").write_text("first")

    with pytest.raises(CheckpointError, match="not empty"):
        write_both()
    assert contents(tmp_path) == {"m/x": b"first"}


def test_the_folder_has_the_users_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    with atomic_folder(tmp_path / "m"):
        pass
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_failing_last_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").write_text("old")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(CheckpointError, match="Input/output"), atomic_folder(tmp_path / "m", overwrite=True):
        pass
    assert contents(tmp_path) == {"m/old": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "There is no space left to write"),
        (errno.EDQUOT, "There is no space left to write"),
        (errno.EACCES, "There is no permission to write"),
        (errno.EROFS, "There is no permission to write"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_the_systems_refusal_is_one_sentence(
    number: int, sentence: str, saved: Path, v1_1: T5Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(saved.parent)

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=sentence):
        write_folder(saved, v1_1, random_tensors(v1_1, seed=1), overwrite=True)
    assert contents(saved.parent) == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_parent_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match="no permission to write"), atomic_folder(tmp_path / "m"):
        pass


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES])
def test_no_name_of_ours_is_in_the_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match="writ") as caught, atomic_folder(tmp_path / "m"):
        pass
    assert str(tmp_path / "m") in str(caught.value) and "partial" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_a_disk_that_fills_up_in_the_middle_of_a_file_leaves_the_old_model_whole(saved: Path, v1_1: T5Config) -> None:
    """A real short write: the system itself refuses to let a file grow beyond 4,096 bytes."""
    before = contents(saved)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from t5kit.checkpoint import open_folder, write_folder\n"
        "from t5kit.errors import CheckpointError\n"
        f"folder = open_folder(Path({str(saved)!r}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_folder(folder.path, folder.config, folder.tensors(), overwrite=True)\n"
        "except CheckpointError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("There is no space left to write")
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    open_folder(saved)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user that permissions bind")
def test_a_folder_without_write_permission_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="no permission"), atomic_folder(tmp_path / "m"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_two_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "m", overwrite=True) as one:
        (one / "x").write_text("1")
        with atomic_folder(tmp_path / "m", overwrite=True) as two:
            (two / "x").write_text("2")
        assert contents(tmp_path / "m") == {"x": b"2"}
    assert contents(tmp_path / "m") == {"x": b"1"}
    shutil.rmtree(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_file(path, b"1")
    write_file(path, b"22")
    assert contents(tmp_path) == {"f": b"22"}

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CheckpointError, match=r"There is no space left to write .*/f"):
        write_file(path, b"333")
    assert contents(tmp_path) == {"f": b"22"}


def test_a_removed_folder_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x").write_text("1")

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic.shutil, "rmtree", die)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            remove_folder(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    recover_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_whose_replacing_was_killed_gets_its_name_back(tmp_path: Path) -> None:
    for name in (".m.0123456789ab.replaced", ".m.0123456789ac.partial", ".n.0123456789ab.replaced", "n"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    recover_folder(tmp_path)
    assert contents(tmp_path) == {"m/x": b".m.0123456789ab.replaced", "n/x": b"n"}


def test_only_what_writers_leave_is_cleared_away(tmp_path: Path) -> None:
    others = [".m.partial", ".m.0123456789ab.tmp", "m.0123456789ab.partial", ".m.0123456789AB.partial"]
    for name in (*others, ".m.0123456789ab.partial"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".link.0123456789ab.removed").symlink_to(tmp_path)
    recover_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)

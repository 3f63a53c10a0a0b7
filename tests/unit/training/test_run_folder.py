"""Run folders: one process at a time, one recipe, and metrics that go on where the checkpoint stands."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from t5kit.errors import CheckpointError, ConfigError

torch = pytest.importorskip("torch")

from t5kit.training.environment import Environment, this_environment  # noqa: E402
from t5kit.training.run_folder import RunFolder  # noqa: E402

HERE = this_environment(seed=7)
RECIPE = """[training]
num_steps = 10
checkpoint_every = 5
[schedule]
name = "constant"
peak_lr = 1e-3
[compute]
num_threads = 1
[data.tasks.g2p]
rate = 1.0
"""


def create(path: Path, resolved: str = RECIPE, environment: Environment = HERE) -> RunFolder:
    return RunFolder.create(path, recipe="# as given\n", resolved=resolved, environment=environment)


def resume(path: Path, resolved: str = RECIPE, environment: Environment = HERE) -> RunFolder:
    return RunFolder.resume(path, resolved=resolved, environment=environment)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that nobody works in."""
    create(tmp_path / "run").close()
    return tmp_path / "run"


def test_a_fresh_folder_says_what_was_asked_and_where_it_runs(stopped: Path) -> None:
    assert (stopped / "recipe.toml").read_text() == "# as given\n"
    assert (stopped / "resolved.toml").read_text() == RECIPE
    (start,) = json.loads((stopped / "environment.json").read_text())
    assert start["seed"] == 7 and start["torch"] == torch.__version__ and start["num_threads"] >= 1
    assert start.keys() == {field.name for field in dataclasses.fields(Environment)}


def test_the_commit_of_the_folder_it_is_started_in_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert this_environment(seed=0).git_commit is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "x"], [*author, "commit", "-qm", "x"]):
        (tmp_path / "x").write_text("1")
        subprocess.run(["git", *words], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert this_environment(seed=0).git_commit == commit
    (tmp_path / "x").write_text("2")
    assert this_environment(seed=0).git_commit == f"{commit}+changes"


def test_a_run_is_not_begun_over_another_or_over_files(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run already"):
        create(stopped)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(
        CheckpointError, match=r"full is not empty and holds no run\. Choose another folder, or empty it"
    ):
        create(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match=r"no run to resume: it has no resolved\.toml"):
        resume(tmp_path / "full")


def test_two_objects_on_one_folder_are_refused(stopped: Path) -> None:
    with resume(stopped):
        before = (stopped / "environment.json").read_bytes()
        with pytest.raises(ConfigError, match=r"another process is training in .*run"):
            resume(stopped)
        assert (stopped / "environment.json").read_bytes() == before
    resume(stopped).close()


def test_two_processes_on_one_folder_are_refused_until_the_first_is_killed(stopped: Path) -> None:
    # What a RunFolder does there, without the seconds that PyTorch takes to load.
    code = (
        "import sys, filelock\n"
        f"lock = filelock.FileLock({str(stopped / '.lock')!r}, blocking=False); lock.acquire()\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"locked\n"
            with pytest.raises(ConfigError, match="another process is training"):
                resume(stopped)
        finally:
            process.kill()
    resume(stopped).close()


def test_the_same_recipe_resumes_without_a_word(stopped: Path, recwarn: pytest.WarningsRecorder) -> None:
    resume(stopped).close()
    resume(stopped, RECIPE.replace("[compute]", "# a comment\n[compute]")).close()
    assert not recwarn.list
    assert len(json.loads((stopped / "environment.json").read_text())) == 3, "one entry for every start"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("peak_lr = 1e-3", "peak_lr = 2e-3", r"schedule\.peak_lr: 0\.001 in the run, 0\.002 now"),
        ("rate = 1.0\n", "", r"data\.tasks\.g2p\.rate: 1\.0 in the run, 'absent' now"),
        ("[compute]", "[loss]\nz_loss = 0.0\n[compute]", r"loss\.z_loss: 'absent' in the run, 0\.0 now"),
        ("num_steps = 10", "num_steps = 9", r"training\.num_steps: 10 in the run, 9 now"),
    ],
)
def test_another_recipe_is_refused_with_the_keys_that_differ(old: str, new: str, words: str, stopped: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        resume(stopped, RECIPE.replace(old, new))
    assert (stopped / "resolved.toml").read_text() == RECIPE
    resume(stopped).close()  # the lock is free again


def test_what_changes_no_number_may_differ_and_is_kept(stopped: Path, recwarn: pytest.WarningsRecorder) -> None:
    changed = RECIPE.replace("checkpoint_every = 5", "checkpoint_every = 2")
    resume(stopped, changed).close()
    assert not recwarn.list
    assert (stopped / "resolved.toml").read_text() == changed


def test_a_run_may_lie_and_look_for_its_files_elsewhere(stopped: Path) -> None:
    recipe = RECIPE.replace("[data.tasks", '[data]\ndir = "/there"\n[data.tasks')
    create(stopped.parent / "there", recipe).close()
    moved = (stopped.parent / "there").rename(stopped.parent / "here")
    changed = recipe.replace("/there", "/here")
    resume(moved, changed).close()
    assert (moved / "resolved.toml").read_text() == changed


def test_a_finished_run_is_seen_without_a_change(stopped: Path) -> None:
    assert RunFolder.see_early(stopped.parent / "none", resolved=RECIPE) is None
    assert RunFolder.see_early(stopped, resolved=RECIPE) is None
    with resume(stopped) as folder:
        folder.write_result({"num_steps": 10})
        with pytest.raises(ConfigError, match="another process"):
            RunFolder.see_early(stopped, resolved=RECIPE)
    before = {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    assert RunFolder.see_early(stopped, resolved=RECIPE.replace("num_steps = 10", "num_steps = 20")) is None
    with pytest.raises(ConfigError, match=r"schedule\.peak_lr"):
        RunFolder.see_early(stopped, resolved=RECIPE.replace("1e-3", "1e-2"))
    seen = RunFolder.see_early(stopped, resolved=RECIPE)
    assert seen is not None
    with seen:
        assert seen.result() == {"num_steps": 10}
    assert {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before


def test_a_setting_that_came_later_has_its_default_in_an_old_run(
    stopped: Path, recwarn: pytest.WarningsRecorder
) -> None:
    def completed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, "loss": {"z_loss": 1e-4}}

    here: Any = dict(environment=HERE, completed=completed)
    newer = RECIPE + "[loss]\nz_loss = 1e-4\n"
    assert RunFolder.see_early(stopped, resolved=newer, completed=completed) is None
    RunFolder.resume(stopped, resolved=newer, **here).close()
    assert not recwarn.list
    with pytest.raises(ConfigError, match=r"loss\.z_loss: 0\.0001 in the run, 0\.0 now"):
        RunFolder.resume(stopped, resolved=RECIPE + "[loss]\nz_loss = 0.0\n", **here)


def test_a_setting_that_there_is_no_more_is_refused(stopped: Path) -> None:
    def completed(values: Mapping[str, Any]) -> dict[str, Any]:
        raise ConfigError("training.num_stops is no setting.")

    with pytest.raises(ConfigError, match=r"resolved\.toml cannot be gone on with: training\.num_stops is no setting"):
        RunFolder.resume(stopped, resolved=RECIPE, environment=HERE, completed=completed)
    resume(stopped).close()  # the lock is free again


def test_what_changes_bits_may_differ_with_a_warning(stopped: Path) -> None:
    with pytest.warns(UserWarning, match=r"not equal to the bit .*: compute\.num_threads changed"):
        resume(stopped, RECIPE.replace("num_threads = 1", "num_threads = 2")).close()


@pytest.mark.parametrize("field", ["torch", "processor", "num_threads", "num_processes"])
def test_another_machine_is_warned_of(field: str, stopped: Path) -> None:
    changed: dict[str, Any] = {field: 99 if field.startswith("num_") else "other"}
    elsewhere = dataclasses.replace(HERE, **changed)
    with pytest.warns(UserWarning, match=f"not equal to the bit .*{field} is"):
        resume(stopped, environment=elsewhere).close()


def test_a_longer_run_needs_a_schedule_that_does_not_read_the_length(tmp_path: Path) -> None:
    longer = ("num_steps = 10", "num_steps = 20")
    create(tmp_path / "constant").close()
    with resume(tmp_path / "constant") as folder:
        folder.write_result({"num_steps": 10})
    with resume(tmp_path / "constant", RECIPE.replace(*longer)) as folder:
        assert folder.result() is None, "a finished run that is made longer is not finished"
    cosine = RECIPE.replace('"constant"', '"cosine"')
    create(tmp_path / "cosine", cosine).close()
    with pytest.raises(ConfigError, match=r"training\.num_steps: 10 in the run, 20 now"):
        resume(tmp_path / "cosine", cosine.replace(*longer))


def test_metrics_are_lines_that_a_resumed_run_cuts_and_writes_again(stopped: Path) -> None:
    with resume(stopped) as folder:
        for step in (1, 2, 3):
            folder.append_metrics("train", step, {"loss": step / 3, "norm": float("inf")})
        path = stopped / "metrics.jsonl"
        assert (
            path.read_text().splitlines()[1] == '{"kind": "train", "step": 2, "loss": 0.6666666666666666, "norm": null}'
        )
        with path.open("ab") as file:
            file.write(b'{"kind": "trai')  # torn by a kill
        folder.cut_metrics(2)
        folder.append_metrics("evaluation", 2, {"loss": 0.5})
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(line["kind"], line["step"]) for line in lines] == [("train", 1), ("train", 2), ("evaluation", 2)]
        folder.cut_metrics(0)
        assert path.read_bytes() == b""


def test_lost_lines_are_warned_of(stopped: Path) -> None:
    with resume(stopped) as folder:
        folder.append_metrics("train", 1, {})
        with pytest.warns(UserWarning, match=r"has 1 lines, and the checkpoint knows of 3"):
            folder.cut_metrics(3)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_a_full_disk_under_the_metrics_is_one_sentence(stopped: Path) -> None:
    (stopped / "metrics.jsonl").symlink_to("/dev/full")
    with resume(stopped) as folder, pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be written: No space"):
        folder.append_metrics("train", 1, {})


def test_what_a_kill_left_behind_is_cleared_away(stopped: Path) -> None:
    hexadecimal = "0123456789ab"
    for name in (f".step-00000005.{hexadecimal}.partial", f".step-00000002.{hexadecimal}.removed"):
        (stopped / "checkpoints" / name).mkdir()
        (stopped / "checkpoints" / name / "x").write_text("1")
    (stopped / "checkpoints" / f".step-00000004.{hexadecimal}.replaced").mkdir()
    (stopped / f".resolved.toml.{hexadecimal}.partial").write_text("[tr")
    (stopped / ".mine.partial").write_text("not ours")
    resume(stopped).close()
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-00000004"]
    assert (stopped / ".mine.partial").exists()
    assert not (stopped / f".resolved.toml.{hexadecimal}.partial").exists()


@pytest.mark.parametrize(
    ("name", "text"), [("resolved.toml", "[["), ("environment.json", "{"), ("environment.json", "[]")]
)
def test_damaged_files_are_named(name: str, text: str, stopped: Path) -> None:
    (stopped / name).write_text(text)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        resume(stopped)

"""`t5kit train`, `inspect RECIPE.toml` and `config` as a user meets them; a killed run goes on by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from t5kit import Model
from t5kit.cli import main as cli
from t5kit.cli.train import plain_warnings

T5KIT = [sys.executable, "-c", "from t5kit.cli.main import main; main()"]
RECIPE = """\
# letters to sounds
[model]
d_model = 16
d_kv = 8
d_ff = 16
num_heads = 2
num_encoder_layers = 1
num_decoder_layers = 1

[vocabulary]
source = "symbols"
num_sentinels = 0

[data]
batch_rows = 8
encoder_length = 16
target_length = 16
window_batches = 2

[data.tasks.sounds]
train = ["train.tsv"]
dev = ["dev.tsv"]
metrics = ["pronunciation"]

[schedule]
peak_lr = 1e-2

[compute]
precision = "float32"
num_threads = 1

[training]
num_steps = 4
log_every = 1
evaluate_every = 2
checkpoint_every = 1
best_metric = "per"

[evaluation]
max_new_tokens = 8
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    words = ["".join("abcd"[(n * k + n // 3) % 4] for k in range(1, 3 + n % 3)) for n in range(40)]
    lines = [f"{word}\t{' '.join(letter.upper() for letter in word)}\n" for word in words]
    (tmp_path / "train.tsv").write_text("".join(lines[:32]), encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("".join(lines[32:]), encoding="utf-8")
    path = tmp_path / "sounds.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["t5kit", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    captured = capfd.readouterr()
    return Result(int(exit_.value.code or 0), captured.out, captured.err)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "tokens_per_second")} for line in lines]


def test_a_recipe_becomes_a_model_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = (recipe, f"data.dir={tmp_path}", "training.seed=5", "--run-folder", tmp_path / "run")
    result = run(monkeypatch, capfd, "train", *said)
    assert result.code == 0, result.err
    assert result.out == f"{tmp_path / 'run' / 'model'}\n"
    assert "step 2  dev" in result.err and "done after 4 steps; best at step" in result.err
    with Model.from_pretrained(tmp_path / "run" / "model", engine="reference") as model:
        assert isinstance(model.generate("ab"), str)
    kept = (tmp_path / "run" / "recipe.toml").read_text(encoding="utf-8")
    assert kept.startswith(RECIPE) and "#   training.seed=5\n" in kept
    with pytest.warns(UserWarning, match="is finished"):
        again = run(monkeypatch, capfd, "train", *said, "--json", "--quiet")
    assert again.code == 0 and json.loads(again.out)["num_steps"] == 4
    other = run(monkeypatch, capfd, "train", *said, "training.seed=6")
    assert other.code == 2 and "training.seed: 5 in the run, 6 now" in other.err


def test_a_killed_run_goes_on_by_the_same_command_to_the_bit(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = [str(recipe), f"data.dir={tmp_path}", "training.num_steps=60", "training.evaluate_every=20", "--quiet"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [*T5KIT, "train", *said, "--run-folder", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(killed.glob("checkpoints/step-*")) and not (killed / "result.json").exists()
    assert run(monkeypatch, capfd, "train", *said, "--run-folder", killed, "--resume").code == 0
    assert run(monkeypatch, capfd, "train", *said, "--run-folder", whole).code == 0
    assert metrics_of(killed) == metrics_of(whole)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (killed, whole)]
    assert weights[0] == weights[1]


def test_warnings_are_sentences() -> None:
    with plain_warnings():
        assert warnings.formatwarning("it is so.", UserWarning, "x.py", 3) == "t5kit: it is so.\n"
    assert "x.py" in warnings.formatwarning("it is so.", UserWarning, "x.py", 3)


def test_resume_asks_for_a_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(monkeypatch, capfd, "train", recipe, "--resume", "--run-folder", tmp_path / "none")
    assert result.code == 2 and "holds no run to go on with" in result.err


@pytest.mark.parametrize(
    ("change", "override", "said"),
    [
        (("peak_lr", "peak_lrr"), "", "sounds.toml:26: schedule.peak_lrr is no setting. Did you mean peak_lr"),
        (("1e-2", '"1e-2"'), "", 'sounds.toml:26: schedule.peak_lr = "1e-2" must be a number.'),
        (("[schedule]", "[schedule"), "", "is not valid TOML"),
        (("", ""), "training.num_step=3", "command line: training.num_step is no setting. Did you mean num_steps?"),
        (("", ""), "data.dir", "command line: 'data.dir' is no override; expected key.path=value."),
        (("", ""), "loss.z_loss=-1", "command line: loss.z_loss = -1.0 must be a finite number, at least 0."),
    ],
)
def test_a_wrong_recipe_is_misuse_with_its_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    change: tuple[str, str], override: str, said: str,
) -> None:  # fmt: skip
    recipe.write_text(RECIPE.replace(*change, 1) if change[0] else RECIPE, encoding="utf-8")
    overrides = [override] if override else []
    result = run(monkeypatch, capfd, "train", recipe, *overrides, "--run-folder", tmp_path / "run")
    assert result.code == 2 and said in result.err
    assert not (tmp_path / "run").exists()


def test_inspect_shows_a_recipe_s_examples_and_cost(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(monkeypatch, capfd, "inspect", recipe, f"data.dir={tmp_path}", "--batches", 2)
    assert result.code == 0, result.err
    assert "task sounds: train 32, dev 8 records; 100.0 % of the examples" in result.out
    assert (
        "padding" in result.out and "memory      about" in result.out and "s a step (measured on 8 rows)" in result.out
    )
    assert max(len(line) for line in result.out.splitlines() if " ids  " in line) > 20
    with monkeypatch.context() as patch:
        patch.setattr("t5kit.cli.inspect.terminal_width", lambda: 20)
        narrow = run(monkeypatch, capfd, "inspect", recipe, f"data.dir={tmp_path}", "--batches", 2, "--no-timing").out
    assert "…" in narrow and max(len(line) for line in narrow.splitlines() if " ids  " in line) <= 20
    result = run(monkeypatch, capfd, "inspect", recipe, f"data.dir={tmp_path}", "--no-timing", "--json")
    facts = json.loads(result.out)
    assert facts["cost"] is None and facts["tasks"][0]["num_records"] == {"train": 32, "dev": 8}
    assert not (tmp_path / "runs").exists()


def test_inspect_takes_settings_for_recipes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(monkeypatch, capfd, "inspect", tmp_path, "training.seed=1")
    assert result.code == 2 and "only a recipe takes settings" in result.err


def test_config_explains_and_resolves(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(monkeypatch, capfd, "config", "explain", "loss.z_loss")
    assert result.code == 0 and result.out.startswith("loss.z_loss = 0.0001    (a number)\n")
    assert run(monkeypatch, capfd, "config", "explain").out.count("\ntraining.") > 5
    result = run(monkeypatch, capfd, "config", "explain", "loss.z_los")
    assert result.code == 2 and "Nearest: loss.z_loss" in result.err
    resolved = run(monkeypatch, capfd, "config", "resolve", recipe, "training.seed=9").out
    (tmp_path / "resolved.toml").write_text(resolved, encoding="utf-8")
    assert "seed = 9\n" in resolved
    assert run(monkeypatch, capfd, "config", "resolve", tmp_path / "resolved.toml").out == resolved

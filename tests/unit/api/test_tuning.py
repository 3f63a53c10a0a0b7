"""A search for settings: chosen, stopped, gone on with, reported."""

import dataclasses
import itertools
import json
import math
import shlex
import types
from pathlib import Path
from typing import Any

import pytest

from t5kit.api.finetuning import plan_finetuning
from t5kit.api.fitting import FitPlan
from t5kit.api.fitting_settings import FitSettings
from t5kit.cli.main import main
from t5kit.errors import ConfigError, RequestError
from t5kit.training.tuning_report import Search, TriedSettings, tuning_page

ROWS = [{"text": letter * number, "label": letter.upper()} for letter in "wxyz" for number in range(1, 13)]


def search(
    start: Path,
    folder: Path,
    num_trials: int,
    rows: list[Any] = ROWS,
    *,
    max_minutes: float | None = None,
    **settings: Any,
) -> Any:
    from t5kit.api.tuning import tune

    usual: dict[str, Any] = {"threads": 1, "num_steps": 2, "batch_tokens": 256}
    common = FitSettings(precision="float32", **{**usual, **settings})
    told: list[str] = []

    def make_plan(chosen: FitSettings, run_folder: Path) -> FitPlan:
        return plan_finetuning(str(start), rows, run_folder, settings=chosen, input="{text}", target="{label}")

    tuned = tune(
        make_plan, common, folder, num_trials=num_trials, command="t5kit finetune", max_minutes=max_minutes,
        shows=False, tell=told.append,
    )  # fmt: skip
    return tuned, told


def test_a_search_keeps_the_best_and_goes_on_as_if_it_had_not_stopped(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    whole, told = search(tiny_folder, tmp_path / "whole", 3)
    tried = [run.settings for run in whole.search.tried]
    assert len(tried) == 3 and tried[0] == {"lr": 3e-3}  # first what finetune would do
    assert len({run["lr"] for run in tried}) == 3 and any(line.startswith("run 3 of 3: lr") for line in told)
    assert whole.model_path == tmp_path / "whole" / "model" and (whole.model_path / "config.json").is_file()
    best = whole.search.best()
    assert best is not None and f"--lr {best.settings['lr']!r}" in whole.search.command
    kept = [path.name for path in (tmp_path / "whole" / "runs").iterdir() if (path / "model").is_dir()]
    assert kept == [f"{best.number:04d}"]
    search(tiny_folder, tmp_path / "torn", 1)
    torn, told = search(tiny_folder, tmp_path / "torn", 3)
    assert [run.settings for run in torn.search.tried] == tried and told[0].startswith("run 2 of 3")
    assert [run.value for run in torn.search.tried] == [run.value for run in whole.search.tried]
    page = (tmp_path / "torn" / "tuning.html").read_text("utf-8")
    assert page.count("<svg") >= 2 and "://" not in page.replace("http://www.w3.org/2000/svg", "")
    with pytest.raises(ConfigError, match="holds a search on other data"):
        search(tiny_folder, tmp_path / "torn", 4, rows=ROWS[:44])


def test_the_command_of_the_best_settings_says_all_that_was_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[str] = []

    def stopped(*_: Any, command: str, **__: Any) -> None:
        commands.append(command)
        raise RequestError("enough")

    monkeypatch.setattr("t5kit.api.tuning.tune", stopped)
    said = ["--input", "review: {text}", "--target", "label", "--dev", "d e.csv", "--test", "t.csv", "--format", "csv"]
    said += ["--encoding", "cp1252", "--metrics", "accuracy", "--method", "lora", "--lr", "0.01", "--seed", "7"]
    words = ["tune", "--data", "a.csv", "--out", str(tmp_path / "s"), "--model", "m", *said]
    monkeypatch.setattr("sys.argv", ["t5kit", *words])
    with pytest.raises(SystemExit):
        main()
    again = shlex.split(commands[0])
    assert again[:2] == ["t5kit", "finetune"]
    pairs = list(zip(said[::2], said[1::2], strict=True))
    assert [pair for pair in pairs if pair not in list(itertools.pairwise(again))] == []
    assert "--batch-tokens" not in again and "--offline" not in again


def test_a_run_that_was_stopped_is_gone_on_with(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    from t5kit.api import tuning

    usual = tuning._run

    def stopped(*words: Any, **named: Any) -> float | None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        search(tiny_folder, tmp_path / "s", 1)
    monkeypatch.setattr(tuning, "_run", usual)
    tuned, told = search(tiny_folder, tmp_path / "s", 1, threads=2)  # of which no number depends
    assert len(tuned.search.tried) == 1 and told[0].startswith("run 1 of 1")


def test_a_runs_seconds_are_those_it_worked(tmp_path: Path) -> None:
    from t5kit.api.tuning import _seconds

    assert _seconds(tmp_path) == 0  # gradients that explode end a run before its first line
    lines = [("train", 1, 2.0), ("train", 2, 9.0), ("train", 2, 1.0), ("evaluation", 2, 0.5)]  # stopped, gone on with
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"kind": kind, "step": step, "seconds": s}) + "\n" for kind, step, s in lines)
    )
    assert _seconds(tmp_path) == 3.5


@pytest.mark.parametrize(
    ("method", "kept", "searched"),
    [
        ("lora", {"model", "adapter"}, {"lr": 1e-3, "rank": 16, "dropout": 0.0}),
        ("prompt", {"adapter"}, {"lr": 1e-1, "num_prompt_tokens": 20}),
    ],
)
def test_a_search_over_additions_keeps_the_best_adapter(
    tiny_folder: Path, tmp_path: Path, method: str, kept: set[str], searched: dict[str, float]
) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    tuned, told = search(tiny_folder, tmp_path, 2, method=method)
    tried = [dict(run.settings) for run in tuned.search.tried]
    assert tried[0] == searched and set(tried[1]) == set(searched) and tried[1] != searched
    assert {path.name for path in tmp_path.iterdir() if path.name in ("model", "adapter")} == kept
    assert (tmp_path / "adapter" / "adapter_config.json").is_file() and tuned.reports["dev"].scores
    best = tuned.search.best()
    words = [f"--{name.replace('_', '-')} {value!r}" for name, value in best.settings.items()]
    assert all(word in tuned.search.command for word in words) and told[0].startswith("run 1 of 2: lr")
    weights = {path.parent.name for path in (tmp_path / "runs").glob("*/adapter")}
    assert weights == {f"{best.number:04d}"}


def test_no_run_begins_after_the_minutes_are_over(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    clock = itertools.count(step=45)
    monkeypatch.setattr("t5kit.api.tuning.time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    tuned, told = search(tiny_folder, tmp_path, 3, max_minutes=1.5)
    assert len(tuned.search.tried) == 2 and "1.5 minutes are over; the same command goes on." in told
    tuned, told = search(tiny_folder, tmp_path, 3, max_minutes=1.5)
    assert len(tuned.search.tried) == 3 and told[0].startswith("run 3 of 3")


@pytest.mark.parametrize("shows", [True, False])
def test_what_is_found_and_chosen_is_told_before_the_first_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shows: bool
) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    from t5kit.api import tuning

    def stopped(*words: Any, **named: Any) -> float | None:
        raise KeyboardInterrupt

    def make_plan(chosen: FitSettings, run_folder: Path) -> FitPlan:
        rows = [*ROWS, *ROWS[:3], {"text": "a", "label": "odd"}]
        return plan_finetuning(str(tiny_folder), rows, run_folder, settings=chosen, input="text", target="label")

    monkeypatch.setattr(tuning, "_run", stopped)
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(
            make_plan, FitSettings(precision="float32"), tmp_path / "s", num_trials=1, command="t5kit finetune",
            shows=shows, tell=told.append,
        )  # fmt: skip
    before = told[: next(place for place, line in enumerate(told) if line.startswith("run 1 of 1"))]
    assert any("found: 3 train record(s) repeat" in line for line in before)
    assert any(line.startswith("found: the labels are unbalanced") for line in before)
    assert any(line.startswith("metrics: classification_f1") for line in before) == shows


@pytest.mark.parametrize("method", ["full", "prompt"])
@pytest.mark.parametrize("num_records", [40, 700])
def test_the_first_run_is_what_finetune_would_do(
    tiny_folder: Path, tmp_path: Path, method: Any, num_records: int
) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    from t5kit.api.tuning import _defaults

    rows = [(f"w{number}", "WX"[number % 2]) for number in range(num_records)]
    settings = FitSettings(method=method, precision="float32")
    plan = plan_finetuning(str(tiny_folder), rows, tmp_path, settings=settings)
    first = dataclasses.replace(settings, **_defaults(plan, settings))
    again = plan_finetuning(str(tiny_folder), rows, tmp_path, settings=first)
    assert again.config == plan.config


def test_a_search_with_nothing_to_search_or_to_choose_by_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    with pytest.raises(RequestError, match="nothing to search"):
        search(tiny_folder, tmp_path / "a", 1, lr=1e-3)
    with pytest.raises(RequestError, match="nothing to choose by"):
        search(tiny_folder, tmp_path / "b", 1, rows=ROWS[:10])


def test_a_damaged_search_is_a_sentence(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna comes with the extra tune")
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match=r"study\.db cannot be read .*Remove it"):
        search(tiny_folder, tmp_path, 1)


def test_the_page_draws_numbers_choices_failures_and_hostile_names() -> None:
    tried = tuple(
        TriedSettings(
            number=n, settings={"lr": 10.0**-n, "rank": 4 * (n % 3), "method": "<b>lora" if n % 2 else "full"},
            value=math.nan if n == 3 else 50.0 + n, seconds=7.0 * n,
        )
        for n in range(1, 6)
    )  # fmt: skip
    found = Search(
        name="<script>", metric="accuracy", is_highest_best=True, tried=tried, importances={"lr": 0.9, "rank": 0.1},
        findings=("a & b",), command="t5kit finetune --lr 1e-05",
    )  # fmt: skip
    best = found.best()
    assert best is not None and best.number == 5
    page = tuning_page(found)
    assert page.count("<svg") == 5 and page.count('class="dot s1"') == 4 and "failed" in page and "5 (best)" in page
    assert "<script>" not in page and "<b>" not in page and "a &amp; b" in page and "90%" in page
    empty = Search(name="x", metric="loss", is_highest_best=False, tried=(), importances={}, findings=(), command="c")
    assert empty.best() is None and "no run is finished yet" in tuning_page(empty)
    assert json.dumps(page)

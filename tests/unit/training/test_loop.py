"""The loop: what is due when, what is kept, how it ends; and resume = never stopped, to the bit."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5kit.data import Batch
from t5kit.errors import CheckpointError, ConfigError
from t5kit.testing.runs import tiny_run
from t5kit.training.config import ComputeConfig, OptimizerConfig, ScheduleConfig, TrainingConfig

torch = pytest.importorskip("torch")

from t5kit.training.hooks import TrainingResult, TrainingRun  # noqa: E402
from t5kit.training.loop import train  # noqa: E402
from t5kit.training.run_folder import TIMED_KEYS  # noqa: E402
from t5kit.training.step import StepReport  # noqa: E402
from t5kit.training.stopping import RunStoppedError, TrainingError  # noqa: E402

CONFIG = TrainingConfig(num_steps=12, log_every=5, evaluate_every=4, checkpoint_every=3)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Every metric line without what tells the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED_KEYS} for line in lines]


def weights_of(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def finished(path: Path, config: TrainingConfig = CONFIG, **others: Any) -> TrainingResult:
    run = tiny_run(path, config, **others)
    with run.folder:
        return train(run)


class FakeStep:
    """A step without a model's cost: it moves the weights by what the batch and lr say, and may fail or be killed."""

    def __init__(self, run: TrainingRun, *, skips: frozenset[int] = frozenset(), dies_at: int = -1) -> None:
        self.model, self.skips, self.dies_at = run.model, skips, dies_at
        self.batches: list[bytes] = []

    def __call__(self, batch: Batch, *, step: int, lr: float) -> StepReport:
        if step == self.dies_at:
            raise Killed
        self.batches.append(batch.labels.tobytes())
        size = float(batch.labels.sum() % 97)
        is_skipped = step in self.skips
        if not is_skipped:
            with torch.no_grad():
                self.model.shared.weight.add_(lr * size)
        loss = math.nan if is_skipped else size / 7
        return StepReport(loss, 0.1, loss, 0.5, 3.0 + step, 11, 7, loss, 1.0, is_skipped)


class Killed(BaseException):
    """The process is gone: nothing of the loop may act on it."""


class Recorder:
    """A hook that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def started(self, run: TrainingRun, step: int) -> None:
        self.events.append(("started", step))

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        self.events.append(("logged", step))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.events.append(("evaluated", step))

    def saved(self, step: int, path: Path) -> None:
        assert (path / "manifest.json").is_file()
        self.events.append(("saved", step))

    def finished(self, result: TrainingResult) -> None:
        assert result.model_path.is_dir()
        self.events.append(("finished", result.num_steps))

    def stopped(self, reason: str) -> None:
        self.events.append(("stopped", reason))


def test_what_is_due_comes_in_order(tmp_path: Path) -> None:
    recorder = Recorder()
    finished(tmp_path / "run", dataclasses.replace(CONFIG, num_steps=9, keep_checkpoints=1), hooks=[recorder])
    saved_for_best = [("saved", step) for step in (4, 8) if ("saved", step) in recorder.events]
    assert [event for event in recorder.events if event not in saved_for_best] == [
        ("started", 0),
        ("saved", 3),
        ("evaluated", 4),
        ("logged", 5),
        ("saved", 6),
        ("evaluated", 8),
        ("logged", 9),
        ("evaluated", 9),
        ("saved", 9),
        ("finished", 9),
    ]


def test_a_line_is_the_mean_over_its_targets_and_the_sum_of_its_tokens(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", TrainingConfig(num_steps=2, log_every=2), evaluates=False)
    reports = [
        StepReport(2.0, 0.2, 1.0, 0.5, 3.0, 10, 4, 1.0, 0.5, False),
        StepReport(4.0, 0.4, 3.0, 1.0, 1.0, 20, 6, 3.0, 1.0, False),
    ]
    with run.folder:
        train(dataclasses.replace(run, step=lambda batch, *, step, lr: reports[step]))
    (line,) = lines_of(run.folder.path)
    expected = {"loss": 2.5, "z_loss": 0.25, "negative_log_likelihood": 1.5, "accuracy": 0.625, "global_norm": 2.0}
    counts = {"clip_factor": 0.75, "num_skipped": 0, "encoder_tokens": 30, "target_tokens": 10}
    means = {key: pytest.approx(value) for key, value in expected.items()}
    assert line == {"kind": "train", "step": 2, "lr": 1e-3, **counts, **means}


def test_skipped_updates_are_counted_and_leave_the_means_alone(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", TrainingConfig(num_steps=4, log_every=2), evaluates=False)
    with run.folder:
        result = train(dataclasses.replace(run, step=FakeStep(run, skips=frozenset({0, 2, 3}))))
    first, second = lines_of(run.folder.path)
    assert result.num_skipped == 3
    assert (first["num_skipped"], second["num_skipped"]) == (1, 2)
    assert math.isfinite(first["loss"]) and math.isfinite(first["global_norm"])
    assert second["loss"] is None and second["global_norm"] is None, "NaN is no JSON"
    assert second["target_tokens"] == 14


def test_real_gradients_that_are_not_finite_are_skipped_and_end_the_run(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", dataclasses.replace(CONFIG, max_skipped_in_a_row=4, checkpoint_every=2))
    with torch.no_grad():
        run.model.decoder.final_layer_norm.weight[0] = math.inf
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with run.folder, pytest.raises(TrainingError, match=r"4 steps in a row, up to step 4, were not finite"):
        train(run)
    after = run.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_skipped_steps_with_good_ones_between_do_not_end_the_run(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", dataclasses.replace(CONFIG, max_skipped_in_a_row=3))
    with run.folder:
        assert train(dataclasses.replace(run, step=FakeStep(run, skips=frozenset({1, 2, 4, 5, 7, 8})))).num_skipped == 6


def scores(values: Mapping[int, float]) -> Callable[[int], Mapping[str, float]]:
    return lambda step: {"score": values[step], "other": 1.0}


@pytest.mark.parametrize(("best_is", "best"), [("highest", 4), ("lowest", 8)])
def test_the_best_checkpoint_outlives_the_others_and_becomes_the_model(best_is: Any, best: int, tmp_path: Path) -> None:
    plan: dict[str, Any] = dict(num_steps=24, evaluate_every=4, checkpoint_every=2, keep_checkpoints=2)
    config = TrainingConfig(**plan, best_metric="score", best_is=best_is)
    values = {4: 9.0, 8: 1.0, 12: math.nan, 16: 5.0, 20: 9.0, 24: 1.0}  # equal is not better, NaN never is
    run = tiny_run(tmp_path / "run", config)
    with run.folder:
        result = train(dataclasses.replace(run, step=FakeStep(run), evaluate=scores(values)))
    assert result.best is not None and (result.best.step, result.best.value) == (best, values[best])
    assert result.model_step == best
    kept = sorted(path.name for path in run.folder.checkpoints.iterdir())
    assert kept == [f"step-{step:08d}" for step in (best, 22, 24)]
    assert weights_of(run.folder.path) == (run.folder.checkpoints / kept[0] / "model.safetensors").read_bytes()


def test_the_last_weights_become_the_model_where_they_are_asked_for(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, best_metric="score", final_weights="last")
    run = tiny_run(tmp_path / "run", config)
    with run.folder:
        result = train(dataclasses.replace(run, evaluate=scores({4: 1.0, 8: 2.0, 12: 3.0})))
    assert result.best is not None and (result.best.step, result.model_step) == (4, 12)
    assert weights_of(run.folder.path) == (run.folder.checkpoints / "step-00000012" / "model.safetensors").read_bytes()


def test_without_evaluation_the_model_has_the_last_weights(tmp_path: Path) -> None:
    result = finished(tmp_path / "run", evaluates=False)
    assert result.best is None and result.model_step == 12


def test_patience_ends_the_run_with_its_last_line(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_steps=100, patience=2, best_metric="score")
    run = tiny_run(tmp_path / "run", config)
    values = {4: 3.0, 8: 2.0, 12: 2.5, 16: 2.0}
    with run.folder:
        result = train(dataclasses.replace(run, step=FakeStep(run), evaluate=scores(values)))
    assert (result.num_steps, result.stopped_early, result.model_step) == (16, True, 8)
    assert [line["step"] for line in lines_of(run.folder.path) if line["kind"] == "train"] == [5, 10, 15, 16]


def test_data_that_ends_ends_the_run(tmp_path: Path) -> None:
    result = finished(tmp_path / "run", dataclasses.replace(CONFIG, num_steps=1000), num_epochs=1)
    assert result.ran_out_of_data and not result.stopped_early and 1 < result.num_steps < 1000
    last = lines_of(tmp_path / "run")[-1]
    assert (last["kind"], last["step"]) == ("evaluation", result.num_steps)


def test_a_metric_that_nobody_measures_is_refused_by_name(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", dataclasses.replace(CONFIG, best_metric="rougeL"))
    with run.folder, pytest.raises(ConfigError, match=r"training\.best_metric = 'rougeL' .* loss, accuracy"):
        train(run)


def test_a_finished_run_says_so_and_gives_its_result_again(tmp_path: Path) -> None:
    result = finished(tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.warns(UserWarning, match="is finished"):
        assert finished(tmp_path / "run") == result
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plain: plain.clear(), "'best'"),
        (lambda plain: plain.pop("model_step"), "'model_step'"),
        (lambda plain: plain.update(num_steps="12"), "num_steps = '12' is no int"),
        (lambda plain: plain.update(num_skipped=True), "num_skipped = True is no int"),
        (lambda plain: plain.update(best=[1]), "TypeError"),
        (lambda plain: plain["best"].update(value="low"), "value = 'low' is no float"),
        (lambda plain: plain["best"].update(metrics=7), "TypeError"),
        (lambda plain: plain["best"].update(metrics={"loss": "x"}), "loss = 'x' is no float"),
    ],
)
def test_a_damaged_result_is_named_and_can_be_written_again(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    path = tmp_path / "run" / "result.json"
    result = finished(tmp_path / "run")
    whole = path.read_bytes()
    plain = json.loads(whole)
    change(plain)
    path.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"result\.json is damaged .*{said}.*Remove it"):
        finished(tmp_path / "run")
    path.unlink()
    assert finished(tmp_path / "run") == result
    assert path.read_bytes() == whole


def test_hooks_that_fail_are_left_out_and_change_nothing(tmp_path: Path) -> None:
    class Broken(Recorder):
        def logged(self, step: int, metrics: Mapping[str, float]) -> None:
            raise OSError("no terminal")

    broken, whole = Broken(), Recorder()
    with pytest.warns(UserWarning, match=r"Broken\.logged failed and is left out .* no terminal") as caught:
        finished(tmp_path / "one", hooks=[broken, whole])
    assert len(caught) == 1
    assert broken.events[-1][0] != "finished" and whole.events[-1][0] == "finished"
    finished(tmp_path / "two")
    assert lines_of(tmp_path / "one") == lines_of(tmp_path / "two")
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two")


def test_hooks_hear_why_a_run_left(tmp_path: Path) -> None:
    recorder = Recorder()
    run = tiny_run(tmp_path / "run", CONFIG, hooks=[recorder])
    with run.folder, pytest.raises(Killed):
        train(dataclasses.replace(run, step=FakeStep(run, dies_at=2)))
    assert recorder.events == [("started", 0), ("stopped", "Killed")]


def test_pytorchs_settings_are_as_they_were(tmp_path: Path) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    seen = []
    run = tiny_run(tmp_path / "run", dataclasses.replace(CONFIG, num_steps=1), evaluates=False)

    def step(batch: Batch, *, step: int, lr: float) -> StepReport:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return StepReport(1.0, 0.0, 1.0, 0.0, 1.0, 1, 1, 1.0, 1.0, False)

    with run.folder:
        train(dataclasses.replace(run, step=step))
    assert seen == [True]
    assert (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory) == before


def test_the_model_folder_answers_in_t5kit_and_in_transformers_alike(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from t5kit import Model

    result = finished(tmp_path / "run")
    model = Model.from_pretrained(str(result.model_path), engine="reference")
    assert model.generate("abc", max_new_tokens=4) is not None
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(result.model_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.model_path)
    encoded, labels = tokenizer("abc", return_tensors="pt"), tokenizer("cba", return_tensors="pt").input_ids
    with torch.no_grad():
        log_p = torch.log_softmax(theirs(**encoded, labels=labels).logits, -1)
    expected = float(log_p.gather(-1, labels[..., None]).sum())
    assert model.score(["abc"], ["cba"])[0] == pytest.approx(expected, abs=1e-4)  # float32 sums of four targets


# Stop and resume


def signalled(number: int, *, at_step: int, run: TrainingRun) -> TrainingRun:
    """The run, which sends itself a signal while it makes a step."""
    real = run.step

    def step(batch: Batch, *, step: int, lr: float) -> Any:
        if step == at_step:
            os.kill(os.getpid(), number)
        return real(batch, step=step, lr=lr)

    return dataclasses.replace(run, step=step)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_leaves_with_a_sentence(number: int, code: int, tmp_path: Path) -> None:
    usual = signal.getsignal(number)
    run = tiny_run(tmp_path / "run", CONFIG)
    with run.folder, pytest.raises(RunStoppedError, match=r"after step 8 of 12\. Everything is saved") as stop:
        train(signalled(number, at_step=7, run=run))
    assert stop.value.exit_code == code
    assert signal.getsignal(number) is usual
    assert (tmp_path / "run" / "checkpoints" / "step-00000008").is_dir()
    finished(tmp_path / "run")
    finished(tmp_path / "whole")
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_a_signal_after_the_last_evaluation_finishes_the_run_and_is_not_lost(tmp_path: Path) -> None:
    class Interrupting(Recorder):
        def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
            super().evaluated(step, metrics)
            if step == CONFIG.num_steps:
                os.kill(os.getpid(), signal.SIGINT)

    recorder = Interrupting()
    run = tiny_run(tmp_path / "run", CONFIG, hooks=[recorder])
    with run.folder, pytest.raises(RunStoppedError, match=r"after step 12 of 12\. .*; the run is finished") as stop:
        train(run)
    assert stop.value.exit_code == 130
    assert [name for name, _ in recorder.events][-1] == "finished"
    finished(tmp_path / "whole")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    with pytest.warns(UserWarning, match="is finished"):
        assert finished(tmp_path / "run").num_steps == 12


@pytest.mark.parametrize("cut", [8, 12])
def test_a_signal_cuts_an_evaluation_off_and_a_resumed_run_makes_it(cut: int, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", CONFIG)
    evaluations = []

    def evaluate(step: int) -> Mapping[str, float]:
        evaluations.append(step)
        if step == cut:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(60)
            pytest.fail("the evaluation went on")
        assert run.evaluate is not None
        return run.evaluate(step)

    with run.folder, pytest.raises(RunStoppedError, match=f"after step {cut} of 12"):
        train(dataclasses.replace(run, evaluate=evaluate))
    assert evaluations == list(range(4, cut + 1, 4))
    finished(tmp_path / "run")
    finished(tmp_path / "whole")
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")


def test_a_second_signal_interrupts_at_once(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", CONFIG)

    def step(batch: Batch, *, step: int, lr: float) -> StepReport:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the step went on")

    with run.folder, pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(run, step=step))


def test_a_run_outside_the_main_thread_trains_without_signals(tmp_path: Path) -> None:
    results: list[TrainingResult] = []
    thread = threading.Thread(target=lambda: results.append(finished(tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].num_steps == 12


PLANS = st.fixed_dictionaries(
    {
        "num_steps": st.integers(1, 14),
        "log_every": st.integers(1, 6),
        "evaluate_every": st.integers(0, 5),
        "checkpoint_every": st.integers(1, 6),
        "keep_checkpoints": st.integers(1, 3),
        "patience": st.integers(0, 2),
        "max_skipped_in_a_row": st.just(99),
    }
).filter(lambda plan: plan["evaluate_every"] or not plan["patience"])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=PLANS,
    deaths=st.lists(st.integers(0, 13), max_size=4),
    skips=st.frozensets(st.integers(0, 13), max_size=5),
    num_epochs=st.sampled_from([None, 1]),
    values=st.lists(st.sampled_from([1.0, 2.0, 3.0, math.nan]), min_size=15, max_size=15),
)
def test_any_run_killed_anywhere_resumes_as_if_never_stopped(
    plan: dict[str, Any],
    deaths: list[int],
    skips: frozenset[int],
    num_epochs: int | None,
    values: list[float],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = TrainingConfig(**plan, best_metric="score")
    folders = tmp_path_factory.mktemp("runs")

    def go(path: Path, dies_at: int) -> TrainingResult | None:
        run = tiny_run(path, config, num_epochs=num_epochs)
        step = FakeStep(run, skips=skips, dies_at=dies_at)
        evaluate = scores(dict(enumerate(values)))
        with run.folder:
            try:
                return train(dataclasses.replace(run, step=step, evaluate=evaluate))
            except Killed:
                return None

    whole = go(folders / "whole", -1)
    assert whole is not None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is finished")
        for death in deaths:
            go(folders / "killed", death)
        resumed = go(folders / "killed", -1)
    assert resumed is not None
    assert plain(resumed) == plain(whole)
    assert lines_of(folders / "killed") == lines_of(folders / "whole")
    assert weights_of(folders / "killed") == weights_of(folders / "whole")


def plain(result: TrainingResult) -> dict[str, Any]:
    return json.loads(
        json.dumps(dataclasses.asdict(dataclasses.replace(result, model_path=Path("model"))), default=str)
    )


OPTIMIZERS = {
    "adafactor": OptimizerConfig(max_gradient_norm=1.0),
    "adamw": OptimizerConfig(name="adamw", weight_decay=0.1),
    "muon": OptimizerConfig(name="muon"),
    "sgd": OptimizerConfig(name="sgd"),
}


@pytest.mark.parametrize(
    ("compute", "optimizer"),
    [
        (ComputeConfig(precision="float32", num_threads=1, microbatch_rows=1), "adafactor"),
        (ComputeConfig(precision="bfloat16", num_threads=1, recomputes_layers=True), "adamw"),
        # Two threads that share a busy core wait long for each other.
        pytest.param(ComputeConfig(precision="bfloat16", num_threads=2), "adafactor", marks=pytest.mark.slow),
        (ComputeConfig(precision="float32", num_threads=1), "muon"),
        (ComputeConfig(precision="float32", num_threads=1), "sgd"),
    ],
)
def test_real_updates_resume_to_the_bit(compute: ComputeConfig, optimizer: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    config = TrainingConfig(num_steps=3, log_every=2, evaluate_every=2, checkpoint_every=1)
    others: dict[str, Any] = dict(
        compute=compute, optimizer=OPTIMIZERS[optimizer], schedule=ScheduleConfig(name="cosine")
    )
    try:
        finished(tmp_path / "whole", config, **others)
        run = tiny_run(tmp_path / "run", config, **others)
        with run.folder, pytest.raises(Killed):
            train(dataclasses.replace(run, step=dying(run.step, 2)))
        finished(tmp_path / "run", config, **others)
    finally:
        torch.set_num_threads(threads)
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def dying(real: Any, dies_at: int) -> Callable[..., StepReport]:
    def step(batch: Batch, *, step: int, lr: float) -> StepReport:
        if step == dies_at:
            raise Killed
        return real(batch, step=step, lr=lr)

    return step


def test_a_resumed_run_sees_the_batches_it_would_have_seen(tmp_path: Path) -> None:
    def go(path: Path, dies_at: int) -> list[bytes]:
        run = tiny_run(path, CONFIG)
        step = FakeStep(run, dies_at=dies_at)
        with run.folder, contextlib.suppress(Killed):
            train(dataclasses.replace(run, step=step))
        return step.batches

    whole = go(tmp_path / "whole", -1)
    assert len(set(whole)) == 12, "batches differ, so that order shows"
    first, second = go(tmp_path / "run", 7), go(tmp_path / "run", -1)
    assert first == whole[:7] and second == whole[6:]

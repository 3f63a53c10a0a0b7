"""The display: what it shows in a terminal and elsewhere, and that it leaves the run alone."""

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from t5kit.config.architecture import T5Config, preset, tensor_shapes
from t5kit.training.config import TrainingConfig
from t5kit.training.display import TerminalDisplay
from t5kit.training.throughput import measured_peak, training_flops

TINY = T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_heads=2, num_encoder_layers=2, num_decoder_layers=1)
LINE = {
    "loss": 2.34567,
    "accuracy": 0.5,
    "lr": 1e-3,
    "global_norm": 0.75,
    "num_skipped": 0,
    "encoder_tokens": 9000,
    "target_tokens": 1000,
    "seconds": 2.0,
    "tokens_per_second": 5000.0,
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Shown:
    display: TerminalDisplay
    clock: Clock
    stream: io.StringIO

    def text(self) -> str:
        console = Console(file=io.StringIO(), width=140)
        console.print(self.display.render())
        return console.file.getvalue()


def shown(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, step: int = 0, num_steps: int = 1000) -> Shown:
    monkeypatch.setattr("t5kit.training.display.measured_peak", lambda device, precision: 1e9)
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=is_terminal, width=140)
    display = TerminalDisplay(console=console, clock=clock)
    model = SimpleNamespace(config=TINY, parameters=lambda: iter([torch.zeros(1)]))
    config = TrainingConfig(num_steps=num_steps, best_metric="rougeL", best_is="highest")
    run = SimpleNamespace(
        folder=SimpleNamespace(path=Path("runs/g2p")),
        config=config,
        model=model,
        step=SimpleNamespace(precision="float32"),
    )
    display.started(run, step)
    return Shown(display, clock, stream)


def result(**changes: object) -> SimpleNamespace:
    best = SimpleNamespace(step=500, metrics={"rougeL": 31.25})
    facts = {"num_steps": 1000, "stopped_early": False, "ran_out_of_data": False, "best": best, "model_step": 1000}
    return SimpleNamespace(**{**facts, "model_path": Path("runs/g2p/model"), **changes})


def test_a_terminal_shows_figures_evaluations_checkpoint_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shown(monkeypatch, is_terminal=True, step=200)
    assert "waiting for the first steps" in seen.text()
    seen.clock.now += 60
    seen.display.logged(400, LINE)
    seen.display.evaluated(400, {"loss": 2.5, "rougeL": 30.125, "seconds": 9.0})
    seen.display.saved(400, Path("runs/g2p/checkpoints/step-00000400"))
    text = seen.text()
    assert "step 400 / 1,000" in text
    assert "0:01:00, 0:03:00 left" in text, "200 steps took a minute; the 200 before the resume do not count"
    for part in ("2.346", "0.001", "0.75", "5,000", "rougeL", "30.12", "checkpoint step-00000400"):
        assert part in text, part
    assert "seconds" not in text
    seen.display.finished(result())
    assert seen.stream.getvalue().endswith(
        "g2p: done after 1,000 steps, 0:01:00\nbest rougeL 31.25 at step 500\nmodel: runs/g2p/model (of step 1,000)\n"
    )
    assert "\x1b[?25h" in seen.stream.getvalue(), "the cursor is back"


def test_elsewhere_lines_are_few_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shown(monkeypatch, is_terminal=False)
    for step in range(10, 101, 10):
        seen.clock.now += 5
        seen.display.logged(step, LINE)
    seen.display.evaluated(100, {"loss": 2.5, "seconds": 1.0})
    seen.display.stopped("SIGTERM")
    lines = seen.stream.getvalue().splitlines()
    assert lines[0] == "g2p: starting, 1,000 steps; peak 0.001 TFLOP/s in float32"
    assert lines[1].startswith("step 10/1,000  loss 2.346  accuracy 0.5  lr 0.001  gradient norm 0.75  tokens/s 5,000")
    assert lines[1].endswith("left 0:08:15")
    assert [line.split()[1] for line in lines[1:3]] == ["10/1,000", "70/1,000"], "one in 30 seconds"
    assert lines[3:] == ["step 100  dev  loss 2.5", "g2p: stopped at step 100: SIGTERM"]
    assert "\x1b" not in seen.stream.getvalue()


def test_skipped_updates_and_early_ends_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shown(monkeypatch, is_terminal=False)
    seen.clock.now += 1
    seen.display.logged(10, {**LINE, "num_skipped": 2, "loss": float("nan")})
    seen.display.logged(20, LINE)
    seen.display.logged(30, {**LINE, "num_skipped": 1})
    assert [line.split()[1] for line in seen.stream.getvalue().splitlines()[1:]] == ["10/1,000", "30/1,000"]
    seen.display.finished(result(stopped_early=True, best=None))
    assert "loss not finite" in seen.stream.getvalue()
    assert "updates skipped 2" in seen.stream.getvalue() and "updates skipped 3" in seen.stream.getvalue()
    assert "done after 1,000 steps, stopped early, 0:00:01\nmodel:" in seen.stream.getvalue()


def test_the_share_of_the_peak_is_useful_work_over_the_measured_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shown(monkeypatch, is_terminal=False)
    assert seen.display.peak_share() == 0.0
    seen.display.logged(10, LINE)
    expected = training_flops(TINY, encoder_tokens=9000, target_tokens=1000) / 2.0 / 1e9
    assert seen.display.peak_share() == expected > 0


@pytest.mark.parametrize("name", ["t5-small", "t5-v1_1-small"])
def test_a_token_on_both_sides_costs_six_operations_a_weight_of_the_products(name: str) -> None:
    config = preset(name)
    weights = sum(
        shape[0] * shape[1]
        for tensor, shape in tensor_shapes(config).items()
        if len(shape) == 2 and "relative_attention_bias" not in tensor and tensor != "shared.weight"
    )
    head = config.vocab_size * config.d_model if config.is_tied else 0
    assert training_flops(config, encoder_tokens=1, target_tokens=1) == 6 * (weights + head)
    encoder = config.num_encoder_layers * (
        4 * 512 * config.inner_width + (3 if config.uses_gated_mlp else 2) * 512 * config.d_ff
    )
    cross = config.num_decoder_layers * 2 * 512 * config.inner_width
    assert training_flops(config, encoder_tokens=1, target_tokens=0) == 6 * (encoder + cross)


def test_measuring_the_peak_leaves_random_numbers_and_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5kit.training.throughput.MATRIX_SIZE", 64)
    monkeypatch.setattr("t5kit.training.throughput.MEASURE_S", 0.01)
    state = torch.get_rng_state()
    assert measured_peak(torch.device("cpu"), "float32") > 1e6
    assert measured_peak(torch.device("cpu"), "bfloat16") > 1e5
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()

"""What a person sees of a running training: a live display in a terminal, a few plain lines elsewhere."""

import atexit
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import rich.box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from t5kit.config.architecture import T5Config
from t5kit.drawing.axes import number_text
from t5kit.training.config import Precision
from t5kit.training.run_history import RATES
from t5kit.training.throughput import measured_peak, training_flops

if TYPE_CHECKING:
    from t5kit.training.hooks import TrainingResult, TrainingRun

PLAIN_EVERY_S = 30.0
"""Least time between two lines of training metrics where there is no terminal; evaluations always have theirs."""
NUM_EVALUATIONS = 4
"""Evaluations that stay in sight."""


class TerminalDisplay:
    """Hook: shows a run on standard error, live in a terminal, else in plain lines.

    It only reads: the run is the same with it and without. The share of the peak compares useful operations a second
    with the best that one large matrix product of this machine reached at the start (`measured_peak`).
    """

    def __init__(self, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, for the time that is left."""
        self._precision: Precision = "float32"
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._live: Live | None = None
        self._name, self._num_steps, self._best_metric = "", 0, ""
        self._model: T5Config | None = None
        self._peak = 0.0
        self._first_step = self._step = 0
        self._started_s = 0.0
        self._line_s = -PLAIN_EVERY_S
        self._metrics: Mapping[str, float] = {}
        self._num_skipped = 0
        self._evaluations: list[tuple[int, Mapping[str, float]]] = []
        self._checkpoint = ""

    def started(self, run: "TrainingRun", step: int) -> None:
        """Measure the peak and begin to show."""
        self._name, self._num_steps = run.folder.path.name, run.config.num_steps
        self._best_metric = run.config.best_metric
        self._model = run.model.config
        self._precision = run.step.precision
        self._peak = measured_peak(next(run.model.parameters()).device, self._precision)
        self._first_step = self._step = step
        self._started_s = self._clock()
        word = f"going on after step {step:,}" if step else "starting"
        if not self._console.is_terminal:
            peak = f"peak {self._peak / 1e12:.3g} TFLOP/s in {self._precision}"
            self._print(f"{self._name}: {word}, {self._num_steps:,} steps; {peak}")
            return
        # Standard output stays the program's own: only what goes to the terminal's error stream is moved above.
        self._live = Live(
            get_renderable=self.render, console=self._console, refresh_per_second=2, redirect_stdout=False
        )
        self._live.start(refresh=True)
        atexit.register(self._end)  # the cursor comes back whatever ends the process

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a line of training metrics; one that tells of skipped updates always."""
        self._step, self._metrics = step, metrics
        self._num_skipped += int(metrics.get("num_skipped", 0))
        now = self._clock()
        is_due = now - self._line_s >= PLAIN_EVERY_S or metrics.get("num_skipped")
        if self._live is None and is_due:
            self._line_s = now
            shown = "  ".join(f"{name} {value}" for name, value in self.figures())
            self._print(f"step {step:,}/{self._num_steps:,}  {shown}  left {self._left()}")

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show an evaluation."""
        self._evaluations = [*self._evaluations, (step, metrics)][-NUM_EVALUATIONS:]
        if self._live is None:
            self._print(f"step {step:,}  dev  {evaluation_text(metrics)}")

    def saved(self, step: int, path: Path) -> None:
        """Show which checkpoint is the last."""
        self._checkpoint = path.name

    def finished(self, result: "TrainingResult") -> None:
        """End the display with where the model is."""
        self._end()
        early = ", stopped early" if result.stopped_early else ", out of data" if result.ran_out_of_data else ""
        elapsed = _duration(self._clock() - self._started_s)
        self._print(f"{self._name}: done after {result.num_steps:,} steps{early}, {elapsed}")
        if result.best is not None and self._best_metric in result.best.metrics:
            value = number_text(result.best.metrics[self._best_metric])
            self._print(f"best {self._best_metric} {value} at step {result.best.step:,}")
        is_best = result.best is None or result.best.step == result.model_step
        self._print(f"model: {result.model_path}" + ("" if is_best else f" (of step {result.model_step:,})"))

    def stopped(self, reason: str) -> None:
        """End the display with the reason."""
        self._end()
        self._print(f"{self._name}: stopped at step {self._step:,}: {reason}")

    def figures(self) -> list[tuple[str, str]]:
        """Return names and texts of the last training metrics, the share of the peak, and all updates skipped."""
        metrics = self._metrics
        names = {"loss": "loss", "accuracy": "accuracy", "lr": "lr", "global_norm": "gradient norm"}
        found = [(name, number_text(metrics[key])) for key, name in names.items() if key in metrics]
        if "tokens_per_second" in metrics:
            found.append(("tokens/s", number_text(metrics["tokens_per_second"])))
        if share := self.peak_share():
            found.append(("of peak", f"{100 * share:.1f} %"))
        if self._num_skipped:
            found.append(("updates skipped", number_text(self._num_skipped)))
        return found

    def peak_share(self) -> float:
        """Return the last line's useful operations a second over the machine's peak; 0 if unknown."""
        seconds = self._metrics.get("seconds", 0.0)
        if self._model is None or not self._peak or not seconds > 0:
            return 0.0
        tokens = {key: self._metrics.get(key, 0.0) for key in ("encoder_tokens", "target_tokens")}
        return training_flops(self._model, **tokens) / seconds / self._peak

    def render(self) -> RenderableType:
        """Return the display as it is now."""
        elapsed = self._clock() - self._started_s
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        head.add_row(
            Text(f"{self._name}  step {self._step:,} / {self._num_steps:,}", style="bold"),
            ProgressBar(total=max(1, self._num_steps), completed=self._step),
            f"{_duration(elapsed)}, {self._left()} left",
        )
        parts: list[RenderableType] = [head, self._figures_table()]
        if self._evaluations:
            parts.append(_evaluations_table(self._evaluations))
        if self._checkpoint:
            parts.append(Text(f"checkpoint {self._checkpoint}", style="dim"))
        return Group(*parts)

    def _figures_table(self) -> RenderableType:
        figures = self.figures()
        if not figures:
            peak = f"{self._peak / 1e12:.3g} TFLOP/s in {self._precision}"
            return Text(f"waiting for the first steps; this machine's peak is {peak}", style="dim")
        table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
        for name, _ in figures:
            table.add_column(name, no_wrap=True)
        table.add_row(*(value for _, value in figures))
        return table

    def _left(self) -> str:
        """Return the time the steps left take at the pace of this process so far, evaluations and saving included."""
        done = self._step - self._first_step
        if done <= 0:
            return "?"
        return _duration((self._num_steps - self._step) * (self._clock() - self._started_s) / done)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _end(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            atexit.unregister(self._end)


def evaluation_text(metrics: Mapping[str, float]) -> str:
    """Return the metrics of an evaluation in one line, times left out."""
    return "  ".join(f"{key} {number_text(value)}" for key, value in metrics.items() if _is_shown(key))


def _evaluations_table(evaluations: list[tuple[int, Mapping[str, float]]]) -> Table:
    keys = list(dict.fromkeys(key for _, metrics in evaluations for key in metrics if _is_shown(key)))
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for name in ("dev at step", *keys):
        table.add_column(name, justify="right", no_wrap=True)
    for step, metrics in evaluations:
        table.add_row(f"{step:,}", *(number_text(metrics[key]) if key in metrics else "" for key in keys))
    return table


def _is_shown(key: str) -> bool:
    return key not in (*RATES, "step", "kind")


def _duration(seconds: float) -> str:
    """Return h:mm:ss: 4523.4 -> "1:15:23"."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"

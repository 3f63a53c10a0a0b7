"""The run report: one HTML file of a run folder, with its curves drawn, that fetches nothing. Loads without torch."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5kit.drawing.axes import number_text
from t5kit.drawing.line_chart import Series, legend, line_chart
from t5kit.drawing.page import details, document, figure, key_figures, section, table, write_page
from t5kit.training.run_history import METRICS_FILE, RunHistory, flatten, read_run

if TYPE_CHECKING:
    from t5kit.training.hooks import TrainingResult, TrainingRun

REPORT_FILE = "report.html"
MAX_TABLE_ROWS = 40
"""Rows of the table behind a curve; more points are shown at even distances, first and last included."""

METRIC_TITLES = {
    "accuracy": "Accuracy",
    "global_norm": "Gradient norm",
    "lr": "Learning rate",
    "tokens_per_second": "Tokens per second",
    "z_loss": "z-loss",
    "clip_factor": "Clipping factor",
}
"""Curves of the train lines, in this order, beside the loss; constant ones of clipping and z-loss are left out."""


def write_report(run_folder: Path) -> Path:
    """Write report.html into a run folder from what else is in it, finished or not, and return its path.

    Read are metrics.jsonl, recipe.toml, resolved.toml, environment.json, result.json, data.json (statistics of the
    data, findings, choices), scores.json (of the finished model) and samples.jsonl (objects with texts, such as prompt,
    target and prediction); only the first must be there.
    An older report is replaced in one step.
    Raises: DataError if the folder holds no run or cannot be written to.
    """
    page = report_page(read_run(run_folder))
    path = run_folder / REPORT_FILE
    write_page(path, page)
    return path


class RunReport:
    """Hook: writes the report when the run ends, whichever way."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def started(self, run: "TrainingRun", step: int) -> None:
        """Remember the folder."""
        self._folder = run.folder.path

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing to do: the metrics file has it."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing to do, likewise."""

    def saved(self, step: int, path: Path) -> None:
        """Nothing to do."""

    def finished(self, result: "TrainingResult") -> None:
        """Write the report of the finished run."""
        if self._folder is not None:
            write_report(self._folder)

    def stopped(self, reason: str) -> None:
        """Write the report of what there is; a run that stopped before its first metrics has none."""
        if self._folder is not None and (self._folder / METRICS_FILE).is_file():
            write_report(self._folder)


def report_page(run: RunHistory) -> str:
    """Return the report of a run as an HTML document."""
    sections = [
        section("Scores", _scores(run)),
        section("Findings", _findings(run)),
        section("Choices", _choices(run)),
        section("Curves", _curves(run)),
        section("Evaluations", _evaluations(run)),
        section("Samples", _samples(run)),
        section("Data", _facts_table(_statistics(run), "Statistics of the data")),
        section("Recipe", _recipe(run)),
        section("Environment", _facts_table(run.environment, "Machine and versions")),
    ]
    body = f"{_key_figures(run)}\n{''.join(sections)}"
    return document(f"Training run {run.name}", run.name, _status(run), body)


def _status(run: RunHistory) -> str:
    """Return in one sentence how far the run came."""
    last, planned = run.last_step(), run.planned_steps()
    status = f"{last:,} steps" if planned is None else f"{last:,} of {planned:,} steps"
    if run.result.get("stopped_early"):
        status += ", stopped early: its metric had stopped getting better"
    elif run.result.get("ran_out_of_data"):
        status += ", ended with its data"
    elif not run.is_finished():
        status += ", not finished"
    status += "."
    if run.num_starts > 1:
        status += f" Started {run.num_starts} times."
    if run.num_bad_lines:
        status += f" {run.num_bad_lines} metric line(s) could not be read."
    return status


def _key_figures(run: RunHistory) -> str:
    figures: list[tuple[str, str]] = []
    if best := run.best():
        figures.append((f"best dev {best.metric}, step {best.step:,}", number_text(best.value)))
    if run.evaluations:
        metric = best.metric if best else "loss"
        if metric in run.evaluations[-1]:
            figures.append((f"last dev {metric}", number_text(run.evaluations[-1][metric])))
    if run.train:
        last = run.train[-1]
        figures += [(f"last train {key}", number_text(last[key])) for key in ("loss", "accuracy") if key in last]
        seconds = sum(line.get("seconds", 0.0) for line in run.train)
        tokens = sum(line.get(key, 0.0) for line in run.train for key in ("encoder_tokens", "target_tokens"))
        if seconds > 0:
            figures.append(("spent in training steps", _duration(seconds)))
        if tokens > 0:
            figures.append(("tokens, padding aside", number_text(tokens)))
        if seconds > 0 and tokens > 0:
            figures.append(("tokens per second", number_text(tokens / seconds)))
        figures.append(("updates skipped", number_text(sum(line.get("num_skipped", 0.0) for line in run.train))))
    return key_figures(figures)


def _curves(run: RunHistory) -> str:
    best = run.best()
    marked = best.step if best else None
    figures = [_figure("Loss", [run.train_series("loss"), run.evaluation_series("loss")], marked)]
    # The train lines' accuracy is of tokens, a share; a metric of this name is of answers, in percent.
    token_accuracy = "token_accuracy" if "token_accuracy" in run.evaluation_keys() else "accuracy"
    for key in run.evaluation_keys():
        if key not in ("loss", token_accuracy):
            figures.append(_figure(f"Dev {key}", [run.evaluation_series(key)], marked))
    for key, title in METRIC_TITLES.items():
        series = [run.train_series(key)]
        if key == "accuracy":
            series.append(run.evaluation_series(token_accuracy))
        if key in ("z_loss", "clip_factor") and len(set(series[0].values)) < 2:
            continue
        figures.append(_figure(title, series, marked if key == "accuracy" else None))
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def _figure(title: str, series: Sequence[Series], marked_step: int | None) -> str:
    """Return a chart with its legend and the table behind it; "" if there is nothing to draw."""
    series = [one for one in series if one.steps]
    described = "; ".join(f"{one.name}: {_in_words(one)}" for one in series)
    if marked_step is not None:
        described += f"; best evaluation at step {marked_step:,}"
    is_rate = title == METRIC_TITLES["tokens_per_second"]
    svg = line_chart(series, title=title, description=described, marked_step=marked_step, starts_at_zero=is_rate)
    if not svg:
        return ""
    tables = "".join(_series_table(title, one) for one in series)
    return figure(title, svg, above=legend(series, marked_step=marked_step), below=details("Numbers", tables))


def _in_words(series: Series) -> str:
    values = f"from {number_text(series.values[0])} at step {series.steps[0]:,}"
    return f"{values} to {number_text(series.values[-1])} at step {series.steps[-1]:,}"


def _series_table(title: str, series: Series) -> str:
    num_points = len(series.steps)
    if num_points > MAX_TABLE_ROWS:
        chosen = [round(n * (num_points - 1) / (MAX_TABLE_ROWS - 1)) for n in range(MAX_TABLE_ROWS)]
        caption = f"{title}, {series.name}: {MAX_TABLE_ROWS} of {num_points:,} points"
    else:
        chosen, caption = list(range(num_points)), f"{title}, {series.name}"
    rows = ((f"{series.steps[n]:,}", number_text(series.values[n])) for n in chosen)
    return table(caption, ("step", series.name), rows, is_numeric=True)


def _evaluations(run: RunHistory) -> str:
    keys = run.evaluation_keys()
    if not keys:
        return ""
    best = run.best()
    rows = []
    for line in run.evaluations:
        mark = " (best)" if best and line["step"] == best.step else ""
        values = (number_text(line[key]) if key in line else "" for key in keys)
        rows.append((f"{int(line['step']):,}{mark}", *values))
    return table("Metrics on the dev data", ("step", *keys), rows, is_numeric=True)


def _samples(run: RunHistory) -> str:
    if not run.samples:
        return ""
    names = list(dict.fromkeys(key for sample in run.samples for key in sample))
    rows = (tuple(_plain(sample.get(name, "")) for name in names) for sample in run.samples)
    return table("Predictions on dev examples", names, rows)


def _scores(run: RunHistory) -> str:
    """Return the finished model's scores on each split, those of labels behind them, and how to use the model."""
    parts = []
    for split, report in run.scores.items():
        scores = report.get("scores") if isinstance(report, Mapping) else None
        if not isinstance(scores, Mapping):
            continue
        rows = []
        for name, score in scores.items():
            has_interval = "low" in score
            interval = f"{number_text(score['low'])} … {number_text(score['high'])}" if has_interval else ""
            rows.append((str(name), number_text(score["value"]), interval))
        caption = f"{split}: {report.get('num_examples', 0):,} examples"
        parts.append(table(caption, ("score", "value", "95 % interval"), rows, is_numeric=True))
        labels = (report.get("classification") or {}).get("labels", ())
        rows = [
            (label["label"], *(f"{label[key]:.2f}" for key in ("f1", "precision", "recall")), f"{label['support']:,}")
            for label in labels
        ]
        if rows:
            names = ("label", "F1", "precision", "recall", "examples")
            parts.append(table(f"{split}, by label", names, rows, is_numeric=True))
    failures = run.scores.get("failures")
    for split, why in failures.items() if isinstance(failures, Mapping) else ():
        parts.append(f"<p>{escape(_plain(split))} could not be scored: {escape(_plain(why))}</p>")
    if not parts:
        return ""
    command = escape(_plain(run.scores.get("command", "")))
    parts.append(f"<p>Answered by the engine {escape(_plain(run.scores.get('engine', '')))}. Use the model:</p>")
    return "".join(parts) + f'<pre tabindex="0" aria-label="command">{command}</pre>'


def _findings(run: RunHistory) -> str:
    findings = run.data.get("findings", ())
    return f"<ul>{''.join(f'<li>{escape(_plain(finding))}</li>' for finding in findings)}</ul>" if findings else ""


def _choices(run: RunHistory) -> str:
    choices = run.data.get("choices", ())
    names = ("what", "value", "reason")
    rows = [tuple(_plain(choice.get(name, "")) for name in names) for choice in choices]
    return table("What was chosen, and why", names, rows) if rows else ""


def _statistics(run: RunHistory) -> dict[str, Any]:
    return {name: value for name, value in run.data.items() if name not in ("findings", "choices")}


def _recipe(run: RunHistory) -> str:
    parts = []
    if run.recipe.strip():
        parts.append(f'<pre tabindex="0" aria-label="recipe.toml">{escape(run.recipe)}</pre>')
    if run.resolved:
        every = _facts_table(run.resolved, "Every setting of the run, defaults included")
        parts.append(details("Every setting, defaults included", every))
    return "".join(parts)


def _facts_table(facts: Mapping[str, Any], caption: str) -> str:
    rows = [(name, _plain(value)) for name, value in flatten(facts)]
    return table(caption, ("name", "value"), rows) if rows else ""


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return number_text(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _duration(seconds: float) -> str:
    """Return a duration for people: 4523 -> "1 h 15 min", 75 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

"""What a run folder tells of its run: metric lines, recipe, environment, data, samples. Loads without torch."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t5kit.drawing.line_chart import Series
from t5kit.errors import DataError

METRICS_FILE = "metrics.jsonl"
RATES = ("seconds", "tokens_per_second")
"""Keys of a metric line that hold times; all others are a function of the recipe."""
MAX_SAMPLES = 50


@dataclasses.dataclass(frozen=True, slots=True)
class BestEvaluation:
    """The evaluation the run chose its weights by."""

    step: int
    metric: str
    value: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """A run as its folder tells it; what the folder lacks is empty."""

    name: str
    train: tuple[Mapping[str, float], ...]
    """Lines of kind "train", ascending in "step"."""
    evaluations: tuple[Mapping[str, float], ...]
    """Lines of kind "evaluation", ascending in "step"."""
    num_bad_lines: int
    """Lines of the metrics file that are no such object; the last one may be torn by a kill."""
    recipe: str
    """recipe.toml as it was given."""
    resolved: Mapping[str, Any]
    environment: Mapping[str, Any]
    """Of the last start."""
    num_starts: int
    """How often the run was started or resumed; 0 if unknown."""
    result: Mapping[str, Any]
    """result.json; empty until the run is finished."""
    data: Mapping[str, Any]
    """data.json: statistics of the data."""
    scores: Mapping[str, Any]
    """scores.json: what the finished model scored, by split; empty without one."""
    samples: tuple[Mapping[str, Any], ...]
    """samples.jsonl: objects with texts, such as prompt, target and prediction; the last ones."""

    def train_series(self, key: str, name: str = "train") -> Series:
        """Return a key of the train lines over the steps; lines without it are left out."""
        return _series(self.train, key, name)

    def evaluation_series(self, key: str, name: str = "dev") -> Series:
        """Return a key of the evaluations over the steps."""
        return dataclasses.replace(_series(self.evaluations, key, name), stroke=1)

    def evaluation_keys(self) -> list[str]:
        """Return the metrics of the evaluations, in the order they came."""
        keys = dict.fromkeys(key for line in self.evaluations for key in line)
        return [key for key in keys if key not in ("step", *RATES)]

    def last_step(self) -> int:
        """Return the last step that any line tells; 0 before the first."""
        return max((int(line["step"]) for line in (*self.train, *self.evaluations)), default=0)

    def is_finished(self) -> bool:
        """Say whether the run came to its end, be it an early one."""
        return bool(self.result)

    def planned_steps(self) -> int | None:
        """Return training.num_steps of the resolved recipe."""
        steps = _section(self.resolved, "training").get("num_steps")
        return steps if isinstance(steps, int) else None

    def best(self) -> BestEvaluation | None:
        """Return the best evaluation by training.best_metric and best_is; of equals that with the lower loss."""
        training = _section(self.resolved, "training")
        metric = str(training.get("best_metric", "loss"))
        series = self.evaluation_series(metric)
        found = [(value, step) for value, step in zip(series.values, series.steps, strict=True) if math.isfinite(value)]
        if not found:
            return None
        sign = -1.0 if training.get("best_is") == "highest" else 1.0
        losses = {line["step"]: line.get("loss", math.inf) for line in self.evaluations}
        value, step = min(found, key=lambda pair: (sign * pair[0], losses[pair[1]], pair[1]))
        return BestEvaluation(step, metric, value)


def read_run(folder: Path) -> RunHistory:
    """Read a run folder, finished or not.

    Raises: DataError if there is no metrics file in it, or a file in it cannot be read.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        raise DataError(f"{folder} is no run folder: it has no {METRICS_FILE}. Name the folder that training wrote to.")
    lines, num_bad = _read_lines(path)
    by_kind: dict[str, dict[int, Mapping[str, float]]] = {"train": {}, "evaluation": {}}
    for line in lines:
        step, kind = line.get("step"), line.get("kind")
        if kind not in by_kind or not isinstance(step, int) or isinstance(step, bool):
            num_bad += 1
            continue
        # A later line of the same step is the one that a resumed run wrote.
        by_kind[kind][step] = {key: number for key, value in line.items() if (number := _number(value)) is not None}
    samples = folder / "samples.jsonl"
    starts = _starts(folder / "environment.json")
    return RunHistory(
        name=folder.resolve().name,
        train=tuple(by_kind["train"][step] for step in sorted(by_kind["train"])),
        evaluations=tuple(by_kind["evaluation"][step] for step in sorted(by_kind["evaluation"])),
        num_bad_lines=num_bad,
        recipe=_text(folder / "recipe.toml"),
        resolved=_toml(folder / "resolved.toml"),
        environment=starts[-1] if starts else {},
        num_starts=len(starts),
        result=_object(folder / "result.json"),
        data=_object(folder / "data.json"),
        scores=_object(folder / "scores.json"),
        samples=tuple(_read_lines(samples)[0][-MAX_SAMPLES:]) if samples.is_file() else (),
    )


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the JSON objects of a file, and the number of lines that are none."""
    found, num_bad = [], 0
    for line in _text(path).splitlines():
        try:
            value = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            num_bad += 1
            continue
        if isinstance(value, dict):
            found.append(value)
        elif line.strip():
            num_bad += 1
    return found, num_bad


def _number(value: object) -> float | None:
    """Return a number as it stands; null, which stands for one that is not finite, as NaN; else None."""
    if value is None:
        return math.nan
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _series(lines: Sequence[Mapping[str, float]], key: str, name: str) -> Series:
    found = [line for line in lines if key in line]
    return Series(name, [int(line["step"]) for line in found], [float(line[key]) for line in found])


def _section(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = mapping.get(name)
    return section if isinstance(section, Mapping) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: not valid TOML ({error}).") from error


def _starts(path: Path) -> list[Mapping[str, Any]]:
    """Return the entries of environment.json: a list of objects, one for each start, or a single object."""
    value = _json(path)
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if isinstance(entry, dict) and entry]


def _object(path: Path) -> Mapping[str, Any]:
    value = _json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value


def _json(path: Path) -> Any:
    text = _text(path)
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}).") from error


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested mappings: {"loss": {"z_loss": 0}} -> ("loss.z_loss", 0)."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

"""`t5kit finetune`, whole: a model and a person's files in; a trained folder, its scores and a report out.

The run is that of `Model.fit`. Around it stand what is told before (what was found, what was chosen and why) and what
is told after: scores of the finished folder on dev and test, by the engine that will answer with it.
"""

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5kit.api.fitting import FitPlan, plan_fit
from t5kit.api.fitting_config import LONGEST_ROW
from t5kit.api.fitting_data import FitData, references_of
from t5kit.api.fitting_settings import FitSettings
from t5kit.api.training import require_torch, run_hooks
from t5kit.checkpoint import open_folder, resolve
from t5kit.checkpoint.atomic import write_file
from t5kit.errors import T5kitError
from t5kit.evaluation.report import EvaluationReport
from t5kit.sources import RecordTable
from t5kit.sources.records import Format
from t5kit.tasks.augmentation import Paraphrase
from t5kit.tasks.configured import DEV, TEST
from t5kit.text import load_tokenizer

if TYPE_CHECKING:
    from t5kit.training.hooks import TrainingResult
    from t5kit.training.state import Best

SCORES = "scores.json"
"""Of the run folder: what the finished model scored."""
SHOWN_LABELS = 12
"""Labels whose scores are printed; the report has all."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Finetuned:
    """What came of it."""

    result: "TrainingResult"
    plan: FitPlan
    reports: Mapping[str, EvaluationReport]
    """The finished model's scores on dev and test, as far as there are such."""
    failures: Mapping[str, str]
    """Split -> why it could not be scored."""
    engine: str
    """What answered for them."""
    example: str
    """A prompt as the model was trained on it."""

    def command(self) -> str:
        """Return the command that answers with the model."""
        text = ("-- " if self.example.startswith("-") else "") + shlex.quote(self.example)
        return f"t5kit generate --model {shlex.quote(str(self.result.model_path))} {text}"

    def lines(self) -> list[str]:
        """Return the scores in lines for a person."""
        lines = []
        for split, report in self.reports.items():
            scores = [
                f"{name} {value:.2f}" + (f" ({found.low:.1f} … {found.high:.1f})" if found else "")
                for name, value in report.scores.items()
                for found in [report.intervals.get(name)]
            ]
            lines.append(f"{split}: {', '.join(scores)}; {report.counts()}")
        last = self.reports.get(TEST) or self.reports.get(DEV)
        if last is not None and last.classification is not None:
            labels = sorted(last.classification.labels, key=lambda scores: -scores.support)
            lines += [
                f"  {label.label:<24.24} F1 {label.f1:6.2f}  precision {label.precision:6.2f}  "
                f"recall {label.recall:6.2f}  of {label.support:,}"
                for label in labels[:SHOWN_LABELS]
            ]
            if len(labels) > SHOWN_LABELS:
                lines.append(f"  … and {len(labels) - SHOWN_LABELS} labels more, in report.html")
        return lines

    def facts(self) -> dict[str, Any]:
        """Return everything as plain data."""
        best = self.result.best
        return {
            "model_path": str(self.result.model_path),
            "num_steps": self.result.num_steps,
            "stopped_early": self.result.stopped_early,
            "best_step": best.step if best else None,
            "best_metrics": dict(best.metrics) if best else None,
            "scores": {split: report.to_json() for split, report in self.reports.items()},
            "failures": dict(self.failures),
            "engine": self.engine,
            "choices": [dataclasses.asdict(choice) for choice in self.plan.choices],
            "findings": list(self.plan.findings),
            "command": self.command(),
        }


def plan_finetuning(
    model: str,
    data: FitData,
    run_folder: Path,
    *,
    settings: FitSettings,
    dev: FitData | None = None,
    test: FitData | None = None,
    input: str = "",
    target: str = "",
    format: Format | None = None,
    encoding: str | None = None,
    columns: Sequence[str] = (),
    metrics: Sequence[str] = (),
    instructions: Sequence[str] = (),
    paraphrase: Paraphrase | None = None,
    revision: str | None = None,
    offline: bool | None = None,
) -> FitPlan:
    """Return what would be trained. model: a folder or a Hub id. Raises: what `plan_fit` and opening a model raise."""
    require_torch()
    start = resolve(model, revision=revision, offline=offline)
    open_folder(start)  # a folder that is none is said before the data is read
    return plan_fit(
        start, load_tokenizer(start), data, dev, run_folder, settings=settings, test=test, input=input, target=target,
        format=format, encoding=encoding, columns=columns, metrics=metrics, instructions=instructions,
        paraphrase=paraphrase,
    )  # fmt: skip


def finetune(plan: FitPlan, run_folder: Path, *, shows: bool, tell: Callable[[str], None]) -> Finetuned:
    """Train a plan, or go on with it, score what came out and write the report. tell: takes the lines for a person."""
    from t5kit.training.html_report import write_report

    result = plan.train(run_folder, run_hooks(shows=shows))
    tell("scoring the finished model …")
    scored = scores_of(plan, result.model_path)
    for line in scored.failed():
        tell(line)
    lost = lost_to_rounding(plan, result.best, scored.reports.get(DEV), scored.engine)
    if lost is not None:
        tell(f"found: {lost}")
    train = plan.given.tasks[0].task.splits["train"]
    finetuned = Finetuned(
        result=result,
        plan=plan,
        reports=scored.reports,
        failures=scored.failures,
        engine=scored.engine,
        example=_shortened(str(train[0].fields["input"])),
    )
    scores = (
        {"engine": scored.engine, "command": finetuned.command()}
        | ({} if lost is None else {"found": lost})
        | ({"failures": dict(scored.failures)} if scored.failures else {})
        | {split: report.to_json() for split, report in scored.reports.items()}
    )
    write_file(run_folder / SCORES, (json.dumps(scores, ensure_ascii=False, indent=1) + "\n").encode())
    write_report(run_folder)
    return finetuned


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FinishedScores:
    """What a finished folder scored."""

    reports: Mapping[str, EvaluationReport]
    """On dev and test, as far as there are such."""
    failures: Mapping[str, str]
    """Split -> why it could not be scored."""
    engine: str
    """What answered."""

    def failed(self) -> list[str]:
        """Return the failures in lines for a person."""
        return [f"{split} could not be scored: {why}" for split, why in self.failures.items()]


def scores_of(plan: FitPlan, model_path: Path) -> FinishedScores:
    """Return the finished folder's scores on dev and test; one that fails does not cost the other's."""
    from t5kit.api.model import Model

    tables: dict[str, RecordTable] = dict(plan.given.tasks[0].task.splits)
    if plan.test is not None:
        tables[TEST] = plan.test
    if plan.dev is not None:
        tables[DEV] = plan.dev
    reports: dict[str, EvaluationReport] = {}
    failures: dict[str, str] = {}
    with Model.from_pretrained(model_path, threads=plan.config.compute.num_threads or None) as model:
        engine = f"{model.runtime.description.engine}, {model.runtime.description.weights}"
        for split in (DEV, TEST):
            if split in tables:
                records = [tables[split][index] for index in range(len(tables[split]))]
                rows = [{"input": each.fields["input"], "target": references_of(each)} for each in records]
                try:
                    reports[split] = model.evaluate(rows, list(plan.metrics), truncate=True)
                except T5kitError as error:
                    failures[split] = str(error)
    return FinishedScores(reports, failures, engine)


def lost_to_rounding(plan: FitPlan, best: "Best | None", dev: EvaluationReport | None, engine: str) -> str | None:
    """Say so where the finished model in int8 scores worse on dev than in training, by more than the interval allows.

    Only where training looked at the same records, whole: the best of some draws of a part is better by chance.
    Numerics: weights that come from an int8 folder lie on its grid, and what training moves by less than half a step
    is rounded away again: after six steps from mini 9 of 10 integers were the old ones.
    """
    name = plan.config.training.best_metric
    watched = plan.config.evaluation
    is_cut = watched.max_input_tokens < LONGEST_ROW  # as was asked for
    if dev is not None and (0 < watched.max_examples < len(dev.results) or is_cut):
        return None  # training looked at some of them, or cut: the two scores are not of the same
    if best is None or dev is None or name not in dev.intervals or not engine.endswith("int8"):
        return None
    interval, value = dev.intervals[name], dev.scores[name]
    is_highest_best = plan.config.training.best_is == "highest"
    if interval.low <= best.value <= interval.high or (value > best.value) == is_highest_best:
        return None
    return (
        f"dev had {name} {best.value:.2f} in training ({plan.config.compute.precision}), and {value:.2f} by the "
        f"engine that answers ({engine}): rounding takes back what was learned. Answer with --weights bfloat16, or "
        "train longer, at a higher --lr, or from a folder that is not int8."
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"

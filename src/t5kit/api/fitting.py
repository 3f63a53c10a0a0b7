"""Training without a recipe: data given in Python, every setting that was not named chosen from the data.

What comes out is a run like any other: its folder holds the records and the resolved recipe that trains it again.
"""

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5kit.api.fitting_config import TASK, Choice, cuts, measure, run_config
from t5kit.api.fitting_data import (
    FEWEST_TO_HOLD_OUT,
    MOST_HELD_OUT,
    FitData,
    FitTables,
    check_targets,
    checked_rows,
    fit_tables,
    read_pairs,
    read_rows,
    template_findings,
    with_paraphrases,
    with_report,
)
from t5kit.api.fitting_settings import FitSettings
from t5kit.api.instructions import score_instructions, template_prefix, template_suffix
from t5kit.api.paraphrasing import PARAPHRASES, KeptParaphrases
from t5kit.api.training import GivenRecords, settled_precision, train_config
from t5kit.errors import DataError, RequestError
from t5kit.evaluation.pair_form import PairColumns
from t5kit.metrics import metric_named
from t5kit.recipe import RunConfig
from t5kit.sources import BadRecord, MemoryTable, ReadReport, RecordTable, read_table, table_of, text_field
from t5kit.sources.records import Format
from t5kit.tasks.augmentation import Augmenter, Paraphrase, read_synonyms
from t5kit.tasks.config import AugmentationConfig, ObjectiveConfig, ObjectiveName, TaskConfig
from t5kit.tasks.configured import DEV, TEST, TRAIN, OpenedTask, hold_out, make_form
from t5kit.tasks.target_profile import TargetProfile
from t5kit.tasks.task import Task
from t5kit.text import Tokenizer
from t5kit.training.config import ComputeConfig

if TYPE_CHECKING:
    from t5kit.training.hooks import Hook, TrainingResult

CorpusData = str | Path | Iterable[str] | Iterable[Path] | Iterable[Mapping[str, object]]
"""One file, glob or folder by its name, several as Path objects; or texts; or mappings of fields."""

SYNONYMS = "synonyms.txt"
"""The word list, in the run's data."""
HELD_OUT_SHARE = 0.05
"""Of running text."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FitPlan:
    """A run that is decided and not begun: what it is, why, and what was found in the data."""

    config: RunConfig
    given: GivenRecords
    choices: tuple[Choice, ...]
    findings: tuple[str, ...]
    num_epochs: float
    """Passes that the steps make."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that dev is scored by."""
    dev: RecordTable | None = None
    """All of dev, of which the run may look at a part."""
    test: RecordTable | None = None
    """Inputs and targets that training never sees."""

    def train(self, run_folder: Path, hooks: "Sequence[Hook]" = ()) -> "TrainingResult":
        """Train it, from the beginning or from where the run in the folder stood; see `train_config`."""
        return train_config(self.config, run_folder, given=self.given, hooks=hooks)


def plan_fit(
    start: Path,
    tokenizer: Tokenizer,
    data: FitData,
    dev: FitData | None,
    run_folder: Path,
    *,
    settings: FitSettings,
    test: FitData | None = None,
    input: str = "",
    target: str = "",
    format: Format | None = None,
    encoding: str | None = None,
    columns: Sequence[str] = (),
    metrics: Sequence[str] = (),
    instructions: Sequence[str] = (),
    paraphrase: Paraphrase | None = None,
) -> FitPlan:
    """Return how the model folder `start` is to be fine-tuned on pairs; see `Model.fit`.

    test: looked at for what is in train too, and for labels that are not; training never sees it. instructions: input
    templates, of which the model understands one best as it is; that is taken. paraphrase: makes more train inputs.
    """
    if run_folder.exists() and not run_folder.is_dir():  # before anything is read
        raise RequestError(f"{run_folder} is a file; name a folder for the run.")
    for name in metrics:
        metric_named(name)
    splits = {TRAIN: data, DEV: dev, TEST: test}
    rows = {split: read_rows(part, format, encoding, columns) for split, part in splits.items() if part is not None}

    def found_under(template: str) -> FitTables:
        words = PairColumns(template, target)
        pairs = {split: read_pairs(table, words) for split, table in rows.items()}
        found = fit_tables(pairs, tokenizer, seed=settings.seed)
        return dataclasses.replace(found, findings=(*template_findings(rows[TRAIN], words), *found.findings))

    first: list[Choice] = []
    if instructions:
        if input:
            raise RequestError("input and instructions say the same thing; give one of the two.")
        tried = {template: found_under(template) for template in dict.fromkeys(instructions)}
        by_dev = {template: found.tables.get(DEV, found.tables[TRAIN]) for template, found in tried.items()}
        profile = next(iter(tried.values())).profile
        scores = score_instructions(start, by_dev, profile, threads=settings.threads, seed=settings.seed)
        input = scores[0].instruction
        others = "; ".join(map(str, scores[1:4]))
        first.append(Choice("instruction", input, f"best of {len(scores)} untrained: {scores[0]}; then {others}"))
    found = found_under(input)
    tables = {split: table for split, table in found.tables.items() if split != TEST}
    prefix, suffix = template_prefix(input), template_suffix(input)
    files: dict[str, str] = {}
    if paraphrase is not None:
        num_before = len(tables[TRAIN])
        kept = KeptParaphrases(paraphrase, run_folder / GivenRecords.FOLDER / PARAPHRASES)
        tables[TRAIN] = with_paraphrases(tables[TRAIN], kept, kept_prefix=prefix, kept_suffix=suffix)
        files[PARAPHRASES] = kept.content
        first.append(Choice("paraphrases", f"{len(tables[TRAIN]) - num_before:,} train inputs in other words", ""))
    profile = found.profile
    chosen = tuple(dict.fromkeys(metrics)) or profile.metrics
    scored = {DEV: found.whole_dev, TEST: found.tables.get(TEST)}
    check_targets({split: table for split, table in scored.items() if table is not None}, chosen)
    task = TaskConfig(
        references="references" if "references" in tables[TRAIN][0].fields else "",
        metrics=chosen,
        train=("train.jsonl",),
        dev=("dev.jsonl",) if DEV in tables else (),
    )
    plan = _plan(
        start, tokenizer, tables, found.reports, task, run_folder, settings, profile,
        findings=found.findings, kept=(prefix, suffix), files=files,
    )  # fmt: skip
    if DEV in tables:
        num_dev, num_train = len(tables[DEV]), len(tables[TRAIN])
        told = "held out of the data, equal inputs kept together" if found.num_held_out else "given"
        first.append(Choice("records", f"{num_train:,} to learn from, {num_dev:,} dev", f"dev: {told}"))
    else:
        first.append(Choice("records", f"{len(tables[TRAIN]):,} to learn from", "too few to hold some out"))
    first.append(Choice("targets", str(profile), ""))
    first.append(Choice("metrics", ", ".join(chosen), "as asked" if metrics else "they fit the targets"))
    plan = dataclasses.replace(
        plan, choices=(*first, *plan.choices), metrics=chosen, dev=found.whole_dev, test=found.tables.get(TEST)
    )
    if TEST in found.reports and found.reports[TEST].num_bad:  # of train and dev the run itself tells
        plan = dataclasses.replace(plan, findings=(*plan.findings, *_unusable({TEST: found.reports[TEST]})))
    return dataclasses.replace(plan, given=dataclasses.replace(plan.given, notes=_notes(plan)))


def fit(
    start: Path,
    tokenizer: Tokenizer,
    data: FitData,
    dev: FitData | None,
    run_folder: Path,
    *,
    settings: FitSettings,
    input: str = "",
    target: str = "",
    format: Format | None = None,
    encoding: str | None = None,
    columns: Sequence[str] = (),
    metrics: Sequence[str] = (),
    instructions: Sequence[str] = (),
    paraphrase: Paraphrase | None = None,
    hooks: "Sequence[Hook]" = (),
    tell: Callable[[str], None] | None = None,
) -> "TrainingResult":
    """Fine-tune the model folder `start` on pairs and return what came of it; see `Model.fit`.

    tell: takes what was chosen, and why, a line each, before the run begins.
    """
    plan = plan_fit(
        start, tokenizer, data, dev, run_folder, settings=settings, input=input, target=target, format=format,
        encoding=encoding, columns=columns, metrics=metrics, instructions=instructions, paraphrase=paraphrase,
    )  # fmt: skip
    if tell is not None:
        for choice in plan.choices:
            tell(str(choice))
    for finding in plan.findings:
        warnings.warn(finding, UserWarning, stacklevel=3)
    return plan.train(run_folder, hooks)


def pretrain(
    start: Path,
    tokenizer: Tokenizer,
    corpus: CorpusData,
    run_folder: Path,
    *,
    settings: FitSettings,
    objective: ObjectiveName = "span_corruption",
    format: Format | None = None,
    field: str = "text",
    hooks: "Sequence[Hook]" = (),
) -> "TrainingResult":
    """Go on with pre-training the model folder `start` on running text; see `Model.train`."""
    table = _corpus(corpus, format)
    texts: list[str] = []
    bad: list[BadRecord] = []
    for n in range(len(table)):
        text = text_field(table[n], field)
        if isinstance(text, str):
            texts.append(text)
        else:
            bad.append(text)
    if not texts:
        raise DataError(f"no record of the corpus has a text in its field {field!r}; {bad[0].error}")
    task = TaskConfig(objective=ObjectiveConfig(name=objective), train=("train.jsonl",))
    kept = with_report(table_of(texts), table.report, bad)
    tables: dict[str, RecordTable] = {TRAIN: kept}
    if len(kept) >= FEWEST_TO_HOLD_OUT:
        num_held_out = min(MOST_HELD_OUT, math.ceil(HELD_OUT_SHARE * len(kept)))
        tables[TRAIN], tables[DEV] = hold_out(kept, num_held_out, name=TASK, seed=settings.seed)
        task = dataclasses.replace(task, dev=("dev.jsonl",))
    plan = _plan(start, tokenizer, tables, {TRAIN: kept.report}, task, run_folder, settings, None)
    return plan.train(run_folder, hooks)


def _plan(
    start: Path,
    tokenizer: Tokenizer,
    tables: Mapping[str, RecordTable],
    reports: Mapping[str, ReadReport],
    task: TaskConfig,
    run_folder: Path,
    settings: FitSettings,
    profile: TargetProfile | None,
    *,
    findings: tuple[str, ...] = (),
    kept: tuple[str, str] = ("", ""),
    files: Mapping[str, str] | None = None,
) -> FitPlan:
    """Return the plan of any run: its lengths measured, its config made, its records as they will lie in its folder.

    kept: what stands before and behind the fields of every input, and is not changed. files: name -> content of what
    else the run's data keep.
    """
    told = {split: report for split, report in reports.items() if split in tables}
    task, augmenter, words = _augmented(task, settings, kept)
    opened = OpenedTask(Task(TASK, make_form(task), tables), task.objective, task, reports=told, augmenter=augmenter)
    lengths = measure(opened, tokenizer, settings)
    records = {f"{split}.jsonl": _json_lines(table) for split, table in tables.items()} | words | dict(files or {})
    if settings.precision is None:
        settings = dataclasses.replace(settings, precision=settled_precision(run_folder, ComputeConfig()))
    data_folder = run_folder.absolute() / GivenRecords.FOLDER
    config, choices, num_epochs = run_config(start, task, lengths, settings, profile, data_folder=data_folder)
    given = GivenRecords((opened,), records)
    return FitPlan(
        config=config,
        given=given,
        choices=choices,
        findings=(*findings, *cuts(lengths, config)),
        num_epochs=num_epochs,
    )


def _augmented(
    task: TaskConfig, settings: FitSettings, kept: tuple[str, str]
) -> tuple[TaskConfig, Augmenter | None, dict[str, str]]:
    """Return the task with the augmentation that is asked for, what does it, and the word list for the run's data."""
    if settings.synonyms is None and not settings.noise_rate:
        return task, None, {}
    words: dict[str, str] = {}
    synonyms: Mapping[str, tuple[str, ...]] = {}
    if settings.synonyms is not None:
        path = Path(settings.synonyms).expanduser()
        synonyms = read_synonyms(path)
        words = {SYNONYMS: path.read_text(encoding="utf-8-sig")}
    config = AugmentationConfig(
        synonyms=SYNONYMS if words else "",
        noise_rate=settings.noise_rate,
        kept_prefix=kept[0],
        kept_suffix=kept[1],
    )
    return dataclasses.replace(task, augmentation=config), Augmenter(config, synonyms), words


def _notes(plan: FitPlan) -> dict[str, object]:
    """Return what data.json keeps of a plan, for the report: with records that gave no pair, of which the run tells."""
    return {
        "findings": [*plan.findings, *_unusable(plan.given.tasks[0].reports)],
        "choices": [dataclasses.asdict(choice) for choice in plan.choices],
    }


def _unusable(reports: Mapping[str, ReadReport]) -> list[str]:
    """Return a sentence for each of the first records that gave no pair, and one for all beyond."""
    found = []
    for split, report in reports.items():
        found += [f"{split}: {bad.error}" for bad in report.bad]
        if report.num_bad > len(report.bad):
            found.append(f"{split}: {report.num_bad - len(report.bad):,} more records could not be used.")
    return found


def _corpus(data: CorpusData, format: Format | None) -> MemoryTable:
    """Return the records of files (one name, or a list of Path), or texts and mappings given in Python."""
    if isinstance(data, str | Path):
        return read_table(data, format=format)
    rows: list[Any] = list(data)
    if rows and all(isinstance(row, Path) for row in rows):
        return read_table(rows, format=format)
    return checked_rows(rows, "texts, Path objects or mappings of fields", (Mapping, str))


def _json_lines(table: RecordTable) -> str:
    lines = (json.dumps(dict(table[index].fields), ensure_ascii=False) for index in range(len(table)))
    return "".join(f"{line}\n" for line in lines)

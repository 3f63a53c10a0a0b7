"""`t5kit tune`: fine-tuning again and again with other settings, chosen by what the runs before came to.

Optuna chooses (its TPE sampler) and remembers, in an SQLite file in the folder of the search. Every run is one of
`t5kit finetune` in a folder of its own, so a search that was stopped goes on in the middle of a run.
"""

import contextlib
import dataclasses
import json
import re
import shlex
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5kit.api.finetuning import scores_of
from t5kit.api.fitting import FitPlan
from t5kit.api.fitting_config import OPTIMIZERS, PROMPT_EPOCHS
from t5kit.api.fitting_settings import FitSettings
from t5kit.api.training import run_hooks
from t5kit.checkpoint.atomic import atomic_folder, remove_folder, write_file
from t5kit.errors import ConfigError, DataError, DependencyError, RequestError
from t5kit.evaluation.report import EvaluationReport
from t5kit.model.config import AdaptationConfig

if TYPE_CHECKING:
    import optuna

    from t5kit.training.tuning_report import Search

STUDY, RUNS, REPORT, BEST = "study.db", "runs", "tuning.html", "best.json"
NUM_RANDOM = 5
"""Runs before the sampler goes by what it saw."""
MOST_EPOCHS = 30.0
"""Passes; `finetune` makes 20 over few records."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tuned:
    """What a search came to."""

    search: "Search"
    model_path: Path
    """The best run's model, or its adapter where that is all there is."""
    reports: Mapping[str, EvaluationReport]
    """The best model's scores on dev and test, as far as there are such."""
    failures: Mapping[str, str]
    """Split -> why it could not be scored."""

    def facts(self) -> dict[str, Any]:
        """Return everything as plain data."""
        best = self.search.best()
        return {
            "model_path": str(self.model_path),
            "metric": self.search.metric,
            "best": None if best is None else dataclasses.asdict(best),
            "num_runs": len(self.search.tried),
            "scores": {split: report.to_json() for split, report in self.reports.items()},
            "failures": dict(self.failures),
            "command": self.search.command,
        }


def tune(
    make_plan: Callable[[FitSettings, Path], FitPlan],
    settings: FitSettings,
    folder: Path,
    *,
    num_trials: int,
    command: str,
    max_minutes: float | None = None,
    shows: bool = True,
    tell: Callable[[str], None] = print,
) -> Tuned:
    """Search for settings until the folder holds num_trials runs, from its beginning or from where it stood.

    make_plan: settings, folder of the run -> its plan. settings: what all runs have in common; what is searched must
    be unsaid. command: what trains a run by hand, without its settings. max_minutes: no run begins after so many.
    tell: takes lines for a person: what was found in the data, and (if shows) what is chosen for the first run and why,
    before that begins; then each run's settings and score.
    Raises: DependencyError without optuna; RequestError if there is nothing to choose by; ConfigError if the folder
    holds a search on other data; what training raises, except for runs whose gradients explode, which count as failed.
    """
    optuna = _optuna()
    if num_trials < 1:
        raise RequestError(f"num_trials = {num_trials!r} must be at least 1.")
    space = _space(settings)
    plan = make_plan(settings, folder / RUNS / "plan")
    for choice in plan.choices if shows else ():
        tell(str(choice))
    for finding in plan.findings:
        tell(f"found: {finding}")
    training = plan.config.training
    if not plan.config.has_dev:
        raise RequestError("there are too few records to hold some out, and no dev: a search has nothing to choose by.")
    folder.mkdir(parents=True, exist_ok=True)
    study = _opened_study(optuna, folder, is_highest_best=training.best_is == "highest")
    _check_same(study, plan, settings, folder)
    if not study.trials:
        study.enqueue_trial(_defaults(plan, settings))  # the first run is what finetune would do
    started = time.monotonic()
    while (number := _next(study, optuna, space, settings.seed, num_trials)) is not None:
        if max_minutes is not None and time.monotonic() - started > 60 * max_minutes:
            tell(f"{max_minutes:g} minutes are over; the same command goes on.")
            break
        params = study.trials[number].params
        words = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items()
        )
        tell(f"run {number + 1} of {num_trials}: {words}")
        run_folder = folder / RUNS / f"{number + 1:04d}"
        value = _run(make_plan, dataclasses.replace(settings, **params), run_folder, shows=shows, tell=tell)
        if value is None:
            study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(number, value)
            tell(f"{training.best_metric} {value:.4g}; best so far {study.best_value:.4g}")
        _tidy(folder, study)
        _write_report(folder, _search(study, plan, folder, command))
    search = _search(study, plan, folder, command)
    best = search.best()
    if best is None:
        raise RequestError(f"none of the {len(search.tried)} runs in {folder} was finished; there is no best one.")
    model_path = _keep_best(folder, best.number)
    scored = scores_of(plan, model_path)
    for line in scored.failed():
        tell(line)
    write_file(folder / BEST, (json.dumps(dataclasses.asdict(best), indent=1) + "\n").encode())
    _write_report(folder, search)
    return Tuned(search=search, model_path=model_path, reports=scored.reports, failures=scored.failures)


def _space(settings: FitSettings) -> "dict[str, optuna.distributions.BaseDistribution]":
    """Return what is searched: what the settings leave unsaid."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    _, lr = OPTIMIZERS[settings.method]
    space: dict[str, optuna.distributions.BaseDistribution] = {}
    if settings.lr is None:
        space["lr"] = FloatDistribution(lr / 10, lr * 5, log=True)
    if settings.num_epochs is None and settings.num_steps is None:
        space["num_epochs"] = FloatDistribution(1.0, _most_epochs(settings), log=True)
    if settings.batch_tokens is None:
        space["batch_tokens"] = IntDistribution(256, 4096, log=True)
    if settings.method == "lora":
        space["rank"] = CategoricalDistribution([4, 8, 16, 32, 64])
        space["dropout"] = FloatDistribution(0.0, 0.3)
    if settings.method == "prompt":
        space["num_prompt_tokens"] = CategoricalDistribution([5, 10, 20, 50, 100])
    if not space:
        raise RequestError("lr, passes and batch are all said, so there is nothing to search. Leave one of them away.")
    return space


def _most_epochs(settings: FitSettings) -> float:
    """Return the most passes that are tried: a prompt, which learns slowly, makes so many times those of others."""
    return MOST_EPOCHS * (PROMPT_EPOCHS if settings.method == "prompt" else 1.0)


def _defaults(plan: FitPlan, settings: FitSettings) -> dict[str, Any]:
    """Return the settings that finetune chooses, as far as they are searched."""
    config = plan.config
    adaptation = settings.adaptation or AdaptationConfig(method="lora")
    found: dict[str, Any] = {
        "lr": config.schedule.peak_lr,
        # Numerics: a hair less, or rounding up to whole steps makes one more of what was whole.
        "num_epochs": min(_most_epochs(settings), max(1.0, plan.num_epochs * (1 - 1e-9))),
        "batch_tokens": min(4096, max(256, config.data.batch_rows * config.data.encoder_length)),
        "rank": adaptation.rank,
        "dropout": adaptation.dropout,
        "num_prompt_tokens": adaptation.num_prompt_tokens,
    }
    return {name: found[name] for name in _space(settings)}


def _next(study: Any, optuna: Any, space: Mapping[str, Any], seed: int, num_trials: int) -> int | None:
    """Return the number of the run to make: one that was begun, or a new one; None if there are enough."""
    trials = study.get_trials(deepcopy=False)
    begun = [trial.number for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
    if begun:
        return int(begun[0])
    if sum(trial.state.is_finished() for trial in trials) >= num_trials:
        return None
    # A sampler of its own for each run: a search that was stopped chooses as one that was not.
    entropy = zlib.crc32(f"{seed}/{len(trials)}".encode())
    study.sampler = optuna.samplers.TPESampler(seed=entropy, n_startup_trials=NUM_RANDOM)
    return int(study.ask(dict(space)).number)


def _run(
    make_plan: Callable[[FitSettings, Path], FitPlan],
    settings: FitSettings,
    run_folder: Path,
    *,
    shows: bool,
    tell: Callable[[str], None],
) -> float | None:
    """Return the best dev metric of a run, begun or gone on with; None for one that exploded."""
    from t5kit.training.stopping import TrainingError

    try:
        result = make_plan(settings, run_folder).train(run_folder, run_hooks(shows=shows))
    except TrainingError as error:
        tell(f"the run failed: {error}")
        return None
    return None if result.best is None else result.best.value


def _opened_study(optuna: Any, folder: Path, *, is_highest_best: bool) -> Any:
    """Return the search kept in a folder, or a new one. Raises: ConfigError if what is kept cannot be read."""
    from sqlalchemy.exc import SQLAlchemyError  # what optuna keeps a study in

    path = folder / STUDY
    try:
        return optuna.create_study(
            study_name="tune",
            storage=f"sqlite:///{path.absolute()}",
            direction="maximize" if is_highest_best else "minimize",
            load_if_exists=True,
        )
    except SQLAlchemyError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{path} cannot be read ({reason}). Remove it to begin the search anew, or choose another folder."
        ) from error


def _check_same(study: Any, plan: FitPlan, settings: FitSettings, folder: Path) -> None:
    """Raise ConfigError if the folder's search is about other data, another model, or other common settings."""
    checksum = 0
    for name in sorted(plan.given.files):
        checksum = zlib.crc32(plan.given.files[name].encode(), checksum)
    # Threads change no more than the last bits, as in a run; searches of an older t5kit have theirs in the words.
    settings = dataclasses.replace(settings, threads=None)
    about = f"{checksum} {plan.config.model.start} {plan.config.training.best_metric} {settings}"
    if re.sub(r"\bthreads=\d+", "threads=None", study.user_attrs.get("about", about)) != about:
        raise ConfigError(
            f"{folder} holds a search on other data, another model, or other settings. Choose another folder."
        )
    study.set_user_attr("about", about)


def _search(study: Any, plan: FitPlan, folder: Path, command: str) -> "Search":
    from t5kit.training.tuning_report import Search, TriedSettings

    optuna = _optuna()
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    importances: dict[str, float] = {}
    if sum(trial.value is not None for trial in finished) >= NUM_RANDOM:
        with contextlib.suppress(RuntimeError, ValueError):  # all values equal, say
            importances = dict(optuna.importance.get_param_importances(study))
    search = Search(
        name=folder.resolve().name,
        metric=plan.config.training.best_metric,
        is_highest_best=plan.config.training.best_is == "highest",
        tried=tuple(
            TriedSettings(
                number=trial.number + 1,
                settings=dict(trial.params),
                value=float("nan") if trial.value is None else float(trial.value),
                seconds=_seconds(folder / RUNS / f"{trial.number + 1:04d}"),
            )
            for trial in finished
        ),
        importances=importances,
        findings=plan.findings,
        command=command,
    )
    best = search.best()
    if best is None:
        return search
    words = [f"--{name.replace('_', '-')} {value!r}" for name, value in best.settings.items()]
    return dataclasses.replace(search, command=f"{command} {' '.join(words)}")


def _seconds(run_folder: Path) -> float:
    """Return how long a run trained and was scored, pauses not counted; 0 where it came to no line of metrics."""
    from t5kit.training.run_history import read_run

    try:
        run = read_run(run_folder)
    except DataError:
        return 0.0
    return sum(line.get("seconds", 0.0) for line in (*run.train, *run.evaluations))


def _write_report(folder: Path, search: "Search") -> None:
    from t5kit.training.tuning_report import tuning_page

    write_file(folder / REPORT, tuning_page(search).encode("utf-8", "replace"))


def _tidy(folder: Path, study: Any) -> None:
    """Remove the weights of all runs but the best one: a search of thirty would fill the disk."""
    best = None
    with contextlib.suppress(ValueError):  # none is finished
        best = study.best_trial.number
    for trial in study.get_trials(deepcopy=False):
        if trial.number != best and trial.state.is_finished():
            for path in _weights(folder / RUNS / f"{trial.number + 1:04d}"):
                remove_folder(path)


def _weights(run_folder: Path) -> Iterator[Path]:
    yield from (path for path in (run_folder / "model", run_folder / "adapter") if path.is_dir())
    if (run_folder / "checkpoints").is_dir():
        yield from (path for path in (run_folder / "checkpoints").iterdir() if path.is_dir())


def _keep_best(folder: Path, number: int) -> Path:
    """Copy the best run's model to the search's own place and return that."""
    import shutil

    run_folder = folder / RUNS / f"{number:04d}"
    kept = []
    for name in ("model", "adapter"):
        if (run_folder / name).is_dir():
            with atomic_folder(folder / name, overwrite=True) as unfinished:
                for path in (run_folder / name).iterdir():
                    shutil.copy2(path, unfinished / path.name)
            kept.append(folder / name)
    return kept[0]


def finetune_command(model: str, data: list[Path], out: Path, words: Sequence[tuple[str, object]]) -> str:
    """Return the command that trains a run by hand, without what was searched. words: options and their values; None,
    False and "" were not said."""
    parts = ["t5kit finetune", f"--model {shlex.quote(model)}", *(f"--data {shlex.quote(str(path))}" for path in data)]
    parts += [
        f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}"
        for name, value in words
        if value is not None and value is not False and value != ""
    ]
    return " ".join([*parts, f"--out {shlex.quote(str(out))}"])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise DependencyError.for_extra("optuna", "tune", "A search for settings") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

"""From a recipe to a trained model folder: every stage opened and joined, then the one loop.

RunConfig -> run folder, tasks, vocabulary, model, loader, step, evaluation -> TrainingRun -> train()
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from t5kit.api.data_warnings import DataWarnings
from t5kit.api.paraphrasing import PARAPHRASES
from t5kit.api.run_inputs import keep_inputs
from t5kit.api.run_parts import (
    VOCABULARY_FOLDER,
    RunParts,
    join_parts,
    keep_vocabulary,
    open_start,
    open_vocabulary,
)
from t5kit.checkpoint.adapters import base_marks, write_lora, write_soft_prompt
from t5kit.checkpoint.atomic import atomic_folder, write_file
from t5kit.checkpoint.hub import id_of
from t5kit.config.overrides import Settings
from t5kit.config.toml_files import load_toml
from t5kit.data.configured import TrainingData, open_tasks, training_data
from t5kit.errors import ConfigError, DependencyError
from t5kit.recipe import RunConfig, bind_recipe, completed_recipe
from t5kit.tasks.configured import OpenedTask
from t5kit.text import Tokenizer
from t5kit.training.config import PRECISIONS, ComputeConfig, Precision

if TYPE_CHECKING:
    from t5kit.model.t5 import T5
    from t5kit.training.environment import Environment
    from t5kit.training.hooks import Hook, TrainingResult, TrainingRun
    from t5kit.training.parallel import Parallel
    from t5kit.training.run_folder import RunFolder

DATA, SAMPLES = "data.json", "samples.jsonl"
"""Files of the run folder that the report shows: numbers of records, and answers of the last evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRun:
    """A run that is built and not begun."""

    run: "TrainingRun"
    """What `training.loop.train` takes."""
    config: RunConfig
    tasks: Sequence[OpenedTask]
    parts: RunParts
    data: TrainingData


@dataclasses.dataclass(frozen=True)
class GivenRecords:
    """Tasks whose records were given in Python, and the files that the run folder keeps of them."""

    FOLDER: ClassVar[str] = "data"
    """Below the run folder: the config's data.dir."""
    ADDED: ClassVar[tuple[str, ...]] = (PARAPHRASES,)
    """Files that runs of an older t5kit lack; what they say is in the records too."""

    tasks: tuple[OpenedTask, ...]
    files: Mapping[str, str]
    """Name -> content."""
    notes: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """What data.json says beside the numbers of records: "findings" and "choices" (fitting.py)."""

    def keep(self, run_folder: Path) -> None:
        """Write the files, or see that they are the ones the run was started with.

        Raises: ConfigError if the run was started with other records.
        """
        folder = run_folder / self.FOLDER
        if not folder.is_dir():
            with atomic_folder(folder) as fresh:
                for name, content in self.files.items():
                    (fresh / name).write_text(content, encoding="utf-8", newline="\n")
        for name, content in self.files.items():
            path = folder / name
            if name in self.ADDED and not path.exists():
                write_file(path, content.encode())
            if not path.is_file() or path.read_bytes() != content.encode():
                raise ConfigError(f"{run_folder} holds a run on other data ({path} differs). Choose another folder.")


def train_recipe(settings: Settings, run_folder: Path, *, hooks: "Sequence[Hook]" = ()) -> "TrainingResult":
    """Train what a recipe says, from the beginning or from where the run in run_folder stood, and return the result.

    A run that was killed is resumed by the same call; one that is finished gives its result at once.
    Raises: ConfigError for a recipe that is wrong or is not the one the folder's run was started with; DependencyError
    without PyTorch; the errors of opening data, vocabulary and model; RunStoppedError and TrainingError
    (training/stopping.py).
    """
    return train_config(bind_recipe(settings), run_folder, recipe=recipe_text(settings), hooks=hooks)


def train_config(
    config: RunConfig,
    run_folder: Path,
    *,
    recipe: str | None = None,
    given: GivenRecords | None = None,
    hooks: "Sequence[Hook]" = (),
) -> "TrainingResult":
    """Train what a config says, as `train_recipe` does.

    recipe: the text kept as recipe.toml; by default the resolved config. given: records that are not in files yet.
    """
    require_torch()
    from t5kit.training.loop import train
    from t5kit.training.memory import memory_told

    if (result := _finished_early(config, run_folder, given)) is not None:
        return result
    with memory_told(), prepared_run(config, run_folder, recipe=recipe, given=given, hooks=hooks) as prepared:
        watch = DataWarnings(prepared.tasks, prepared.data, facts=run_folder / DATA)
        return train(dataclasses.replace(prepared.run, hooks=[watch, *prepared.run.hooks]))


@contextlib.contextmanager
def prepared_run(
    config: RunConfig,
    run_folder: Path,
    *,
    recipe: str | None = None,
    given: GivenRecords | None = None,
    hooks: "Sequence[Hook]" = (),
) -> Iterator[PreparedRun]:
    """Give a run, built and not begun, and close its files and processes afterwards."""
    from t5kit.model.adaptation import adapt
    from t5kit.training.building import make_model, own_threads, prepare_device
    from t5kit.training.environment import this_environment
    from t5kit.training.parallel import Parallel
    from t5kit.training.processes import decided_by_first, is_first

    with contextlib.ExitStack() as stack:
        parallel = Parallel.from_environment()
        stack.callback(parallel.close)
        stack.enter_context(own_threads())
        precision = decided_by_first(settled_precision(run_folder, config.compute))
        config = _in_precision(config, precision)
        if is_first():
            _tell_of_emulation(config, run_folder)
        device = prepare_device(config.compute)
        seed, kept = config.training.seed, run_folder / VOCABULARY_FOLDER
        tasks = open_tasks(config.data, seed=seed) if given is None else given.tasks
        start = open_start(config.model)
        tokenizer = open_vocabulary(config.vocabulary, tasks, start, seed=seed, kept=kept) if is_first() else None
        parts = join_parts(config, start, cast(Tokenizer, decided_by_first(tokenizer)))
        prefix_ids = parts.prefix_ids(config)
        data = stack.enter_context(training_data(config.data, tasks, parts.tokenizer, seed=seed, prefix_ids=prefix_ids))
        model = make_model(parts.architecture, parts.tensors(), compute=config.compute, seed=seed, device=device)
        if config.adaptation is not None:
            if parallel.world_size > 1:
                raise ConfigError(
                    f"adaptation.method = {config.adaptation.method!r} trains on one process, and there are "
                    f"{parallel.world_size}. Start without torchrun, or remove [adaptation]."
                )
            adapt(model, config.adaptation, seed=seed)
        samples = run_folder / SAMPLES if is_first() else None
        run = _training_run(config, tasks, parts, data, parallel, model, samples)
        # The folder comes last: a recipe that cannot be run leaves none behind.
        environment = this_environment(seed=seed, device=device)
        folder = stack.enter_context(_open_folder(run_folder, recipe, config.to_toml(), environment))
        if is_first():
            keep_vocabulary(config.vocabulary, parts.tokenizer, kept)
            if given is not None:
                given.keep(run_folder)
            keep_inputs(run_folder, config, tasks, parts)
            facts = _data_facts(tasks, data) | dict(given.notes if given is not None else {})
            write_file(run_folder / DATA, (json.dumps(facts, indent=1) + "\n").encode())
        yield PreparedRun(run=run(folder, hooks), config=config, tasks=tasks, parts=parts, data=data)


def _data_facts(tasks: Sequence[OpenedTask], data: TrainingData) -> dict[str, object]:
    """Return what data.json holds before the first step: records by task and split, lines that are none, and shares."""
    shares = zip((task.name for task in data.mixture.members), data.mixture.shares(), strict=True)
    return {
        "records": {task.name: {split: len(table) for split, table in task.task.splits.items()} for task in tasks},
        "bad_records": {task.name: {split: read.num_bad for split, read in task.reports.items()} for task in tasks},
        "shares": dict(shares),
    }


def settled_precision(run_folder: Path, compute: ComputeConfig) -> Precision:
    """Return what a run computes in: where its config says "auto", what the folder's run began with, or what is fast.

    Raises: DependencyError without PyTorch.
    """
    require_torch()
    from t5kit.training.environment import precision_of

    resolved = run_folder / "resolved.toml"
    if compute.precision == "auto" and resolved.is_file():
        try:
            words = load_toml(resolved).values["compute"]["precision"]
        except (ConfigError, KeyError, TypeError):
            words = None  # resuming says what is wrong with the file
        if words in PRECISIONS:
            return cast(Precision, words)
    return precision_of(compute)


def _in_precision(config: RunConfig, precision: Precision) -> RunConfig:
    return dataclasses.replace(config, compute=dataclasses.replace(config.compute, precision=precision))


def _tell_of_emulation(config: RunConfig, run_folder: Path) -> None:
    """Warn of bfloat16 that this machine has no instructions for."""
    from t5kit.training.environment import fast_precision

    if config.compute.precision == "float32" or fast_precision(config.compute.device) == "bfloat16":
        return
    begun = (run_folder / "resolved.toml").is_file()
    keeps = f"the run in {run_folder} began in bfloat16 and keeps it; it" if begun else 'compute.precision = "bfloat16"'
    warnings.warn(f'{keeps} is emulated here and slow. A new run with "auto" or "float32" is faster.', stacklevel=2)


def run_hooks(*, shows: bool) -> "list[Hook]":
    """Return who watches a run: the display on standard error if it shows, TensorBoard if it is there, the report.

    Raises: DependencyError without PyTorch.
    """
    require_torch()
    from t5kit.training.display import TerminalDisplay
    from t5kit.training.html_report import RunReport
    from t5kit.training.tensorboard import TensorBoardWriter, require_tensorboard

    hooks: list[Hook] = [TerminalDisplay()] if shows else []
    try:
        require_tensorboard()
        hooks.append(TensorBoardWriter())
    except DependencyError:
        pass  # its curves are in metrics.jsonl and in the report too
    return [*hooks, RunReport()]


def recipe_text(settings: Settings) -> str:
    """Return the recipe letter for letter, with the overrides behind it as comments."""
    if not settings.overrides:
        return settings.file.text
    said = "".join(f"#   {' '.join(override.split())}\n" for override in settings.overrides)
    return f"{settings.file.text.rstrip()}\n\n# Said on the command line:\n{said}"


def require_torch() -> None:
    """Raise the DependencyError that names the extra if PyTorch is not installed."""
    if not has_torch():
        raise DependencyError.for_extra("torch", "train", "Training")


def has_torch() -> bool:
    """Say whether PyTorch is installed, without loading it."""
    return importlib.util.find_spec("torch") is not None


def _finished_early(config: RunConfig, run_folder: Path, given: GivenRecords | None) -> "TrainingResult | None":
    """Return the result of a finished run before any data is opened, and refuse a folder that resuming would refuse.

    Processes that train together decide together, in the loop.
    """
    from t5kit.training.loop import finished_result
    from t5kit.training.run_folder import RunFolder

    if "WORLD_SIZE" in os.environ or "RANK" in os.environ:
        return None
    config = _in_precision(config, settled_precision(run_folder, config.compute))
    folder = RunFolder.see_early(run_folder, resolved=config.to_toml(), completed=completed_recipe)
    if folder is None:
        return None
    with folder:
        if given is not None:
            given.keep(run_folder)
        return finished_result(folder)


def _open_folder(path: Path, recipe: str | None, resolved: str, environment: "Environment") -> "RunFolder":
    from t5kit.training.run_folder import RESOLVED, RunFolder

    if (path / RESOLVED).exists():
        return RunFolder.resume(path, resolved=resolved, environment=environment, completed=completed_recipe)
    return RunFolder.create(path, recipe=recipe or resolved, resolved=resolved, environment=environment)


def _training_run(
    config: RunConfig,
    tasks: Sequence[OpenedTask],
    parts: RunParts,
    data: TrainingData,
    parallel: "Parallel",
    model: "T5",
    samples: Path | None,
) -> "Callable[[RunFolder, Sequence[Hook]], TrainingRun]":
    """Return the run but for its folder and hooks."""
    from t5kit.api.dev_evaluation import DevEvaluation
    from t5kit.training.environment import precision_of
    from t5kit.training.hooks import TrainingRun
    from t5kit.training.optimizers import ModelOptimizer
    from t5kit.training.schedules import make_schedule
    from t5kit.training.step import TrainingStep

    parallel.shard(model, compute=config.compute)
    optimizer = ModelOptimizer(model.named_parameters(), config.optimizer, precision=precision_of(config.compute))
    step = TrainingStep(
        model,
        optimizer,
        loss=config.loss,
        compute=config.compute,
        max_gradient_norm=config.optimizer.max_gradient_norm,
        seed=config.training.seed,
        parallel=parallel,
    )
    evaluate = None
    if config.has_dev:
        evaluate = DevEvaluation(
            config, tasks, parts.tokenizer, model, step, samples=samples, prefix_ids=parts.prefix_ids(config)
        )
    schedule = make_schedule(config.schedule, total_steps=config.training.num_steps)

    def in_folder(folder: "RunFolder", hooks: "Sequence[Hook]") -> "TrainingRun":
        return TrainingRun(
            model=model,
            optimizer=optimizer,
            step=step,
            loader=data.loader,
            schedule=schedule,
            config=config.training,
            folder=folder,
            evaluate=evaluate,
            hooks=hooks,
            save_tokenizer=parts.tokenizer.save,
            write_adapter=_adapter_writer(config, parts, model),
            generation=_generation(config),
            prefixes=config.model.prefixes or (parts.start.prefixes if parts.start else None),
        )

    return in_folder


def _generation(config: RunConfig) -> Mapping[str, object]:
    """Return the defaults of what a run leaves, model and adapter: its answers may be as long as those of dev."""
    return {"max_new_tokens": config.evaluation.max_new_tokens}


def _adapter_writer(config: RunConfig, parts: RunParts, model: "T5") -> Callable[[Path], None] | None:
    """Return what writes a run's adapter in peft's format; None for runs that train none."""
    from t5kit.model.adaptation import lora_parts, soft_prompt

    adaptation, start = config.adaptation, parts.start
    if adaptation is None or start is None or adaptation.method == "head":
        return None
    # A folder is named whole, so that the adapter finds it from anywhere; what came from the Hub by its id.
    base = id_of(start.path) or str(start.path.resolve())

    more: dict[str, Any] = {"base": base, "marks": base_marks(start.tensors()), "generation": _generation(config)}

    def write(path: Path) -> None:
        rows = soft_prompt(model)
        if rows is not None:
            write_soft_prompt(path, rows, config=parts.architecture, **more)
            return
        maps = lora_parts(model)
        write_lora(
            path, maps, rank=adaptation.rank, alpha=adaptation.alpha, dropout=adaptation.dropout,
            targets=sorted({name.rpartition(".")[2] for name in maps}), **more,
        )  # fmt: skip

    return write

"""From a recipe to a trained model folder: every stage opened and joined, then the one loop.

RunConfig -> run folder, tasks, vocabulary, model, loader, step, evaluation -> TrainingRun -> train()
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from t5kit.api.run_parts import RunParts, open_parts
from t5kit.config.overrides import Settings
from t5kit.data.configured import TrainingData, open_tasks, training_data
from t5kit.errors import ConfigError, DependencyError
from t5kit.recipe import RunConfig, bind_recipe
from t5kit.tasks.configured import OpenedTask

if TYPE_CHECKING:
    import torch

    from t5kit.model.t5 import T5
    from t5kit.training.hooks import Hook, TrainingResult, TrainingRun
    from t5kit.training.parallel import Parallel
    from t5kit.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRun:
    """A run that is built and not begun."""

    run: "TrainingRun"
    """What `training.loop.train` takes."""
    config: RunConfig
    tasks: Sequence[OpenedTask]
    parts: RunParts
    data: TrainingData


def train_recipe(settings: Settings, run_folder: Path, *, hooks: "Sequence[Hook]" = ()) -> "TrainingResult":
    """Train what a recipe says, from the beginning or from where the run in run_folder stood, and return the result.

    A run that was killed is resumed by the same call; one that is finished gives its result at once.
    Raises: ConfigError for a recipe that is wrong or is not the one the folder's run was started with; DependencyError
    without PyTorch; the errors of opening data, vocabulary and model; RunStopped, TrainingError (training/stopping.py).
    """
    return train_config(bind_recipe(settings), run_folder, recipe=recipe_text(settings), hooks=hooks)


def train_config(
    config: RunConfig, run_folder: Path, *, recipe: str | None = None, hooks: "Sequence[Hook]" = ()
) -> "TrainingResult":
    """Train what a config says; recipe is the text kept as recipe.toml (by default the resolved config). See above."""
    require_torch()
    from t5kit.training.loop import train

    with prepared_run(config, run_folder, recipe=recipe, hooks=hooks) as prepared:
        return train(prepared.run)


@contextlib.contextmanager
def prepared_run(
    config: RunConfig, run_folder: Path, *, recipe: str | None = None, hooks: "Sequence[Hook]" = ()
) -> Iterator[PreparedRun]:
    """Give a run, built and not begun, and close its files and processes afterwards."""
    from t5kit.training.parallel import Parallel
    from t5kit.training.run_folder import RunFolder

    with contextlib.ExitStack() as stack:
        parallel = Parallel.from_environment()
        stack.callback(parallel.close)
        device = _device(config)
        resolved = config.to_toml()
        folder = stack.enter_context(_run_folder(RunFolder, run_folder, recipe or resolved, resolved, config, device))
        tasks = open_tasks(config.data, seed=config.training.seed)
        parts = _parts_one_by_one(config, tasks, folder.path, parallel)
        data = stack.enter_context(training_data(config.data, tasks, parts.tokenizer, seed=config.training.seed))
        run = _training_run(config, tasks, parts, data, folder, parallel, device, hooks)
        yield PreparedRun(run=run, config=config, tasks=tasks, parts=parts, data=data)


def recipe_text(settings: Settings) -> str:
    """Return the recipe letter for letter, with the overrides behind it as comments."""
    if not settings.overrides:
        return settings.file.text
    said = "".join(f"#   {' '.join(override.split())}\n" for override in settings.overrides)
    return f"{settings.file.text.rstrip()}\n\n# Said on the command line:\n{said}"


def require_torch() -> None:
    """Raise the DependencyError that names the extra if PyTorch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise DependencyError.for_extra("torch", "train", "Training") from None


def make_model(config: RunConfig, parts: RunParts, device: "torch.device") -> "T5":
    """Return the model of a run in float32: fresh weights drawn by training.seed, or the start's."""
    import torch

    from t5kit.model.loading import fresh_model, load_model
    from t5kit.model.t5 import T5

    broadcast = config.compute.dropout_broadcast
    if parts.start is None:
        generator = torch.Generator().manual_seed(config.training.seed)
        model = fresh_model(parts.architecture, generator=generator, device=device, dropout_broadcast=broadcast)
    else:
        model = load_model(parts.architecture, parts.start.tensors(), device=device, dropout_broadcast=broadcast)
    return cast(T5, model)  # open_parts took no other head


def _device(config: RunConfig) -> "torch.device":
    """Set the number of threads, and return where the model is to be."""
    import torch

    if config.compute.num_threads:
        torch.set_num_threads(config.compute.num_threads)
    word = config.compute.device
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(word)
    except RuntimeError as error:
        raise ConfigError(f"compute.device = {word!r} must be auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"compute.device = {word!r}, but this PyTorch sees no CUDA device. Use cpu, or auto.")
    return device


def _run_folder(
    kind: "type[RunFolder]", path: Path, recipe: str, resolved: str, config: RunConfig, device: "torch.device"
) -> "RunFolder":
    from t5kit.training.environment import this_environment
    from t5kit.training.run_folder import RESOLVED

    environment = this_environment(seed=config.training.seed, device=device)
    if (path / RESOLVED).exists():
        return kind.resume(path, resolved=resolved, environment=environment)
    return kind.create(path, recipe=recipe, resolved=resolved, environment=environment)


def _parts_one_by_one(
    config: RunConfig, tasks: Sequence[OpenedTask], run_folder: Path, parallel: "Parallel"
) -> RunParts:
    """Return the run's parts; the first process makes and keeps what the others then find."""
    if not parallel.is_first:
        parallel.barrier()
    parts = open_parts(config, tasks, run_folder=run_folder)
    if parallel.is_first:
        parallel.barrier()
    return parts


def _training_run(
    config: RunConfig,
    tasks: Sequence[OpenedTask],
    parts: RunParts,
    data: TrainingData,
    folder: "RunFolder",
    parallel: "Parallel",
    device: "torch.device",
    hooks: "Sequence[Hook]",
) -> "TrainingRun":
    from t5kit.api.dev_evaluation import DevEvaluation
    from t5kit.training.hooks import TrainingRun
    from t5kit.training.optimizers import ModelOptimizer
    from t5kit.training.schedules import make_schedule
    from t5kit.training.step import TrainingStep

    model = make_model(config, parts, device)
    parallel.shard(model, compute=config.compute)
    optimizer = ModelOptimizer(model.named_parameters(), config.optimizer)
    step = TrainingStep(
        model,
        optimizer,
        loss=config.loss,
        compute=config.compute,
        max_gradient_norm=config.optimizer.max_gradient_norm,
        seed=config.training.seed,
        parallel=parallel,
    )
    return TrainingRun(
        model=model,
        optimizer=optimizer,
        step=step,
        loader=data.loader,
        schedule=make_schedule(config.schedule, total_steps=config.training.num_steps),
        config=config.training,
        folder=folder,
        evaluate=DevEvaluation(config, tasks, parts.tokenizer, model, step) if config.has_dev else None,
        hooks=hooks,
        save_tokenizer=parts.tokenizer.save,
        generation={"max_new_tokens": config.evaluation.max_new_tokens},
    )

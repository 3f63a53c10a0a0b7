"""The one training loop. Whatever trains goes through it: recipes, `Model.fit`, `Model.train`.

A run killed at any instant goes on as if it had not been: all that changes with time lies in the model, the optimizer,
the loader and one frozen `TrainingState`, a checkpoint holds all four, and what happens between two steps follows from
the state alone.
"""

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from t5kit.checkpoint.folder import write_folder
from t5kit.checkpoint.safetensors_file import open_safetensors
from t5kit.errors import CheckpointError
from t5kit.model.adaptation import is_adapted, plain_tensors, soft_prompt
from t5kit.training.checkpoints import (
    MODEL_FILE,
    Snapshot,
    checkpoint_path,
    newest_whole_checkpoint,
    read_checkpoint,
    remove_old_checkpoints,
    set_newer_aside,
    verify_checkpoint,
    write_checkpoint,
)
from t5kit.training.config import TrainingConfig
from t5kit.training.hooks import TrainingResult, TrainingRun
from t5kit.training.memory import HeapTrimmer
from t5kit.training.processes import decided_by_first, is_first, is_several, is_true_for_any
from t5kit.training.run_folder import RESULT, RunFolder
from t5kit.training.state import Best, TrainingState, plain_metrics, read_metrics
from t5kit.training.stopping import EvaluationCut, StopRequest, TrainingError

Kind = TypeVar("Kind")


def train(run: TrainingRun) -> TrainingResult:
    """Train to the end, from the folder's last whole checkpoint or from the beginning, and return what came of it.

    Each pass does what is due after the steps made so far (a line of metrics, an evaluation, a checkpoint, in this
    order), then one step more. A run that is finished already says so in a warning and gives its result at once.
    Raises: RunStoppedError when SIGINT or SIGTERM asked for it, with all saved (and the run finished, where nothing was
    left to do: whoever has more to do then must not begin it); CheckpointError if no checkpoint is
    whole or nothing can be written: after mending that, the run can be resumed. TrainingError after
    `max_skipped_in_a_row` updates that were not finite, which a resumed run would meet again.
    """
    if (result := finished_result(run.folder)) is not None:
        return result
    with _reproducible(), StopRequest() as stop, _Watchers(run) as watchers:
        state = saved = _restored(run)
        watchers.tell("started", run, state.step)
        heap = HeapTrimmer()
        while True:
            if _line_is_due(run.config, state):
                state = _log(run, state, watchers)
            if _evaluation_is_due(run, state) and (evaluated := _evaluate(run, state, stop, watchers)) != state:
                state = evaluated
                continue  # patience may have ended the run: the line of its last steps is due then
            is_over = _is_over(run.config, state) and not _evaluation_is_due(run, state)
            must_stop = _is_asked_to_stop(run, stop) and not is_over
            if state != saved and (is_over or must_stop or _checkpoint_is_due(run.config, state)):
                _save(run, state, watchers)
                saved = state
            if is_over:
                result = _finish(run, state, watchers)
                must_stop = _is_asked_to_stop(run, stop)
                break
            if must_stop:
                raise stop.answer(step=state.step, num_steps=run.config.num_steps, path=run.folder.path)
            start = time.perf_counter()
            batch = next(run.loader, None)
            if batch is None:
                state = state.after_data()
                continue
            lr = run.schedule(state.step)
            report = run.step(batch, step=state.step, lr=lr)
            state = state.after_step(report, lr=lr, seconds=time.perf_counter() - start)
            heap.after_step(state.step)
            _check_skipped(run.config, state)
    if must_stop:
        raise stop.answer(
            step=state.step, num_steps=run.config.num_steps, path=run.folder.path, model_path=result.model_path
        )
    return result


def finished_result(folder: RunFolder) -> TrainingResult | None:
    """Return what a finished run came to, with a warning that says so, or None for another. A collective call.

    Raises: CheckpointError if the result that stands there is not one.
    """
    plain = decided_by_first(folder.result() if is_first() else None)
    if plain is None:
        return None
    try:
        result = _result_of(plain, folder)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder.path / RESULT} is damaged ({type(error).__name__}: {error}). Remove it: the run then goes on "
            "from its last checkpoint and writes it again."
        ) from error
    warnings.warn(f"the run in {folder.path} is finished: nothing is left to train.", UserWarning, stacklevel=3)
    return result


def _result_of(plain: Mapping[str, Any], folder: RunFolder) -> TrainingResult:
    """Return what `_finish` wrote. Raises: KeyError or TypeError where a value is missing or of another type."""
    best = plain["best"]
    if best is not None:
        metrics = best["metrics"]
        best = Best(
            step=_value(best, "step", int),
            metric=_value(best, "metric", str),
            value=_value(best, "value", float),
            metrics=read_metrics(
                {name: None if metrics[name] is None else _value(metrics, name, float) for name in metrics}
            ),
        )
    return TrainingResult(
        num_steps=_value(plain, "num_steps", int),
        num_skipped=_value(plain, "num_skipped", int),
        best=best,
        stopped_early=_value(plain, "stopped_early", bool),
        ran_out_of_data=_value(plain, "ran_out_of_data", bool),
        model_step=_value(plain, "model_step", int),
        model_path=folder.adapter if plain["model_path"] == folder.adapter.name else folder.model,
    )


def _value(plain: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind:
    value = plain[name]
    if type(value) is not kind:  # a bool is no int here
        raise TypeError(f"{name} = {value!r:.60} is no {kind.__name__}")
    return value


# What is due


def _is_asked_to_stop(run: TrainingRun, stop: StopRequest) -> bool:
    return is_true_for_any(stop.is_made, run.model.shared.weight.device)


def _is_over(config: TrainingConfig, state: TrainingState) -> bool:
    is_out_of_patience = 0 < config.patience <= state.num_without_best
    return state.step >= config.num_steps or not state.has_data or is_out_of_patience


def _line_is_due(config: TrainingConfig, state: TrainingState) -> bool:
    return state.window.num_steps > 0 and (state.step % config.log_every == 0 or _is_over(config, state))


def _evaluation_is_due(run: TrainingRun, state: TrainingState) -> bool:
    every = run.config.evaluate_every
    is_its_step = _is_over(run.config, state) or (every > 0 and state.step % every == 0)
    return run.evaluate is not None and is_its_step and state.evaluated_step < state.step


def _checkpoint_is_due(config: TrainingConfig, state: TrainingState) -> bool:
    is_best = state.best is not None and state.best.step == state.step
    return state.step % config.checkpoint_every == 0 or is_best


# What is done


def _restored(run: TrainingRun) -> TrainingState:
    """Put the last whole checkpoint into the run's parts and return its state; without one, the beginning's."""
    folder = run.folder
    path = decided_by_first(newest_whole_checkpoint(folder.checkpoints) if is_first() else None)
    if is_first():
        set_newer_aside(folder.checkpoints, path)
    if path is None:
        folder.cut_metrics(0)
        return TrainingState()
    snapshot = read_checkpoint(path)
    snapshot.put_into(run.model, run.optimizer)
    run.loader.restore(snapshot.loader)
    folder.cut_metrics(snapshot.training.num_lines)
    return snapshot.training


def _log(run: TrainingRun, state: TrainingState, watchers: "_Watchers") -> TrainingState:
    metrics = state.window.metrics()
    run.folder.append_metrics("train", state.step, metrics)
    watchers.tell("logged", state.step, metrics)
    return state.after_line()


def _evaluate(run: TrainingRun, state: TrainingState, stop: StopRequest, watchers: "_Watchers") -> TrainingState:
    """Return the state after an evaluation; the same state if a stop cut it off, so that a resumed run makes it."""
    assert run.evaluate is not None
    start = time.perf_counter()
    try:
        # Processes that wait for each other may only stop between two steps.
        with contextlib.nullcontext() if is_several() else stop.cutting():
            measured = {name: float(value) for name, value in run.evaluate(state.step).items()}
    except EvaluationCut:
        return state
    metrics = decided_by_first(measured)
    evaluated = state.after_evaluation(metrics, run.config)
    metrics |= {"seconds": time.perf_counter() - start}
    run.folder.append_metrics("evaluation", state.step, metrics)
    watchers.tell("evaluated", state.step, metrics)
    return evaluated


def _save(run: TrainingRun, state: TrainingState, watchers: "_Watchers") -> None:
    snapshot = Snapshot.of(run.model, run.optimizer, state, run.loader.state())
    if is_first():
        run.folder.sync_metrics()
        path = write_checkpoint(run.folder.checkpoints, snapshot)
        best_step = None if state.best is None else state.best.step
        remove_old_checkpoints(run.folder.checkpoints, keep=run.config.keep_checkpoints, best_step=best_step)
        watchers.tell("saved", state.step, path)


def _check_skipped(config: TrainingConfig, state: TrainingState) -> None:
    if state.num_skipped_in_a_row >= config.max_skipped_in_a_row:
        raise TrainingError(
            f"the gradients of {state.num_skipped_in_a_row} steps in a row, up to step {state.step}, were not finite; "
            "none of them changed the weights. Lower schedule.peak_lr, lengthen the warm-up, or look at the data; "
            "training.max_skipped_in_a_row sets how many are borne."
        )


def _finish(run: TrainingRun, state: TrainingState, watchers: "_Watchers") -> TrainingResult:
    """Write the final model and mark the run as finished."""
    folder, config = run.folder, run.config
    model_step = _write_model(run, state) if is_first() else 0
    result = TrainingResult(
        num_steps=state.step,
        num_skipped=state.num_skipped,
        best=state.best,
        stopped_early=state.step < config.num_steps and state.has_data,
        ran_out_of_data=not state.has_data,
        model_step=decided_by_first(model_step),
        model_path=folder.adapter if soft_prompt(run.model) is not None else folder.model,
    )
    watchers.finish(result)
    plain = dataclasses.asdict(dataclasses.replace(result, model_path=Path(result.model_path.name)))
    if result.best is not None:
        plain["best"]["metrics"] = plain_metrics(result.best.metrics)
    folder.write_result(plain | {"model_path": result.model_path.name})
    return result


def _write_model(run: TrainingRun, state: TrainingState) -> int:
    """Write the final model's folder and return how many updates are behind it.

    It is the model of the best evaluation; of the last step where there was none, or `final_weights` says so.
    """
    checkpoints = run.folder.checkpoints
    last = checkpoint_path(checkpoints, state.step)
    best = None if run.config.final_weights == "last" else state.best
    chosen = last if best is None else checkpoint_path(checkpoints, best.step)
    try:
        verify_checkpoint(chosen)
    except CheckpointError as error:
        if chosen == last:
            raise
        warnings.warn(f"{error} The final model has the last weights, not the best ones.", UserWarning, stacklevel=2)
        verify_checkpoint(last)
        chosen = last
    tensors: Any = open_safetensors(chosen / MODEL_FILE).views
    if is_adapted(run.model):
        snapshot = read_checkpoint(chosen)
        snapshot.put_model_into(run.model)
        if run.write_adapter is not None:
            run.write_adapter(run.folder.adapter)
        if soft_prompt(run.model) is not None:
            return snapshot.training.step
        tensors = plain_tensors(run.model)
    write_folder(
        run.folder.model,
        run.model.config,
        tensors,
        generation=run.generation,
        prefixes=run.prefixes,
        save_tokenizer=run.save_tokenizer,
        overwrite=True,
    )
    return int(chosen.name.removeprefix("step-"))


# Around it


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """Let PyTorch take deterministic kernels in the block; where an operation has none, it warns."""
    deterministic: Any = torch.utils.deterministic
    old = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use, and is then fixed
    torch.use_deterministic_algorithms(True, warn_only=True)
    fills, searches = deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    deterministic.fill_uninitialized_memory = False  # Speed: nothing here reads what it did not write
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(old[0], warn_only=old[1])
        deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark = fills, searches


class _Watchers:
    """The hooks of a run, on the first process: a hook that fails is warned of once and left out from then on."""

    def __init__(self, run: TrainingRun) -> None:
        self._hooks = list(run.hooks) if is_first() else []

    def tell(self, event: str, *facts: Any) -> None:
        """Call this method of every hook."""
        for hook in list(self._hooks):
            try:
                getattr(hook, event)(*facts)
            except Exception as error:
                self._hooks.remove(hook)
                warnings.warn(
                    f"{type(hook).__name__}.{event} failed and is left out from now on; training goes on. "
                    f"{type(error).__name__}: {error}",
                    UserWarning,
                    stacklevel=3,
                )

    def finish(self, result: TrainingResult) -> None:
        """Tell the end."""
        self.tell("finished", result)
        self._hooks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.tell("stopped", str(error) or type(error).__name__)

"""One run's folder: what the run was told, where it runs, its metrics, its checkpoints, its model.

    recipe.toml         the recipe as it was given
    resolved.toml       the same with every default written out
    environment.json    versions, machine, threads, seed, commit: one entry for every start
    begun_with.json     checksums of dev records, vocabulary and the like (api/run_inputs.py)
    metrics.jsonl       one JSON object a line (below)
    tensorboard/        the same for TensorBoard
    checkpoints/        step-00001000/ and so on (checkpoints.py)
    model/              the finished run's model, in the Hugging Face layout
    adapter/            what an adaptation trained, in peft's format; model/ has it merged
    result.json         what the finished run came to; a run that has one is finished
    report.html         the finished run's report
    .lock               held while a process works in the folder

Lines of metrics.jsonl, one every `training.log_every` steps or one for an evaluation:

    {"kind": "train", "step": 20, "loss": …, "z_loss": …, "negative_log_likelihood": …, "accuracy": …, "lr": …,
     "global_norm": …, "clip_factor": …, "num_skipped": …, "encoder_tokens": …, "target_tokens": …, "seconds": …,
     "tokens_per_second": …}
    {"kind": "evaluation", "step": 500, "loss": …, …, "seconds": …}

A line of training belongs to the steps since the one before: means per target token (loss, z_loss, likelihood,
accuracy) and per update (global_norm, clip_factor), sums (num_skipped, tokens without padding, seconds without
evaluation and saving), the last step's lr. A value that is not a number is null: a loss where every update was skipped.
"""

import contextlib
import dataclasses
import json
import os
import tomllib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import filelock

from t5kit.checkpoint.atomic import atomic_folder, recover_folder, write_file
from t5kit.checkpoint.source_files import read_json
from t5kit.errors import CheckpointError, ConfigError
from t5kit.training.environment import DECIDES_BITS, Environment
from t5kit.training.processes import is_first
from t5kit.training.state import plain_metrics

RECIPE: Final = "recipe.toml"
RESOLVED: Final = "resolved.toml"
ENVIRONMENT: Final = "environment.json"
METRICS: Final = "metrics.jsonl"
CHECKPOINTS: Final = "checkpoints"
MODEL: Final = "model"
ADAPTER: Final = "adapter"
RESULT: Final = "result.json"
LOCK: Final = ".lock"

TIMED_KEYS: Final = ("seconds", "tokens_per_second")
"""Values of a metrics line that tell the clock. All others are equal to the bit after a stop and a resume."""

MAY_DIFFER: Final = frozenset(
    {"training.checkpoint_every", "training.keep_checkpoints", "data.num_workers", "data.dir"}
)
"""Keys of the recipe that a resumed run may change: no number of the run depends on them. data.dir says where the files
lie, not what is in them; that this is the same is seen to by the loader's state and by api/run_inputs.py."""

CHANGES_BITS: Final = frozenset(
    {
        "compute.device",
        "compute.is_compiled",
        "compute.microbatch_rows",
        "compute.num_threads",
        "compute.recomputes_layers",
        "loss.chunk_targets",
    }
)
"""Keys that a resumed run may change with a warning: the same sums in another order, or other dropout masks."""

NUM_STEPS: Final = "training.num_steps"
"""May be raised where the learning rate does not read it."""

_SCHEDULES_WITHOUT_LENGTH: Final = ("constant", "inverse_sqrt")

Completed = Callable[[Mapping[str, object]], Mapping[str, object]]
"""Gives a run's resolved recipe with the settings that came after it was written, at their defaults.

Raises: ConfigError for a setting that there is no more.
"""


class RunFolder:
    """One run's folder, locked for this process. Get it from `create` or `resume`, and `close` it (or use `with`).

    With several processes the first one locks and writes; in the others every writing method does nothing.
    Raises: ConfigError if another process works in the folder; CheckpointError if it cannot be locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        """The folder."""
        self._is_writer = is_first()
        self._lock = filelock.FileLock(path / LOCK, blocking=False)
        self._metrics: BinaryIO | None = None
        if not self._is_writer:
            return
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise ConfigError(
                f"another process is training in {path}. Wait for it, stop it, or choose another folder."
            ) from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be locked for this process: {error}.") from error

    @classmethod
    def create(cls, path: Path, *, recipe: str, resolved: str, environment: Environment) -> Self:
        """Return a fresh run's folder; `path` must not exist or be empty.

        recipe, resolved: TOML text, as given and with every default.
        Raises: ConfigError if a run stands there; CheckpointError if anything else does, or nothing can be written.
        """
        if is_first():
            if (path / RESOLVED).exists():
                raise ConfigError(f"{path} holds a run already. Resume it, or choose another folder.")
            if path.is_dir() and any(path.iterdir()):
                raise CheckpointError(f"{path} is not empty and holds no run. Choose another folder, or empty it.")
            with atomic_folder(path) as folder:
                (folder / RECIPE).write_text(recipe, encoding="utf-8")
                (folder / RESOLVED).write_text(resolved, encoding="utf-8")
                (folder / ENVIRONMENT).write_bytes(_environment_bytes([dataclasses.asdict(environment)]))
                (folder / CHECKPOINTS).mkdir()
        return cls(path)

    @classmethod
    def see_early(cls, path: Path, *, resolved: str, completed: Completed = dict) -> "RunFolder | None":
        """Return the folder of a finished run, locked; None where there is a run to begin or to go on with.

        For before any work is done: `resume` would refuse what this refuses, and changes files. One process alone
        may call it.
        Raises: ConfigError if another process works in the folder, or its run has another recipe; CheckpointError if
        files are damaged.
        """
        if not (path / RESOLVED).is_file():
            return None
        folder = cls(path)
        try:
            changed = folder._checked_changes(resolved, completed)
            if NUM_STEPS not in changed and (path / RESULT).exists():
                return folder
        except BaseException:
            folder.close()
            raise
        folder.close()
        return None

    @classmethod
    def resume(cls, path: Path, *, resolved: str, environment: Environment, completed: Completed = dict) -> Self:
        """Return the folder of a run that was stopped or killed, with what a kill left half done cleared away.

        resolved: the recipe to go on with. It must be the run's own, except that `MAY_DIFFER` and `CHANGES_BITS` may
        differ (the second with a warning) and `NUM_STEPS` may be raised where the schedule does not depend on it.
        completed: what an older t5kit did not write out, the run has at its default.
        Raises: ConfigError naming the keys that differ, or if there is no run; CheckpointError if files are damaged.
        """
        if is_first() and not (path / RESOLVED).is_file():
            raise ConfigError(f"{path} holds no run to resume: it has no {RESOLVED}.")
        folder = cls(path)
        if folder._is_writer:
            try:
                folder._go_on(resolved, environment, completed)
            except BaseException:
                folder.close()
                raise
        return folder

    def _go_on(self, resolved: str, environment: Environment, completed: Completed) -> None:
        recover_folder(self.path)
        self.checkpoints.mkdir(exist_ok=True)
        recover_folder(self.checkpoints)
        changed = self._checked_changes(resolved, completed)
        starts = self._starts()
        _warn_of_other_bits(starts[-1], environment, [key for key in changed if key in CHANGES_BITS])
        write_file(self.path / ENVIRONMENT, _environment_bytes([*starts, dataclasses.asdict(environment)]))
        if NUM_STEPS in changed:
            (self.path / RESULT).unlink(missing_ok=True)  # first: a finished run with a longer recipe is not finished
        if changed:
            write_file(self.path / RESOLVED, resolved.encode())

    def _checked_changes(self, resolved: str, completed: Completed) -> list[str]:
        """Return the keys that differ from the run's recipe, all of which may. Raises: ConfigError for others."""
        path = self.path / RESOLVED
        try:
            old = _flat(completed(_read_toml(self._read(RESOLVED), path)))
        except ConfigError as error:
            raise ConfigError(
                f"{path} cannot be gone on with: {error} Resume the run with the version that started it "
                f"({self.path / ENVIRONMENT} names it), or start a run in another folder."
            ) from error
        new = _flat(_read_toml(resolved, path))
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        _check_changes(self.path, changed, old, new)
        return changed

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        """The finished run's model folder."""
        return self.path / MODEL

    @property
    def adapter(self) -> Path:
        """The folder of what an adaptation trained."""
        return self.path / ADAPTER

    def result(self) -> dict[str, Any] | None:
        """Return what `write_result` was given, or None if the run is not finished."""
        return read_json(self.path / RESULT) if (self.path / RESULT).exists() else None

    def write_result(self, result: Mapping[str, object]) -> None:
        """Mark the run as finished."""
        if self._is_writer:
            write_file(self.path / RESULT, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())

    def cut_metrics(self, num_lines: int) -> None:
        """Keep the first lines of metrics.jsonl and forget the others, which will be written again."""
        if not self._is_writer:
            return
        self._close_metrics()
        path = self.path / METRICS
        text = path.read_bytes() if path.exists() else b""
        lines = text.splitlines(keepends=True)
        whole = [line for line in lines[:num_lines] if line.endswith(b"\n")]
        if len(whole) < num_lines:
            warnings.warn(
                f"{path} has {len(whole)} lines, and the checkpoint knows of {num_lines}: the others are lost.",
                UserWarning,
                stacklevel=2,
            )
        with path.open("ab") as file:
            file.truncate(sum(map(len, whole)))

    def append_metrics(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line of metrics. Raises: CheckpointError if the disk is full."""
        if not self._is_writer:
            return
        line = json.dumps({"kind": kind, "step": step, **plain_metrics(metrics)}, allow_nan=False) + "\n"
        try:
            if self._metrics is None:
                self._metrics = (self.path / METRICS).open("ab")
            self._metrics.write(line.encode())
            self._metrics.flush()
        except OSError as error:
            raise CheckpointError(
                f"{self.path / METRICS} cannot be written: {error.strerror}. The run can be resumed."
            ) from error

    def sync_metrics(self) -> None:
        """Flush the lines to the disk: before a checkpoint, which counts on them."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """Let other processes into the folder."""
        self._close_metrics()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # a line that did not fit on the disk is tried again; it was reported
                self._metrics.close()
            self._metrics = None

    def _starts(self) -> list[dict[str, object]]:
        try:
            starts = json.loads(self._read(ENVIRONMENT))
        except ValueError as error:
            raise CheckpointError(f"{self.path / ENVIRONMENT} is not valid JSON: {error}.") from error
        if not isinstance(starts, list) or not starts or not all(isinstance(start, dict) for start in starts):
            raise CheckpointError(f"{self.path / ENVIRONMENT} must be a list of objects, one for every start.")
        return starts

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self.path / name} cannot be read: {error}.") from error


def _environment_bytes(starts: list[dict[str, object]]) -> bytes:
    return (json.dumps(starts, indent=1) + "\n").encode()


def _read_toml(text: str, path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CheckpointError(f"{path} does not read as TOML: {error}.") from error


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    """Return "section.key" -> value of nested tables."""
    flat: dict[str, object] = {}

    def add(prefix: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    add("", values)
    return flat


def _check_changes(path: Path, changed: list[str], old: Mapping[str, object], new: Mapping[str, object]) -> None:
    wrong = [key for key in changed if key not in MAY_DIFFER | CHANGES_BITS]
    if NUM_STEPS in wrong and _may_lengthen(old, new):
        wrong.remove(NUM_STEPS)
    if not wrong:
        return
    lines = [f"  {key}: {old.get(key, 'absent')!r} in the run, {new.get(key, 'absent')!r} now" for key in wrong]
    raise ConfigError(
        f"the run in {path} was started with another recipe; what differs:\n"
        + "\n".join(lines)
        + "\nResume it with its own recipe, or start a run in another folder. ("
        + f"{', '.join(sorted(MAY_DIFFER | CHANGES_BITS))} may differ; {NUM_STEPS} may be raised if schedule.name is "
        + f"{' or '.join(_SCHEDULES_WITHOUT_LENGTH)}.)"
    )


def _may_lengthen(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    before, after = old.get(NUM_STEPS), new.get(NUM_STEPS)
    is_longer = isinstance(before, int) and isinstance(after, int) and after > before
    return is_longer and old.get("schedule.name", "constant") in _SCHEDULES_WITHOUT_LENGTH


def _warn_of_other_bits(start: Mapping[str, object], environment: Environment, changed: list[str]) -> None:
    now = dataclasses.asdict(environment)
    differences = [
        f"{key} is {now[key]!r}, was {start.get(key)!r}" for key in DECIDES_BITS if now[key] != start.get(key)
    ]
    differences += [f"{key} changed" for key in changed]
    if differences:
        warnings.warn(
            f"the run goes on, but not equal to the bit to one that never stopped: {'; '.join(differences)}.",
            UserWarning,
            stacklevel=4,
        )

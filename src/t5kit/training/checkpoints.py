"""Checkpoints of a run: whole or refused.

    step-00001000/
      model.safetensors        float32 masters, named as in a model folder
      optimizer.safetensors    "parameter name/slot" -> tensor (optimizers.py)
      state.json               {"training": TrainingState, "loader": the loader's state}
      manifest.json            written last: every file's size and SHA-256, and its own

A checkpoint is written beside its place, flushed to the disk and renamed, so that its name means a whole one. Loading
trusts no name: every byte is held against the manifest first. Everything is plain data; nothing is unpickled.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor, nn

from t5kit.checkpoint.atomic import atomic_folder, remove_folder
from t5kit.checkpoint.safetensors_file import open_safetensors, write_safetensors
from t5kit.checkpoint.source_files import open_for_reading, read_json
from t5kit.checkpoint.tensors import TensorView
from t5kit.data.streams import State
from t5kit.errors import CheckpointError
from t5kit.model.adaptation import frozen_checksum, trained_state
from t5kit.training.optimizers import ModelOptimizer
from t5kit.training.processes import copy_whole, gathered, is_first
from t5kit.training.state import TrainingState

MODEL_FILE: Final = "model.safetensors"
OPTIMIZER_FILE: Final = "optimizer.safetensors"
STATE_FILE: Final = "state.json"
MANIFEST_FILE: Final = "manifest.json"
FORMAT: Final = 1
"""Of the whole folder; a reader refuses others."""

_MAX_STATE_BYTES: Final = 1 << 30
"""The loader's state holds the examples left over from a window: megabytes at most."""
_NAME = re.compile(r"step-(\d{8,})")
_WORDS: Final = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16"}
_DTYPES: Final = {word: dtype for dtype, word in _WORDS.items()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """What a checkpoint holds, on the CPU and whole; live tensors of a model on one processor are not copied."""

    model: Mapping[str, Tensor]
    """Name of a trained parameter -> values; frozen ones are the start's."""
    optimizer: Mapping[str, Tensor]
    """"parameter name/slot" -> values."""
    training: TrainingState
    """Where the run stands."""
    loader: State
    """Where the loader stands."""
    frozen_checksum: int = 0
    """Of the weights that are not trained; 0 where all are."""

    @classmethod
    def of(cls, model: nn.Module, optimizer: ModelOptimizer, training: TrainingState, loader: State) -> Self:
        """Return the snapshot of a run between two steps. A collective call: sharded tensors are gathered.

        Only the first process keeps what it gathered; the others return empty mappings.
        """
        tensors = []
        for live in (trained_state(model), optimizer.state_dict()):
            whole = ((name, gathered(tensor)) for name, tensor in live.items())
            tensors.append({name: tensor for name, tensor in whole if is_first()})
        return cls(
            model=tensors[0],
            optimizer=tensors[1],
            training=training,
            loader=loader,
            frozen_checksum=frozen_checksum(model),
        )

    def put_into(self, model: nn.Module, optimizer: ModelOptimizer) -> None:
        """Give a model and its optimizer these values, in place. A collective call.

        Raises: CheckpointError if a tensor is missing, unknown, or of another shape or dtype; the model is then as it
        was.
        """
        self._check(model)
        optimizer.load_state_dict(self.optimizer)
        self.put_model_into(model)

    def put_model_into(self, model: nn.Module) -> None:
        """Give a model these weights. A collective call. Raises: as `put_into`."""
        self._check(model)
        for name, tensor in trained_state(model).items():
            copy_whole(tensor, self.model[name])

    def _check(self, model: nn.Module) -> None:
        live = trained_state(model)
        if frozen_checksum(model) != self.frozen_checksum:
            raise CheckpointError(
                "the weights that are not trained are not those this run was started with. Put the start's folder back "
                "as it was, or start a run in another folder."
            )
        if live.keys() != self.model.keys():
            name = min(live.keys() ^ self.model.keys())
            raise CheckpointError(f"the checkpoint and the model do not have the same parameters: only one has {name}.")
        for name, tensor in live.items():
            saved = self.model[name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                raise CheckpointError(
                    f"the checkpoint's {name} is {saved.dtype} {list(saved.shape)}; the model's is {tensor.dtype} "
                    f"{list(tensor.shape)}."
                )


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint after `step` updates stands in the run's folder of checkpoints."""
    return folder / f"step-{step:08d}"


def write_checkpoint(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint and return its path; an older one of the same step is replaced.

    Raises: CheckpointError with one sentence for no space or no permission; what was there before is then untouched.
    """
    path = checkpoint_path(folder, snapshot.training.step)
    with atomic_folder(path, overwrite=True) as unfinished:
        for name, tensors in ((MODEL_FILE, snapshot.model), (OPTIMIZER_FILE, snapshot.optimizer)):
            write_safetensors(unfinished / name, [_view(key, tensor) for key, tensor in tensors.items()])
        state = {
            "training": snapshot.training.to_plain(),
            "loader": snapshot.loader,
            "frozen_checksum": snapshot.frozen_checksum,
        }
        (unfinished / STATE_FILE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
        files = {name: _fingerprint(unfinished / name) for name in (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE)}
        manifest = {"format": FORMAT, "step": snapshot.training.step, "files": files}
        (unfinished / MANIFEST_FILE).write_bytes(_manifest_bytes(manifest))
    return path


def verify_checkpoint(path: Path) -> None:
    """Hold every byte of a checkpoint against its manifest.

    Raises: CheckpointError naming the file that is missing, altered or unknown.
    """
    if not (path / MANIFEST_FILE).is_file():
        raise CheckpointError(f"{path} has no {MANIFEST_FILE}: it was never finished.")
    manifest = read_json(path / MANIFEST_FILE)
    unsigned = {key: value for key, value in manifest.items() if key != "sha256"}
    if (path / MANIFEST_FILE).read_bytes() != _manifest_bytes(unsigned):
        raise CheckpointError(f"{path / MANIFEST_FILE} was altered: it does not have the SHA-256 it states.")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has the checkpoint format {manifest['format']}; this version of t5kit reads {FORMAT}."
        )
    files = manifest["files"]
    assert isinstance(files, dict)  # its SHA-256 is right, so we wrote it
    if path.name != checkpoint_path(path.parent, int(str(manifest["step"]))).name:
        raise CheckpointError(f"{path} holds step {manifest['step']}: the folder was renamed.")
    for name, stated in files.items():
        found = _fingerprint(path / name)
        if found["size"] != stated["size"]:
            raise CheckpointError(f"{path / name} was altered: {found['size']} bytes, {stated['size']} were written.")
        if found != stated:
            raise CheckpointError(f"{path / name} was altered: its SHA-256 is not the one that was written.")


def read_checkpoint(path: Path) -> Snapshot:
    """Return what a checkpoint holds, in memory of its own. Verify it first.

    Raises: CheckpointError if a file does not read.
    """
    state = read_json(path / STATE_FILE, limit_bytes=_MAX_STATE_BYTES)
    training, loader = state.get("training"), state.get("loader")
    if not isinstance(training, dict) or not isinstance(loader, dict):
        raise CheckpointError(f"{path / STATE_FILE} must have the objects training and loader.")
    model, optimizer = (_read_tensors(path / name) for name in (MODEL_FILE, OPTIMIZER_FILE))
    checksum = state.get("frozen_checksum", 0)
    if not isinstance(checksum, int):
        raise CheckpointError(f"{path / STATE_FILE} has the frozen_checksum {checksum!r}; expected an integer.")
    return Snapshot(
        model=model,
        optimizer=optimizer,
        training=TrainingState.from_plain(training),
        loader=loader,
        frozen_checksum=checksum,
    )


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that verifies, or None where there are none.

    Each newer one that does not verify is refused with a warning that names it.
    Raises: CheckpointError if there are checkpoints and none is whole.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(f"refused: {error}", UserWarning, stacklevel=2)
        else:
            return path
    if paths:
        raise CheckpointError(
            f"none of the {len(paths)} checkpoints in {folder} is whole. Restore one from a copy, or start anew in "
            "another folder."
        )
    return None


def set_newer_aside(folder: Path, path: Path | None) -> None:
    """Rename the checkpoints newer than `path`, which were refused, to NAME.refused: they count no more."""
    paths = _paths(folder)
    for newer in paths[0 if path is None else paths.index(path) + 1 :]:
        aside = newer.with_name(f"{newer.name}.refused")
        shutil.rmtree(aside, ignore_errors=True)
        newer.rename(aside)


def remove_old_checkpoints(folder: Path, *, keep: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest `keep` and the one of the best evaluation."""
    best = None if best_step is None else checkpoint_path(folder, best_step)
    for path in _paths(folder)[:-keep]:
        if path != best:
            remove_folder(path)


def _paths(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _fingerprint(path: Path) -> dict[str, object]:
    with os.fdopen(open_for_reading(path), "rb") as file:
        try:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:  # a bad sector
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
        return {"size": file.tell(), "sha256": digest}


def _manifest_bytes(manifest: Mapping[str, object]) -> bytes:
    """Return the one text a manifest can have, with the SHA-256 of its content."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**manifest, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _view(name: str, tensor: Tensor) -> TensorView:
    if tensor.dtype not in _WORDS:
        raise CheckpointError(f"The tensor {name!r} is {tensor.dtype}, which checkpoints do not hold.")
    data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    return TensorView(name=name, dtype=_WORDS[tensor.dtype], shape=tuple(tensor.shape), data=data)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    tensors = {}
    for name, view in open_safetensors(path).views.items():
        if view.dtype not in _DTYPES:
            raise CheckpointError(f"{path}: the tensor {name!r} is {view.dtype}, which checkpoints do not hold.")
        # Numerics: copied into memory that PyTorch aligns; its kernels may sum unaligned rows in another order.
        tensor = torch.empty(view.shape, dtype=_DTYPES[view.dtype])
        tensor.view(-1).view(torch.uint8).numpy()[:] = np.frombuffer(view.data, np.uint8)
        tensors[name] = tensor
    return tensors

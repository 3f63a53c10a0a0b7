"""What a sentence-T5 folder does to encoder states: the modules that sentence-transformers names in modules.json.

Read, in order: Transformer (the model itself, in the folder's root), Pooling, Dense, Normalize, and Dropout, which
does nothing at inference. So modules.json beside config.json is enough to know that a folder makes sentence vectors.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from t5kit.checkpoint.safetensors_file import open_safetensors, write_safetensors
from t5kit.checkpoint.source_files import locate, read_json, read_json_list, shortened
from t5kit.checkpoint.tensors import TensorView
from t5kit.errors import CheckpointError, DependencyError

PoolingMode = Literal["first", "max", "mean", "mean_sqrt_len", "weighted_mean", "last"]
"""first, last: one token's state. max, mean: over all tokens, EOS included. mean_sqrt_len: their sum divided by the
root of their number. weighted_mean: the n-th token counts n times."""
Activation = Literal["identity", "tanh", "relu", "gelu", "sigmoid"]

MODULES_FILE: Final = "modules.json"
_MODES: Final[dict[str, PoolingMode]] = {
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
"""Name in a Pooling config -> ours, in the order in which sentence-transformers joins the vectors of several modes."""
_MODE_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TORCH_NAMES: Final[dict[Activation, str]] = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
_MAX_WIDTH = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """One linear map of a vector, with what follows it: activation(weight @ x + bias), plus x mapped if `residual`."""

    weight: np.ndarray
    """[out, in] float32."""
    bias: np.ndarray | None
    """[out] float32."""
    activation: Activation
    residual: np.ndarray | None = None
    """[out, in] float32: added is residual @ x."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SentenceModules:
    """From the states of a text's tokens to its vector."""

    pooling: tuple[PoolingMode, ...]
    """Their vectors are joined end to end."""
    steps: tuple[Dense | Literal["normalize"], ...]
    """What happens to the joined vector, in order; normalize: to length 1."""

    @property
    def normalizes(self) -> bool:
        """The vector has length 1."""
        return "normalize" in [step for step in self.steps if isinstance(step, str)]

    def width(self, d_model: int) -> int:
        """Return how many numbers a vector has."""
        outputs = [len(step.weight) for step in self.steps if isinstance(step, Dense)]
        return outputs[-1] if outputs else d_model * len(self.pooling)


def read_sentence_modules(folder: Path, d_model: int) -> SentenceModules | None:
    """Return the modules of a folder, or None if it has no modules.json.

    Raises: CheckpointError saying which module cannot be read or does not fit; DependencyError if a Dense module has
    only a .bin file and torch is missing.
    """
    if not (folder / MODULES_FILE).exists():
        return None
    entries = read_json_list(locate(folder, MODULES_FILE))
    pooling: tuple[PoolingMode, ...] | None = None
    steps: list[Dense | Literal["normalize"]] = []
    width = d_model
    for number, entry in enumerate(entries):
        kind, place = _kind_and_place(folder, number, entry)
        if kind == "Transformer":
            if number or place:
                raise CheckpointError(
                    f"{folder / MODULES_FILE}: the Transformer must be the first module, in the folder itself; it is "
                    f"number {number}, in {shortened(place)}."
                )
        elif kind == "Pooling":
            if pooling is not None or steps:
                raise CheckpointError(f"{folder / MODULES_FILE} pools twice, or after another module.")
            pooling = _read_pooling(folder, place, d_model)
            width = d_model * len(pooling)
        elif pooling is None:
            raise CheckpointError(f"{folder / MODULES_FILE}: {kind} stands before Pooling, where it is not understood.")
        elif kind == "Dense":
            dense = _read_dense(folder, place, width)
            steps.append(dense)
            width = len(dense.weight)
        elif kind == "Normalize":
            steps.append("normalize")
        elif kind != "Dropout":
            raise CheckpointError(
                f"{folder / MODULES_FILE} holds the module {shortened(kind)}; understood are Transformer, Pooling, "
                "Dense, Normalize and Dropout."
            )
    if pooling is None:
        raise CheckpointError(f"{folder / MODULES_FILE} names no Pooling module, so no vector of a text is defined.")
    return SentenceModules(pooling=pooling, steps=tuple(steps))


def write_sentence_modules(folder: Path, modules: SentenceModules, d_model: int) -> None:
    """Write what `read_sentence_modules` and sentence-transformers read into an existing model folder."""
    entries = [("Transformer", "")]
    (folder / "1_Pooling").mkdir()
    flags = {flag: _MODES[name] in modules.pooling for flag, name in _MODE_FLAGS.items()}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": d_model, **flags})
    entries.append(("Pooling", "1_Pooling"))
    for number, step in enumerate(modules.steps, start=2):
        kind = "Normalize" if isinstance(step, str) else "Dense"
        place = folder / f"{number}_{kind}"
        place.mkdir()
        entries.append((kind, place.name))
        if isinstance(step, str):
            continue
        out_features, in_features = step.weight.shape
        _write_json(
            place / "config.json",
            {
                "in_features": in_features,
                "out_features": out_features,
                "bias": step.bias is not None,
                "activation_function": _TORCH_NAMES[step.activation],
                **({} if step.residual is None else {"use_residual": True}),
            },
        )
        tensors = {"linear.weight": step.weight, "linear.bias": step.bias}
        if step.residual is not None and in_features != out_features:
            tensors["residual.weight"] = step.residual
        views = [TensorView.from_array(name, array) for name, array in tensors.items() if array is not None]
        write_safetensors(place / "model.safetensors", views)
    rows = [
        {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, place) in enumerate(entries)
    ]
    _write_json(folder / MODULES_FILE, rows)


def copy_sentence_modules(source: Path, target: Path, d_model: int) -> None:
    """Write the modules of `source` into the model folder `target`; nothing if there are none."""
    modules = read_sentence_modules(source, d_model)
    if modules is not None:
        write_sentence_modules(target, modules, d_model)


def _kind_and_place(folder: Path, number: int, entry: object) -> tuple[str, str]:
    """Return the class name of a module, without its package, and its subfolder."""
    if (
        not isinstance(entry, Mapping)
        or not isinstance(entry.get("type"), str)
        or not isinstance(entry.get("path"), str)
    ):
        raise CheckpointError(f"{folder / MODULES_FILE}: module {number} has no type and path; got {shortened(entry)}.")
    return entry["type"].rpartition(".")[2], entry["path"]


def _read_pooling(folder: Path, place: str, d_model: int) -> tuple[PoolingMode, ...]:
    config = read_json(locate(folder, "config.json", subfolder=place))
    where = folder / place / "config.json"
    width = config.get("word_embedding_dimension", config.get("embedding_dimension", d_model))
    if width != d_model:
        raise CheckpointError(f"{where} pools vectors of {shortened(width)} numbers; this model's have {d_model}.")
    asked = config.get("pooling_mode")
    if asked is None:
        names = [name for flag, name in _MODE_FLAGS.items() if config.get(flag)] or ["mean"]
    else:
        names = [asked] if isinstance(asked, str) else asked if isinstance(asked, list) else [""]
    if not names or not all(isinstance(name, str) and name in _MODES for name in names):
        raise CheckpointError(f"{where}: pooling_mode {shortened(asked)} must be one of: {', '.join(_MODES)}.")
    return tuple(_MODES[name] for name in names)


def _read_dense(folder: Path, place: str, width: int) -> Dense:
    config = read_json(locate(folder, "config.json", subfolder=place))
    where = folder / place
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise CheckpointError(f"{where}/config.json: {key} {shortened(config[key])} is not understood.")
    # sentence-transformers' own default where a config names none is Tanh.
    name = config.get("activation_function", _TORCH_NAMES["tanh"])
    word = name.rpartition(".")[2].lower() if isinstance(name, str) else ""
    activation = next((known for known in get_args(Activation) if known == word), None)
    if activation is None:
        raise CheckpointError(
            f"{where}/config.json: activation_function {shortened(name)} must be one of: "
            f"{', '.join(_TORCH_NAMES.values())}."
        )
    sizes = [config.get("out_features"), config.get("in_features")]
    if not all(isinstance(size, int) and 0 < size <= _MAX_WIDTH for size in sizes) or sizes[1] != width:
        raise CheckpointError(
            f"{where}/config.json maps {shortened(sizes[1])} numbers to {shortened(sizes[0])}; what comes to it has "
            f"{width}."
        )
    has_bias, has_residual = config.get("bias", True), config.get("use_residual", False)
    expected = {"linear.weight": tuple(sizes)}
    if has_bias:
        expected["linear.bias"] = (sizes[0],)
    if has_residual and sizes[0] != sizes[1]:
        expected["residual.weight"] = tuple(sizes)
    views = _weights(folder, place)
    stored = {name: view.shape for name, view in views.items()}
    if stored != expected:
        raise CheckpointError(f"{where} holds {shortened(stored)}; its config.json describes {shortened(expected)}.")
    arrays = {name: view.to_float32() for name, view in views.items()}
    identity = np.eye(width, dtype=np.float32) if has_residual and sizes[0] == sizes[1] else None
    return Dense(
        weight=arrays["linear.weight"],
        bias=arrays.get("linear.bias"),
        activation=activation,
        residual=arrays.get("residual.weight", identity),
    )


def _weights(folder: Path, place: str) -> Mapping[str, TensorView]:
    if (folder / place / "model.safetensors").exists():
        return open_safetensors(locate(folder, "model.safetensors", subfolder=place)).views
    path = locate(folder, "pytorch_model.bin", subfolder=place)
    try:
        from t5kit.checkpoint.torch_bin import read_torch_bin
    except ImportError as error:
        raise DependencyError.for_extra("torch", "torch", f"Reading {path}") from error
    return read_torch_bin(path)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

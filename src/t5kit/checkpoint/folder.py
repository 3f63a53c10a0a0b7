"""A model folder in the Hugging Face layout: opened whole and checked, or written whole.

Reading maps the files and looks at headers only, so opening takes milliseconds whatever the model weighs; a tensor's
bytes are read when somebody uses them.
"""

import dataclasses
import difflib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from t5kit.checkpoint.adapters import CONFIG_FILE as ADAPTER_CONFIG
from t5kit.checkpoint.adapters import GENERATION_FILE, Adapter, SoftPrompt, check_base, open_any_adapter
from t5kit.checkpoint.atomic import atomic_folder
from t5kit.checkpoint.generation import generation_defaults, generation_to_hf
from t5kit.checkpoint.hf_config import Inference as Inference
from t5kit.checkpoint.hf_config import config_from_hf, config_to_hf, label_names, task_prefixes
from t5kit.checkpoint.layout import to_home_layout
from t5kit.checkpoint.quantized import (
    EXACT_SUFFIX,
    INT8_FILE,
    QUANT_METHOD,
    LazyTensor,
    join_quantized,
    quantization_config,
    quantized_tensors,
)
from t5kit.checkpoint.safetensors_file import open_safetensors, write_safetensors
from t5kit.checkpoint.source_files import WeightFile, locate, read_json, shortened
from t5kit.checkpoint.tensors import FLOAT_WORDS, ITEM_BYTES, TensorView
from t5kit.config import T5Config, tensor_shapes
from t5kit.errors import CheckpointError, DependencyError

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_BIN_SINGLE: Final = "pytorch_model.bin"
_BIN_INDEX: Final = "pytorch_model.bin.index.json"
_OTHER_WEIGHTS: Final = (".safetensors", ".bin", ".h5", ".msgpack", ".onnx", ".gguf", ".ckpt", ".pt")
_MAX_INDEX_BYTES: Final = 100_000_000
_LISTED_PROBLEMS: Final = 10
_WORD_OF: Final = {stored: word for word, stored in FLOAT_WORDS.items()}
# What may stand in a folder that is overwritten; anything else in it is somebody's work and stops the writing.
_MODEL_FILE = re.compile(
    r"(model|t5kit-int8)(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin"
    r"|((model|t5kit-int8)\.safetensors|pytorch_model\.bin)\.index\.json"
    r"|(generation_|tokenizer_)?config\.json|(tokenizer|special_tokens_map|added_tokens|modules)\.json"
    r"|(spiece|tokenizer|sentencepiece|sentencepiece\.bpe)\.model"
)
_MODEL_SUBFOLDER = re.compile(r"\d{1,2}_(Pooling|Dense|Normalize)")  # of a sentence-T5


@dataclasses.dataclass(frozen=True, eq=False)
class CheckpointFolder:
    """A model folder, opened and checked: every tensor of the architecture is there, in its shape, and nothing else."""

    path: Path
    """The folder."""
    config: T5Config
    """Its architecture."""
    inferences: tuple[Inference, ...]
    """What was concluded about it, and why."""
    dtype: str
    """The dtype of most of its bytes: "float32", "bfloat16", "float16" or "float64"; "int8" of an int8 folder."""
    generation: Mapping[str, object]
    """Checked defaults from generation_config.json (`generation.GENERATION_KEYS`), only those it states."""
    raw_config: Mapping[str, object]
    """config.json as it stands."""
    metadata: Mapping[str, str]
    """Text metadata of the safetensors files, such as {"format": "pt"}."""
    labels: tuple[str, ...]
    """A classifier's label names; empty for other heads."""
    prefixes: Mapping[str, str]
    """Task -> beginning of its prompts, as far as the folder says; "summarization" -> "summarize: "."""
    weight_files: tuple[WeightFile, ...]
    """The files the tensors lie in, as they were when they were opened."""
    _views: Mapping[str, TensorView]

    def names(self) -> tuple[str, ...]:
        """Return every tensor name, exactly as `tensor_shapes(config)` orders them."""
        return tuple(self._views)

    def tensor(self, name: str) -> TensorView:
        """Return the tensor called `name` in the home layout. Raises: CheckpointError naming the nearest ones."""
        if name not in self._views:
            near = difflib.get_close_matches(name, self._views, n=3)
            raise CheckpointError(f"{self.path} has no tensor {name!r}. Nearest: {', '.join(near) or 'none'}.")
        return self._views[name]

    def with_tensors(self, tensors: Iterable[TensorView]) -> "CheckpointFolder":
        """Return this folder with other values in its tensors, of the same names and shapes, which lie in no file."""
        return dataclasses.replace(self, weight_files=(), _views={view.name: view for view in tensors})

    def adapter(self, path: Path) -> Adapter | SoftPrompt:
        """Open an adapter's folder, in peft's format, for these weights.

        Raises: CheckpointError for one of another architecture, or that says that it was trained on other weights.
        """
        adapter = open_any_adapter(path, self.config)
        check_base(path, self.tensors())
        return adapter

    def with_defaults_of(self, adapter_path: Path) -> "CheckpointFolder":
        """Return this folder with the generation defaults of an adapter's folder, if it has any, over its own.

        Raises: CheckpointError for a value that cannot be one.
        """
        if not (adapter_path / GENERATION_FILE).is_file():
            return self
        raw = read_json(locate(adapter_path, GENERATION_FILE))
        own = generation_defaults(raw, self.config, source=str(adapter_path / GENERATION_FILE))
        return dataclasses.replace(self, generation={**self.generation, **own})

    def tensors(self) -> Iterator[TensorView]:
        """Yield every tensor in the order of `names()`."""
        return iter(self._views.values())


def open_folder(path: Path) -> CheckpointFolder:
    """Open and check a folder: config.json, and safetensors (sharded or not) or, where there are none, .bin files.

    Raises: CheckpointError saying what is wrong and where; missing, unknown and misshapen tensors come in one error
    that lists the first ten with both shapes. DependencyError if the folder has only .bin files and torch is missing.
    """
    names = _file_names(path)
    if "config.json" not in names and ADAPTER_CONFIG in names:
        raise CheckpointError(
            f"{path} is an adapter's folder, expected a model's. Merge it into its model and take that: t5kit convert "
            f"{shlex.quote(str(path))} NEW_FOLDER."
        )
    if "config.json" not in names:
        raise CheckpointError(f"{path} has no config.json, so it is no model folder in the Hugging Face layout.")
    raw = read_json(locate(path, "config.json"))
    is_int8 = raw.get("quantization_config") is not None  # config_from_hf refuses all but ours
    stored = _stored_int8(path, names) if is_int8 else _stored_tensors(path, names)
    try:
        home = to_home_layout(join_quantized(stored.views) if is_int8 else stored.views)
        shapes = {name: view.shape for name, view in home.views.items()}
        config, inferences = config_from_hf(raw, shapes, copies=home.copies)
        check_tensor_shapes(config, shapes)
        _check_float(home.views.values(), is_int8=is_int8)
        generation = _read_generation(path, names, raw, config)
        labels = label_names(raw, config.num_labels) if config.is_classifier else ()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    dtype, dtype_reason = _prevailing_dtype(home.views.values())
    return CheckpointFolder(
        path=path,
        config=config,
        inferences=(*inferences, *home.inferences, Inference("dtype", dtype, dtype_reason)),
        dtype=dtype,
        generation=generation,
        raw_config=raw,
        metadata=stored.metadata,
        labels=labels,
        prefixes=task_prefixes(raw),
        weight_files=stored.files,
        _views={name: home.views[name] for name in tensor_shapes(config)},
    )


def check_tensor_shapes(config: T5Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError listing every tensor that is missing, unknown or misshapen for `config`, ten in full."""
    # The list of expected tensors grows with the layers, so a hostile number of them is held against the files first.
    if config.num_encoder_layers + config.num_decoder_layers > len(shapes):
        raise CheckpointError(
            f"The architecture has {config.num_encoder_layers} encoder and {config.num_decoder_layers} decoder layers, "
            f"but there are only {len(shapes)} tensors. They do not belong together."
        )
    expected = tensor_shapes(config)
    problems = [
        f"missing: {shortened(name)}, expected {list(shape)}, stored none"
        for name, shape in expected.items()
        if name not in shapes
    ]
    for name, shape in shapes.items():
        if name not in expected:
            problems.append(f"unknown: {shortened(name)}, expected none, stored {list(shape)}")
        elif shape != expected[name]:
            problems.append(f"misshapen: {shortened(name)}, expected {list(expected[name])}, stored {list(shape)}")
    if problems:
        more = len(problems) - _LISTED_PROBLEMS
        lines = problems[:_LISTED_PROBLEMS] + ([f"... and {more} more"] if more > 0 else [])
        raise CheckpointError(
            f"{len(problems)} tensors do not fit the architecture in config.json:\n  " + "\n  ".join(lines)
        )


# Reading


@dataclasses.dataclass(frozen=True)
class _Stored:
    views: Mapping[str, TensorView]
    metadata: Mapping[str, str]
    files: tuple[WeightFile, ...]


def _file_names(path: Path) -> frozenset[str]:
    try:
        if path.is_dir():
            return frozenset(entry.name for entry in path.iterdir())
        kind = "it is a file; give the folder it lies in" if path.exists() else "nothing is there"
    except (OSError, ValueError) as error:  # a name that is too long, a NUL in it, no permission
        kind = str(error)
    raise CheckpointError(f"{str(path)!r} cannot be opened as a model folder: {kind}.")


def _stored_tensors(path: Path, names: frozenset[str]) -> _Stored:
    if _SINGLE in names:
        return _read_safetensors(path, [_SINGLE], None)
    if _INDEX in names:
        weight_map = _read_index(path, _INDEX)
        return _read_safetensors(path, sorted(set(weight_map.values())), weight_map)
    if _BIN_SINGLE in names:
        return _read_bins(path, [_BIN_SINGLE], None)
    if _BIN_INDEX in names:
        weight_map = _read_index(path, _BIN_INDEX)
        return _read_bins(path, sorted(set(weight_map.values())), weight_map)
    others = sorted(
        n for n in names if n.endswith((".h5", ".msgpack", ".onnx", ".gguf", ".safetensors", ".bin", ".ckpt"))
    )
    found = f"; it has {', '.join(others[:5])}, which are not read" if others else ""
    raise CheckpointError(f"{path} holds no weights: expected {_SINGLE}, {_INDEX} or {_BIN_SINGLE}{found}.")


def _stored_int8(path: Path, names: frozenset[str]) -> _Stored:
    if INT8_FILE in names:
        return _read_safetensors(path, [INT8_FILE], None)
    if f"{INT8_FILE}.index.json" in names:
        weight_map = _read_index(path, f"{INT8_FILE}.index.json")
        return _read_safetensors(path, sorted(set(weight_map.values())), weight_map)
    return _stored_tensors(path, names)  # config_from_hf says what is wrong with them


def _read_index(path: Path, name: str) -> dict[str, str]:
    index = read_json(locate(path, name), limit_bytes=_MAX_INDEX_BYTES)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path / name} has no weight_map from tensor names to files.")
    for tensor, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(
                f"{path / name}: the file of {shortened(tensor)} must be a name; got {shortened(file)}."
            )
    return weight_map


def _read_safetensors(path: Path, names: Sequence[str], weight_map: Mapping[str, str] | None) -> _Stored:
    opened = [open_safetensors(locate(path, name)) for name in names]
    views = _joined(path, dict(zip(names, (file.views for file in opened), strict=True)), weight_map)
    metadata = {key: value for file in opened for key, value in file.metadata.items()}
    files = tuple(WeightFile.of(path / name, file.status) for name, file in zip(names, opened, strict=True))
    return _Stored(views, metadata, files)


def _read_bins(path: Path, names: Sequence[str], weight_map: Mapping[str, str] | None) -> _Stored:
    try:
        from t5kit.checkpoint.torch_bin import read_torch_bin
    except ImportError as error:
        raise DependencyError.for_extra("torch", "torch", f"Reading {path / names[0]}") from error
    files = tuple(WeightFile.of(path / name, locate(path, name).stat()) for name in names)
    views = {name: read_torch_bin(locate(path, name)) for name in names}
    return _Stored(_joined(path, views, weight_map), {}, files)


def _joined(
    path: Path, shards: Mapping[str, Mapping[str, TensorView]], weight_map: Mapping[str, str] | None
) -> dict[str, TensorView]:
    """Return all shards' tensors as one mapping, which must be exactly what the index says lies where."""
    if weight_map is None:
        return dict(next(iter(shards.values())))
    for tensor, file in weight_map.items():
        if tensor not in shards[file]:
            raise CheckpointError(f"{path}: the index says that {shortened(tensor)} lies in {file}, but it does not.")
    for file, views in shards.items():
        for tensor in views:
            if weight_map.get(tensor) != file:
                raise CheckpointError(
                    f"{path}: {file} holds {shortened(tensor)}, which the index does not place there."
                )
    return {tensor: shards[file][tensor] for tensor, file in weight_map.items()}


def _check_float(views: Iterable[TensorView], *, is_int8: bool) -> None:
    for view in views:
        if view.dtype not in _WORD_OF and not (is_int8 and view.scale is not None):
            raise CheckpointError(
                f"{shortened(view.name)} has the dtype {view.dtype}; a float folder holds {', '.join(_WORD_OF)}. "
                "Open the unquantised original."
            )


def _prevailing_dtype(views: Iterable[TensorView]) -> tuple[str, str]:
    views = list(views)
    if any(view.dtype == "I8" for view in views):
        return "int8", "its linear maps"
    sizes: dict[str, int] = {}
    for view in views:
        sizes[view.dtype] = sizes.get(view.dtype, 0) + view.size_bytes
    most = max(sizes, key=lambda word: sizes[word])
    if len(sizes) == 1:
        return _WORD_OF[most], "the dtype of every stored tensor"
    shares = ", ".join(f"{_WORD_OF[word]} {size} bytes" for word, size in sorted(sizes.items()))
    return _WORD_OF[most], f"most of the stored bytes ({shares})"


def _read_generation(
    path: Path, names: frozenset[str], raw_config: Mapping[str, object], config: T5Config
) -> dict[str, object]:
    """Read generation_config.json or, as transformers does where there is none, the same keys of config.json."""
    if "generation_config.json" in names:
        raw = read_json(locate(path, "generation_config.json"))
        return generation_defaults(raw, config, source="generation_config.json")
    return generation_defaults(raw_config, config, source="config.json")


# Writing


def write_folder(
    path: Path,
    config: T5Config,
    tensors: Mapping[str, np.ndarray | TensorView] | Iterable[TensorView],
    *,
    dtype: str = "as_is",
    weights: str = "as_is",
    has_exact_head: bool = True,
    max_shard_bytes: int = 5 * 2**30,
    generation: Mapping[str, object] | None = None,
    labels: Sequence[str] | None = None,
    prefixes: Mapping[str, str] | None = None,
    save_tokenizer: Callable[[Path], None] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model folder that transformers and t5kit read alike, or an int8 folder; it appears whole or not at all.

    `tensors` are named and shaped as `tensor_shapes(config)` says. dtype: as_is, float32, bfloat16 or float16; tensors
    are converted one at a time while writing. weights: as_is, or int8 for a quantised folder (`quantized`), which only
    t5kit reads; has_exact_head keeps the head in bfloat16 beside its integers. Tensors that are int8 already stay so,
    unless `dtype` names a float. `save_tokenizer` is called with the unfinished folder to put the
    vocabulary files there. With `overwrite` a folder that holds nothing but a model's files is replaced.
    Raises: CheckpointError for tensors that do not fit, values that overflow `dtype`, files in the way, no space, no
    permission; `path` is then as it was before.
    """
    if dtype != "as_is" and dtype not in ("float32", "bfloat16", "float16"):
        raise CheckpointError(f"dtype {dtype!r} must be one of: as_is, float32, bfloat16, float16.")
    if weights not in ("as_is", "int8"):
        raise CheckpointError(f"weights {weights!r} must be as_is or int8.")
    if weights == "int8" and dtype != "as_is":
        raise CheckpointError(f"An int8 folder has its own dtypes; dtype {dtype!r} cannot be asked for beside it.")
    if weights == "int8" and config.encoder_attention != "full":
        raise CheckpointError("LongT5 folders are carried, not run; there is no int8 form of them.")
    word = None if dtype == "as_is" else FLOAT_WORDS[dtype]
    given = _as_views(tensors)
    check_tensor_shapes(config, {name: view.shape for name, view in given.items()})
    _check_float(given.values(), is_int8=True)
    views = [given[name] for name in tensor_shapes(config)]
    is_int8 = word is None and (weights == "int8" or any(view.scale is not None for view in views))
    stored: list[TensorView | LazyTensor] = list(views)
    config_json = config_to_hf(config, labels=labels, prefixes=prefixes)
    if is_int8:
        stored = list(quantized_tensors(config, views, has_exact_head=has_exact_head))
        has_exact = any(tensor.name.endswith(EXACT_SUFFIX) for tensor in stored)
        config_json["quantization_config"] = quantization_config(has_exact_head=has_exact)
    config_json["dtype"] = dtype if word else "float32" if is_int8 else _prevailing_dtype(views)[0]
    generation_json = generation_to_hf(generation or {}, config)
    if overwrite:
        _refuse_foreign_files(path)
    with atomic_folder(path, overwrite=overwrite) as folder:
        _write_weights(folder, _shards(stored, word, max_shard_bytes), word, is_int8=is_int8)
        _write_json(folder / "config.json", config_json)
        if config.has_decoder:
            _write_json(folder / "generation_config.json", generation_json)
        if save_tokenizer is not None:
            save_tokenizer(folder)


def _as_views(tensors: Mapping[str, np.ndarray | TensorView] | Iterable[TensorView]) -> dict[str, TensorView]:
    if isinstance(tensors, Mapping):
        return {
            name: value.renamed(name) if isinstance(value, TensorView) else TensorView.from_array(name, value)
            for name, value in tensors.items()
        }
    views: dict[str, TensorView] = {}
    for view in tensors:
        if view.name in views:
            raise CheckpointError(f"Two tensors are called {shortened(view.name)}.")
        views[view.name] = view
    return views


def _shards(
    views: Sequence[TensorView | LazyTensor], word: str | None, max_shard_bytes: int
) -> list[list[TensorView | LazyTensor]]:
    shards: list[list[TensorView | LazyTensor]] = [[]]
    size = 0
    for view in views:
        view_bytes = view.num_elements * ITEM_BYTES[word or view.dtype]
        if shards[-1] and size + view_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(view)
        size += view_bytes
    return shards


def _write_weights(
    folder: Path, shards: Sequence[Sequence[TensorView | LazyTensor]], word: str | None, *, is_int8: bool
) -> None:
    single, format_word = (INT8_FILE, QUANT_METHOD) if is_int8 else (_SINGLE, "pt")
    if len(shards) == 1:
        write_safetensors(folder / single, shards[0], dtype=word, format_word=format_word)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{Path(single).stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard, dtype=word, format_word=format_word)
        weight_map.update({view.name: name for view in shard})
    total = sum(view.num_elements * ITEM_BYTES[word or view.dtype] for shard in shards for view in shard)
    _write_json(folder / f"{single}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _refuse_foreign_files(path: Path) -> None:
    if not path.is_dir():
        return
    foreign = sorted(
        entry.name
        for entry in path.iterdir()
        if not (_MODEL_SUBFOLDER if entry.is_dir() else _MODEL_FILE).fullmatch(entry.name)
    )
    if foreign:
        raise CheckpointError(
            f"{path} is not overwritten, because it holds more than a model: {', '.join(foreign[:5])}. Move these "
            "away, or choose another folder."
        )

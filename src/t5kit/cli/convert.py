"""`t5kit convert`: any readable model folder into t5kit's home layout, which transformers reads too."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t5kit.cli import options
from t5kit.errors import RequestError, TokenizerError

if TYPE_CHECKING:
    from t5kit.checkpoint import CheckpointFolder

DTYPES = ("as_is", "float32", "bfloat16", "float16")
WEIGHTS = ("as_is", "int8")
DEFAULT_MAX_SHARD_GB = 5.0


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A model folder, a Hub id, an adapter's folder, or one with an ONNX encoder and decoder.",
            show_default=False,
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    dtype: Annotated[str, typer.Option(help="as_is, float32, bfloat16 or float16.")] = "as_is",
    weights: Annotated[str, typer.Option(help="as_is, or int8: a quantised folder, which only t5kit reads.")] = "as_is",
    exact_head: Annotated[
        bool, typer.Option(help="With int8: keep the output head in bfloat16 too, for exact scores.")
    ] = True,
    max_shard_size: Annotated[
        float | None,
        typer.Option(help="Gigabytes (10^9 bytes) a file at most.", min=0.001, show_default=f"{DEFAULT_MAX_SHARD_GB}"),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="A LoRA adapter (peft's format) to merge into the weights.", show_default=False)
    ] = None,
    overwrite: options.OverwriteOption = False,
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Read SOURCE, check every tensor, and write it as a Hugging Face folder (safetensors) with its tokenizer.

    With --weights int8 the folder takes some 40 % of float32's bytes and the native engine takes it as it is; other
    tools refuse it.

    An adapter's folder is merged into the model that it names; --adapter merges one into SOURCE.
    Also turns .bin checkpoints into safetensors, resolves missing and doubled tensors, writes the tied and scaled flags
    unambiguously, and imports quantised ONNX exports (extra "onnx"). A folder that holds both is read as safetensors.
    """
    from t5kit.checkpoint import import_onnx, open_folder, resolve, write_folder
    from t5kit.checkpoint.adapters import base_of, is_adapter_folder
    from t5kit.checkpoint.sentence_modules import copy_sentence_modules

    if weights not in WEIGHTS:
        raise RequestError(f"--weights {weights!r} must be one of: {', '.join(WEIGHTS)}.")
    if weights == "int8" and dtype != "as_is":
        raise RequestError(f"--weights int8 has its own dtypes; drop --dtype {dtype}.")
    if not exact_head and weights != "int8":
        raise RequestError("--no-exact-head is for --weights int8.")
    if dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype!r} must be one of: {', '.join(DTYPES)}.")
    max_shard_bytes = (DEFAULT_MAX_SHARD_GB if max_shard_size is None else max_shard_size) * 1e9
    if not math.isfinite(max_shard_bytes):
        raise RequestError(f"--max-shard-size {max_shard_size} must be a finite number of gigabytes.")
    folder_path = resolve(source, revision=revision, offline=offline or None)
    if adapter is None and is_adapter_folder(folder_path):
        adapter, folder_path = folder_path, resolve(base_of(folder_path), offline=offline or None)
    if adapter is not None and _is_onnx_export(folder_path):
        raise RequestError("An adapter is merged into a model folder; import the ONNX folder first.")
    if _is_onnx_export(folder_path):
        if dtype not in ("as_is", "float32"):
            raise RequestError(f"An ONNX import gives float32; convert its result once more for --dtype {dtype}.")
        if weights == "int8":
            raise RequestError("An ONNX import gives float32; convert its result once more for --weights int8.")
        if max_shard_size is not None:
            raise RequestError("An ONNX import takes no --max-shard-size; convert its result once more for that.")
        if (revision is not None or offline) and Path(source).is_dir():
            raise RequestError("--revision and --offline are for Hub ids; an ONNX folder takes neither.")
        import_onnx(folder_path, target, overwrite=overwrite)
    else:
        folder = open_folder(folder_path)
        save_tokenizer = _tokenizer_writer(folder_path)

        def save_beside_weights(unfinished: Path) -> None:
            if save_tokenizer is not None:
                save_tokenizer(unfinished)
            copy_sentence_modules(folder_path, unfinished, folder.config.d_model)

        if adapter is not None:
            folder = _merged(folder, adapter)
        write_folder(
            target, folder.config, folder.tensors(), dtype=dtype, weights=weights,
            has_exact_head=exact_head, generation=folder.generation,
            labels=folder.labels or None, prefixes=folder.prefixes, max_shard_bytes=int(max_shard_bytes),
            save_tokenizer=save_beside_weights, overwrite=overwrite,
        )  # fmt: skip
    written = open_folder(target)  # read back: what was written is whole
    print(f"t5kit: wrote {target} ({written.config.num_parameters:,} parameters, {written.dtype}).", file=sys.stderr)


def _merged(folder: "CheckpointFolder", adapter: Path) -> "CheckpointFolder":
    """Return the folder with an adapter's additions in its weights."""
    from t5kit.checkpoint.adapters import SoftPrompt, merged_tensors

    adapter = adapter.expanduser()
    opened = folder.adapter(adapter)
    if isinstance(opened, SoftPrompt):
        raise RequestError(f"{adapter} is a prompt of vectors, which cannot become part of the weights.")
    return folder.with_defaults_of(adapter).with_tensors(merged_tensors(folder.tensors(), opened))


def _is_onnx_export(folder: Path) -> bool:
    """Return whether the weights in `folder` are those of its ONNX graphs."""
    is_home_layout = (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
    return not is_home_layout and any(folder.glob("encoder*.onnx"))


def _tokenizer_writer(folder: Path) -> Callable[[Path], None] | None:
    """Return what writes the vocabulary in `folder` to another, or None (and say so) if it has none.

    Raises: TokenizerError for a vocabulary that is there but broken.
    """
    from t5kit.text import load_tokenizer
    from t5kit.text.json_tokenizer import JSON_NAME
    from t5kit.text.loading import MODEL_NAMES
    from t5kit.text.tokenizer_config import read_tokenizer_config

    try:
        return load_tokenizer(folder).save
    except TokenizerError as error:
        if any(os.path.lexists(folder / name) for name in (*MODEL_NAMES, JSON_NAME)):
            raise
        read_tokenizer_config(folder)  # raises if this is what is broken
        print(f"t5kit: the folder gets no tokenizer: {error}", file=sys.stderr)
        return None

"""`t5kit convert`: any readable model folder into t5kit's home layout, which transformers reads too."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from t5kit.cli import options
from t5kit.errors import CheckpointError, TokenizerError


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A model folder, a Hub id, or a folder with an ONNX encoder and decoder.", show_default=False
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    dtype: Annotated[str, typer.Option(help="as_is, float32, bfloat16 or float16.")] = "as_is",
    max_shard_size: Annotated[float, typer.Option(help="Gigabytes (10^9 bytes) a file at most.", min=0.001)] = 5.0,
    overwrite: options.OverwriteOption = False,
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Read SOURCE, check every tensor, and write it as a Hugging Face folder (safetensors) with its tokenizer.

    Also turns .bin checkpoints into safetensors, resolves missing and doubled tensors, writes the tied and scaled flags
    unambiguously, and imports quantised ONNX exports (extra "onnx").
    """
    from t5kit.checkpoint import import_onnx, open_folder, resolve, write_folder
    from t5kit.text import load_tokenizer

    path = Path(source)
    if path.is_dir() and any(path.glob("encoder*.onnx")):
        if dtype not in ("as_is", "float32"):
            raise CheckpointError(f"An ONNX import gives float32; convert its result once more for --dtype {dtype}.")
        import_onnx(path, target, overwrite=overwrite)
    else:
        folder_path = resolve(source, revision=revision, offline=offline or None)
        folder = open_folder(folder_path)
        try:
            save_tokenizer = load_tokenizer(folder_path).save
        except TokenizerError as error:
            save_tokenizer = None
            print(f"t5kit: the folder gets no tokenizer: {error}", file=sys.stderr)
        write_folder(
            target, folder.config, folder.tensors(), dtype=dtype, generation=folder.generation,
            labels=folder.labels or None, max_shard_bytes=int(max_shard_size * 10**9),
            save_tokenizer=save_tokenizer, overwrite=overwrite,
        )  # fmt: skip
    written = open_folder(target)  # read back: what was written is whole
    print(f"t5kit: wrote {target} ({written.config.num_parameters:,} parameters, {written.dtype}).", file=sys.stderr)

"""All of a model that can be read without its weights: enough to know what may be asked of it."""

import dataclasses
from pathlib import Path

from t5kit.api.prompting import check_tokenizer
from t5kit.checkpoint import CheckpointFolder, open_folder, resolve
from t5kit.checkpoint.adapters import base_of, is_adapter_folder
from t5kit.errors import RequestError
from t5kit.text import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ModelFiles:
    """A model folder with its tokenizer, opened and checked."""

    folder: CheckpointFolder
    tokenizer: Tokenizer
    adapter_path: Path | None
    """The folder that was named, where that is an adapter's; `folder` is its model's then, with its defaults."""


def open_model_files(
    name: str | Path, *, revision: str | None = None, offline: bool | None = None, cache_dir: Path | None = None
) -> ModelFiles:
    """Open a model folder, a Hugging Face Hub id (fetched once), or an adapter's folder with the model it is for.

    Warns (UserWarning) of each generation default of the folder that is ignored.
    Raises: ModelNotFoundError, CheckpointError, TokenizerError; RequestError for the revision of a folder.
    """
    if revision is not None and Path(name).expanduser().is_dir():
        raise RequestError(f"revision = {revision!r} is for Hub ids, and {str(name)!r} is a folder here. Drop it.")
    path = resolve(str(name), revision=revision, offline=offline, cache_dir=cache_dir)
    adapter_path: Path | None = None
    if is_adapter_folder(path):
        adapter_path, path = path, resolve(base_of(path), offline=offline, cache_dir=cache_dir)
    folder = open_folder(path)
    if adapter_path is not None:
        folder = folder.with_defaults_of(adapter_path)
    tokenizer = load_tokenizer(path)
    check_tokenizer(tokenizer, folder)
    return ModelFiles(folder, tokenizer, adapter_path)

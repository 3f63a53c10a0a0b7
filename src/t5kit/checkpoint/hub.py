"""A model's name -> the folder it lies in: a path stays itself, a Hub id is fetched into the Hugging Face cache.

Fetching, caching, tokens, HF_ENDPOINT, HF_HUB_OFFLINE and HF_HUB_CACHE are huggingface_hub's; here it is decided which
files are wanted and what each failure means to the user.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import huggingface_hub
from huggingface_hub import constants

from t5kit.checkpoint.quantized import INT8_FILE
from t5kit.checkpoint.sentence_modules import MODULES_FILE
from t5kit.checkpoint.source_files import locate, read_json, shortened
from t5kit.errors import CheckpointError, ModelNotFoundError

# Speed: huggingface_hub loads its parts when they are used. Its errors bring an HTTP client (0.3 s), so they are
# imported where the Hub is asked: opening a folder does not wait for them.

BUILT_IN: Final = "mini"
"""Name of the model that t5kit itself carries."""
_BUILT_IN_FOLDER: Final = Path(__file__).absolute().parents[1] / BUILT_IN
_SMALL_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_WEIGHT_FILES: Final = ("model.safetensors", INT8_FILE, "pytorch_model.bin")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MODULE_FILE = re.compile(
    r"(?P<folder>[0-9]{1,2}_[A-Za-z]+)/(?P<name>config\.json|model\.safetensors|pytorch_model\.bin)"
)
_PATH_LIKE = re.compile(r"[.~/\\].*|.*[/\\]|[A-Za-z]:.*|.*\\.*|(?:[^/]*/){2,}.*", re.DOTALL)
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.|\.git$))(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)?[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_TIMEOUT_S: Final = 30.0
_MAX_INDEX_BYTES: Final = 100_000_000


def resolve(
    name: str, *, revision: str | None = None, offline: bool | None = None, cache_dir: Path | None = None
) -> Path:
    """Return the folder of the model `name`: "mini", a folder's path, or a Hub id such as "google/flan-t5-small".

    "mini" is the built-in model, whatever folders there are (./mini is a folder of yours). Else an existing folder
    comes first, then the Hub's newest commit of `revision` (a branch, tag or commit; default main).
    If the Hub cannot be reached, what the cache holds is used with a warning. `offline` True never asks the Hub; None
    goes by HF_HUB_OFFLINE. `cache_dir` replaces the usual Hugging Face cache.
    Raises: ModelNotFoundError saying whether the name is malformed, unknown, gated, of no such revision, not cached or
    unreachable.
    """
    if name == BUILT_IN:
        if revision is not None:
            raise ModelNotFoundError(
                f"The built-in model has no revision {shortened(revision)}: drop it, or say ./mini."
            )
        return built_in_folder()
    folder = _as_folder(name)
    if folder is not None:
        return folder
    if len(name) > 96 or not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"{shortened(name)} is neither a folder nor a possible Hub id (NAME or OWNER/NAME, of letters, digits, "
            "- _ and ., at most 96 characters)."
        )
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ModelNotFoundError(f"{shortened(revision)} is no possible revision: give a branch, a tag or a commit.")
    is_offline = constants.HF_HUB_OFFLINE if offline is None else offline
    if is_offline:
        cached = _cached(name, revision, cache_dir)
        if cached is None:
            raise ModelNotFoundError(
                f"{_described(name, revision)} is not in the Hugging Face cache, or not whole, and offline mode "
                "forbids to fetch it. Fetch it once with a connection, or give a folder."
            )
        return cached
    return _fetched(name, revision, cache_dir)


def built_in_folder() -> Path:
    """Return the folder of the built-in model. Raises: ModelNotFoundError for an installation without its files."""
    if not (_BUILT_IN_FOLDER / INT8_FILE).is_file():
        raise ModelNotFoundError(
            f"This installation of t5kit lacks the built-in model: there is no {_BUILT_IN_FOLDER / INT8_FILE}. Install "
            f"t5kit again, or give a Hugging Face Hub id, such as google/flan-t5-small, or a folder (./{BUILT_IN} for "
            "one of this name)."
        )
    return _BUILT_IN_FOLDER


def _as_folder(name: str) -> Path | None:
    if not name:
        raise ModelNotFoundError("The model's name is empty. Give a folder or a Hub id of the form OWNER/NAME.")
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        is_file = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, no permission, no such home
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelNotFoundError(f"{shortened(name)} cannot be opened as a folder: {reason}.") from error
    if is_file:
        raise ModelNotFoundError(f"{name} is a file; give the model folder it lies in.")
    if _PATH_LIKE.fullmatch(name):
        raise ModelNotFoundError(f"There is no folder {shortened(name)}. (A Hub id has the form OWNER/NAME.)")
    return None


def _fetched(name: str, revision: str | None, cache_dir: Path | None) -> Path:
    from huggingface_hub import errors

    try:
        # Speed: where nobody answers, model_info fails at once; list_repo_files retries for 24 s (huggingface_hub 2.4).
        info = huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_TIMEOUT_S)
        files = wanted_files(name, [sibling.rfilename for sibling in info.siblings or ()])
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=files)
        )
    except CheckpointError:
        raise
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"{name} on the Hub is gated: its owner asks you to accept terms first. Do that on its page, then log in "
            "(`hf auth login`, or HF_TOKEN)."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"There is no folder {name}, and the Hub shows no model of this name. Check the spelling; if the model is "
            "private, log in first (`hf auth login`, or HF_TOKEN)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"{name} on the Hub has no revision {revision!r}. See the branches on its page."
        ) from error
    except (
        Exception
    ) as error:  # the library passes on what its HTTP client raises, whose classes changed with its versions
        cached = _cached(name, revision, cache_dir)
        if cached is None:
            raise ModelNotFoundError(
                f"{_described(name, revision)} could not be fetched from {constants.ENDPOINT} and is not cached "
                f"({_reason(error)}). {_advice(error)}, or give a folder."
            ) from error
        warnings.warn(
            f"{constants.ENDPOINT} cannot be used ({_reason(error)}); using {name} from {cached}.", stacklevel=3
        )
        return cached


def wanted_files(name: str, files: Sequence[str]) -> list[str]:
    """Return which of a repository's files make the model: config, vocabulary, and safetensors or else .bin weights.

    Raises: ModelNotFoundError if there is no config.json or no weights that t5kit reads.
    """
    plain = [file for file in files if _PLAIN_NAME.fullmatch(file)]  # of the top folder: others hold other formats
    wanted = [file for file in plain if file in _SMALL_FILES or file.endswith(".model")]
    if MODULES_FILE in plain:
        wanted += [MODULES_FILE, *_module_files(files)]
    if "config.json" not in wanted:
        raise ModelNotFoundError(f"{name} on the Hub has no config.json, so it is no model in the Hugging Face layout.")
    for single in _WEIGHT_FILES:
        ending = Path(single).suffix
        if single in plain:
            return [*wanted, single]
        index = f"{single}.index.json"
        if index in plain:
            shards = [file for file in plain if file.endswith(ending) and re.search(r"-of-\d+", file)]
            return [*wanted, index, *shards]
    others = ", ".join(file for file in plain if file not in wanted)
    raise ModelNotFoundError(
        f"{name} on the Hub has no weights that t5kit reads (safetensors or .bin); it has: {others}."
    )


def _module_files(files: Sequence[str]) -> list[str]:
    """Return the files of a sentence-T5's modules: in folders such as 1_Pooling, safetensors or else .bin."""
    found = [match for file in files if (match := _MODULE_FILE.fullmatch(file))]
    has_safetensors = {match["folder"] for match in found if match["name"] == "model.safetensors"}
    return [
        match[0] for match in found if match["name"] != "pytorch_model.bin" or match["folder"] not in has_safetensors
    ]


def _cached(name: str, revision: str | None, cache_dir: Path | None) -> Path | None:
    """Return the cached folder if everything that `open_folder` needs is in it."""
    from huggingface_hub import errors

    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, cache_dir=cache_dir, local_files_only=True, allow_patterns=["config.json"]
            )
        )
    except errors.LocalEntryNotFoundError:
        return None
    names = {entry.name for entry in folder.iterdir()}
    if "config.json" not in names:
        return None
    for single in _WEIGHT_FILES:
        if single in names:
            return folder
        if f"{single}.index.json" in names:
            weight_map = read_json(locate(folder, f"{single}.index.json"), limit_bytes=_MAX_INDEX_BYTES).get(
                "weight_map"
            )
            shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
            return folder if shards and all(shard in names for shard in shards if isinstance(shard, str)) else None
    return None


def _advice(error: Exception) -> str:
    status = getattr(getattr(_first_cause(error), "response", None), "status_code", None)
    return "Log in (`hf auth login`, or HF_TOKEN)" if status in (401, 403) else "Check the connection"


def _described(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name} at revision {revision}"


def _first_cause(error: BaseException) -> BaseException:
    """Return what happened, under the words that huggingface_hub wraps around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: Exception) -> str:
    cause = _first_cause(error)
    first_line = str(cause).strip().split("\n")[0]
    return f"{type(cause).__name__}: {first_line}" if first_line else type(cause).__name__


def id_of(folder: Path) -> str | None:
    """Return the name that `resolve` turns into this folder on any machine; None for folders without one.

    It is "mini", or the Hub id of a folder in the Hub's cache (models--OWNER--NAME/snapshots/COMMIT).
    """
    if folder.absolute() == _BUILT_IN_FOLDER:
        return BUILT_IN
    parent = folder.absolute().parent
    if parent.name != "snapshots" or not parent.parent.name.startswith("models--"):
        return None
    return parent.parent.name.removeprefix("models--").replace("--", "/", 1)

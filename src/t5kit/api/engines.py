"""Which runtime runs a folder: the words engine= and weights= made true or refused."""

import importlib.util
from typing import Literal, get_args

from t5kit.checkpoint.folder import CheckpointFolder
from t5kit.errors import DependencyError, EngineError, RequestError
from t5kit.runtime import ReferenceRuntime, Runtime

Engine = Literal["auto", "torch", "reference"]
Weights = Literal["auto", "float32", "bfloat16", "float16"]


def open_runtime(
    folder: CheckpointFolder,
    *,
    engine: Engine = "auto",
    weights: Weights = "auto",
    threads: int | None = None,
    device: str = "auto",
) -> Runtime:
    """Return a runtime over the folder's weights.

    engine: "auto" is torch where PyTorch is installed, otherwise the NumPy reference. weights: "auto" is the folder's
    own dtype on torch, float32 on the reference. threads: processor threads, None for the library's choice. device: for
    torch. Raises: RequestError for words that do not fit together, DependencyError if torch is asked for and missing.
    """
    if engine not in get_args(Engine):
        raise RequestError(f"engine = {engine!r} must be one of: {', '.join(get_args(Engine))}.")
    if weights not in get_args(Weights):
        raise RequestError(f"weights = {weights!r} must be one of: {', '.join(get_args(Weights))}.")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise RequestError(f"threads = {threads!r} must be a positive integer, or None for the library's choice.")
    has_torch = importlib.util.find_spec("torch") is not None
    if engine == "auto":
        engine = "torch" if has_torch else "reference"
    if engine == "reference":
        if weights not in ("auto", "float32"):
            raise RequestError(f"The reference engine computes in float32; weights = {weights!r} needs engine='torch'.")
        if threads is not None:
            raise RequestError(
                "The reference engine leaves threads to NumPy; set OMP_NUM_THREADS, or use engine='torch'."
            )
        return ReferenceRuntime(folder.config, folder.tensors())
    if not has_torch:
        raise DependencyError.for_extra("torch", "torch", "engine='torch'")
    try:
        from t5kit.runtime.torch_runtime import TorchRuntime
    except (ImportError, OSError) as error:  # a broken PyTorch raises OSError for a missing shared library
        raise EngineError(
            f"PyTorch is installed but cannot be loaded ({error}). Reinstall it, or use engine='reference'."
        ) from error
    return TorchRuntime(folder.config, folder.tensors(), weights=weights, device=device, threads=threads)

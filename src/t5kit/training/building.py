"""What a run computes with: its device, and its model in float32 with the weights it begins from."""

import contextlib
from collections.abc import Iterable, Iterator

import torch

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import ConfigError
from t5kit.model.loading import fresh_model, load_model
from t5kit.model.t5 import T5
from t5kit.training.config import ComputeConfig


@contextlib.contextmanager
def own_threads() -> Iterator[None]:
    """Leave PyTorch's number of threads as it was before the block: a run's is its own, not the program's."""
    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def prepare_device(config: ComputeConfig) -> torch.device:
    """Set the number of threads (within `own_threads`), and return where the model is to be.

    Raises: ConfigError for a device that is not here.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    num_gpus = torch.cuda.device_count()
    word = config.device
    if word == "auto":
        word = "cuda" if num_gpus else "cpu"
    device = torch.device(word)
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        found = f"{num_gpus} CUDA device(s), counted from 0" if num_gpus else "no CUDA device"
        raise ConfigError(f"compute.device = {word!r}, but this PyTorch sees {found}. Use cpu, or auto.")
    return device


def make_model(
    architecture: T5Config,
    tensors: Iterable[TensorView] | None,
    *,
    compute: ComputeConfig,
    seed: int,
    device: torch.device,
) -> T5:
    """Return a model in float32 with these weights, or with fresh ones drawn by the seed where there are none.

    Raises: ConfigError for an architecture that writes no text; what load_model raises.
    """
    if tensors is None:
        model = fresh_model(
            architecture,
            generator=torch.Generator().manual_seed(seed),
            device=device,
            dropout_broadcast=compute.dropout_broadcast,
        )
    else:
        model = load_model(architecture, tensors, device=device, dropout_broadcast=compute.dropout_broadcast)
    if not isinstance(model, T5):
        raise ConfigError(f"the model has the head {architecture.head.value!r}; training needs language_model.")
    return model.train()

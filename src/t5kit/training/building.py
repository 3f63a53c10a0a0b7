"""What a run computes with: its device, and its model in float32 with the weights it begins from."""

from collections.abc import Iterable

import torch

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import ConfigError
from t5kit.model.loading import fresh_model, load_model
from t5kit.model.t5 import T5
from t5kit.training.config import ComputeConfig


def prepare_device(config: ComputeConfig) -> torch.device:
    """Set the number of threads, and return where the model is to be.

    Raises: ConfigError for a device that is none, or is not here.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    word = config.device
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(word)
    except RuntimeError as error:
        raise ConfigError(f"compute.device = {word!r} must be auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"compute.device = {word!r}, but this PyTorch sees no CUDA device. Use cpu, or auto.")
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

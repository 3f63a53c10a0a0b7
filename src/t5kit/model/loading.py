"""Models with weights: freshly drawn, or from a checkpoint's tensors, and back to tensors.

Models are built on the meta device first, where they weigh nothing, so that no memory is filled twice and nothing is
drawn that is overwritten.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from t5kit.checkpoint.folder import check_tensor_shapes
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import Head, T5Config, tensor_shapes
from t5kit.errors import CheckpointError
from t5kit.model.dropout import DropoutBroadcast
from t5kit.model.heads import SequenceClassifier, TokenClassifier
from t5kit.model.init import distribution_of, draw
from t5kit.model.t5 import T5, T5Encoder

T5Model = T5Encoder | SequenceClassifier | TokenClassifier
"""Any model: a `T5` (which is a T5Encoder too), an encoder alone, or a classifier; `model.config.head` says which."""

_TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_WORDS = {dtype: word for word, dtype in _TORCH_DTYPES.items()}


def build_model(config: T5Config, *, dropout_broadcast: DropoutBroadcast = "none") -> T5Model:
    """Return the class that `config.head` asks for, constructed on PyTorch's current default device.

    Its weights are PyTorch's defaults (or nothing, under `torch.device("meta")`): see `fresh_model` and `load_model`.
    """
    classes: dict[Head, Callable[..., T5Model]] = {
        Head.LANGUAGE_MODEL: T5,
        Head.ENCODER: T5Encoder,
        Head.SEQUENCE_CLASSIFICATION: SequenceClassifier,
        Head.TOKEN_CLASSIFICATION: TokenClassifier,
    }
    return classes[config.head](config, dropout_broadcast=dropout_broadcast)


def fresh_model(
    config: T5Config,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    dropout_broadcast: DropoutBroadcast = "none",
) -> T5Model:
    """Return a model to train from scratch, in training mode, initialised as T5 is (init.py).

    Numbers are drawn in float32 on the generator's device, tensor by tensor in the order of `tensor_shapes`, so a seed
    gives the same model whatever dtype and device it is for.
    """
    model = _meta_model(config, dropout_broadcast)
    for name, shape in tensor_shapes(config).items():
        values = draw(torch.Size(shape), distribution_of(name, config), generator)
        _assign(model, name, values.to(device=device, dtype=dtype))
    return model.to(device)


def load_model(
    config: T5Config,
    tensors: Iterable[TensorView],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    dropout_broadcast: DropoutBroadcast = "none",
) -> T5Model:
    """Return a model with these weights, copied into memory of its own, in inference mode (`.train()` to train).

    tensors: every tensor of `tensor_shapes(config)` in any order, F32, BF16, F16, F64 or int8 with its scales, one read
    at a time: the peak is the model and one tensor. dtype: that of all parameters; float16 does not overflow (t5.py,
    feed_forward.py).
    Raises: CheckpointError listing the tensors that are missing, unknown, doubled or misshapen, or of another dtype,
    or beyond the range of float16.
    """
    model = _meta_model(config, dropout_broadcast)
    expected, found = tensor_shapes(config), {}
    for view in tensors:
        if view.name in found:
            raise CheckpointError(f"The tensor {view.name!r} comes twice.")
        found[view.name] = tuple(view.shape)
        if expected.get(view.name) == view.shape:
            _assign(model, view.name, _to_torch(view, dtype).to(device))
    check_tensor_shapes(config, found)
    return model.to(device).eval()


def export_tensors(model: T5Model) -> Iterator[TensorView]:
    """Yield every tensor of the model, as a folder holds it, in the order of `tensor_shapes` and the model's dtype.

    Views of a CPU model's own memory, not copied: write them before training goes on.
    Raises: CheckpointError if a parameter's dtype is none that folders hold.
    """
    state = model.state_dict()
    for name, shape in tensor_shapes(model.config).items():
        tensor = state[name].detach().cpu().contiguous()
        if tensor.dtype not in _WORDS:
            raise CheckpointError(f"The parameter {name!r} is {tensor.dtype}, which is no dtype of a model folder.")
        data = memoryview(tensor.flatten().view(torch.uint8).numpy())
        yield TensorView(name=name, dtype=_WORDS[tensor.dtype], shape=shape, data=data)


def _meta_model(config: T5Config, dropout_broadcast: DropoutBroadcast) -> T5Model:
    with torch.device("meta"):
        return build_model(config, dropout_broadcast=dropout_broadcast)


def _assign(model: nn.Module, name: str, values: Tensor) -> None:
    """Put values in the place of the parameter called `name`."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(values))


def _to_torch(view: TensorView, dtype: torch.dtype) -> Tensor:
    """Return the view's values as a new CPU tensor; an int8 matrix with scales becomes what it stands for."""
    if view.scale is not None:
        view = view.converted("F32")
    if view.dtype not in _TORCH_DTYPES:
        raise CheckpointError(f"Tensor {view.name!r} is {view.dtype}; weights are: {', '.join(_TORCH_DTYPES)}.")
    stored = torch.empty(math.prod(view.shape), dtype=_TORCH_DTYPES[view.dtype])
    stored.view(torch.uint8).numpy()[:] = np.frombuffer(view.data, np.uint8)
    values = stored.view(view.shape).to(dtype)
    if dtype == torch.float16 and not values.isfinite().all() and stored.isfinite().all():
        largest = float(stored.abs().max())
        raise CheckpointError(
            f"Tensor {view.name!r} holds {largest:g}, which is beyond the range of float16. Load it as bfloat16."
        )
    return values

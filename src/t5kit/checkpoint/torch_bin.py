"""pytorch_model.bin -> tensor views. The only module of the checkpoint stage that imports torch.

torch unpickles with `weights_only=True`, which builds tensors and plain containers and nothing else.
"""

import os
from pathlib import Path

import torch

from t5kit.checkpoint.source_files import open_for_reading, shortened
from t5kit.checkpoint.tensors import TensorView
from t5kit.errors import CheckpointError

_WORDS = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


def read_torch_bin(path: Path) -> dict[str, TensorView]:
    """Return stored name -> view of every tensor in a torch file, memory-mapped where its format allows.

    Raises: CheckpointError if it is broken, holds anything but plain named tensors, or a tensor claims more values than
    the file has bytes for.
    """
    state = _load(path)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path} holds a {type(state).__name__}; expected named tensors (a state dict).")
    views = {}
    # A stride of 0 makes one stored value look like billions; making such tensors contiguous would allocate them.
    copies_left_bytes = path.stat().st_size
    for name, value in state.items():
        tensor = _checked_tensor(path, name, value)
        if not tensor.is_contiguous():
            copies_left_bytes -= tensor.numel() * tensor.element_size()
            if copies_left_bytes < 0:
                raise CheckpointError(
                    f"{path}: {shortened(name)} {list(tensor.shape)} claims more bytes than the file has."
                )
        views[name] = _view(name, tensor)
    return views


def _load(path: Path) -> object:
    with os.fdopen(open_for_reading(path), "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # files of torch before 1.6 are bare pickles, which cannot be mapped
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except MemoryError:
        raise
    except Exception as error:  # a hostile pickle may raise anything; every kind means the same to the user
        raise CheckpointError(
            f"{path} is no readable torch file of weights: {shortened(str(error), 300)}. Fetch it again, or convert it "
            "to safetensors where it was made."
        ) from error


def _checked_tensor(path: Path, name: str, value: object) -> torch.Tensor:
    where = f"{path}: {shortened(name)}"
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(f"{where} is a {type(value).__name__}, no tensor.")
    if value.layout is not torch.strided or value.device.type != "cpu" or value.dtype not in _WORDS:
        kind = f"{value.dtype}, {value.layout}, {value.device}"
        raise CheckpointError(f"{where} is a special tensor ({kind}); expected plain weights.")
    return value.detach().resolve_neg()


def _view(name: str, tensor: torch.Tensor) -> TensorView:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    data = flat.numpy().data if flat.numel() else memoryview(b"")
    return TensorView(name=name, dtype=_WORDS[tensor.dtype], shape=tuple(tensor.shape), data=data)

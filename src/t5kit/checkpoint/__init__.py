"""Model folders that are whole or absent: opened, written, found on the Hub, imported, inspected."""

from t5kit.checkpoint.atomic import atomic_folder
from t5kit.checkpoint.folder import CheckpointFolder, check_tensor_shapes, open_folder, write_folder
from t5kit.checkpoint.hf_config import Inference
from t5kit.checkpoint.hub import resolve
from t5kit.checkpoint.inspection import FolderDescription, describe
from t5kit.checkpoint.onnx_import import import_onnx
from t5kit.checkpoint.tensors import TensorView

__all__ = [
    "CheckpointFolder",
    "FolderDescription",
    "Inference",
    "TensorView",
    "atomic_folder",
    "check_tensor_shapes",
    "describe",
    "import_onnx",
    "open_folder",
    "resolve",
    "write_folder",
]

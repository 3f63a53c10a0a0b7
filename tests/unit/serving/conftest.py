"""A tiny model that is served, with an adapter."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import t5kit
from t5kit.checkpoint import open_folder
from t5kit.checkpoint.adapters import linear_map_shapes
from t5kit.serving.config import ModelSource
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.server_process import ServerProcess


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="session")
def model(folder: Path) -> Iterator[t5kit.Model]:
    """The model by itself: what its server must answer."""
    with t5kit.Model.from_pretrained(folder, weights="float32", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def source(folder: Path) -> ModelSource:
    return ModelSource(name="tiny", path=folder, weights="float32", threads=1)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A folder as peft writes it, adapting the decoder's queries."""
    config = open_folder(folder).config
    path = tmp_path_factory.mktemp("served") / "adapter"
    path.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["q"]}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    generator = np.random.Generator(np.random.Philox(1))
    tensors = {}
    for name, (outputs, inputs) in linear_map_shapes(config).items():
        if name.endswith(".q"):
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = generator.standard_normal((2, inputs)).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = generator.standard_normal((outputs, 2)).astype(np.float32)
    save_file(tensors, path / "adapter_model.safetensors")
    return path


@pytest.fixture(scope="session")
def server(folder: Path, adapter: Path) -> Iterator[ServerProcess]:
    """A server of two models, one of them with an adapter; for tests that leave it as it is."""
    arguments = ["-m", f"tiny={folder}", "-m", f"other={folder}", "--adapter", f"adapted@tiny={adapter}"]
    with ServerProcess([*arguments, "--weights", "float32", "--threads", "1", "--log-level", "debug"]) as running:
        yield running

"""Small models to write and read."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from t5kit.checkpoint import TensorView, write_folder
from t5kit.checkpoint.safetensors_file import write_safetensors
from t5kit.config import T5Config
from t5kit.testing.tiny import random_tensors

V1_1 = T5Config(
    vocab_size=24, d_model=8, d_kv=4, d_ff=16, num_heads=2, num_encoder_layers=2, num_decoder_layers=1, dropout_rate=0.1
)


@pytest.fixture
def v1_1() -> T5Config:
    """An untied, unscaled, gated model of some two thousand parameters."""
    return V1_1


@pytest.fixture
def v1_0() -> T5Config:
    """A tied, scaled model with a plain feed-forward layer."""
    return dataclasses.replace(V1_1, uses_gated_mlp=False, activation="relu", is_tied=True, scales_logits=True)


@pytest.fixture
def saved(v1_1: T5Config, tmp_path: Path) -> Path:
    """The folder of `v1_1`, as we write it."""
    write_folder(tmp_path / "saved", v1_1, random_tensors(v1_1))
    return tmp_path / "saved"


@pytest.fixture
def edit_config(saved: Path) -> Callable[..., Path]:
    """Change keys of the saved config.json (None removes one) and return the folder."""

    def edit(**changes: object) -> Path:
        path = saved / "config.json"
        raw = json.loads(path.read_text())
        raw.update(changes)
        path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
        return saved

    return edit


@pytest.fixture
def raw_folder(tmp_path: Path) -> Callable[[dict[str, object], dict[str, TensorView]], Path]:
    """Write a folder of any keys and tensors, right or wrong, without t5kit's checks."""

    def write(raw: dict[str, object], tensors: dict[str, TensorView]) -> Path:
        folder = tmp_path / "raw"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(raw))
        write_safetensors(folder / "model.safetensors", [view.renamed(name) for name, view in tensors.items()])
        return folder

    return write

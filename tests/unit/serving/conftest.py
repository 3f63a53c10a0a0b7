"""A tiny model that is served, with an adapter."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import t5kit
from t5kit.serving.config import ModelSource
from t5kit.testing.folders import write_tiny_folder


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

"""One tiny model folder for the tests of the face."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from t5kit import Model
from t5kit.testing.folders import write_tiny_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(tiny_folder: Path) -> Iterator[Model]:
    with Model.from_pretrained(tiny_folder, engine="reference") as model:
        yield model

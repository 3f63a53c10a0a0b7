"""Small models of every family for the tests of this folder."""

import dataclasses
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from t5kit.config import Head, T5Config  # noqa: E402
from t5kit.testing.tiny import TINY_CONFIGS  # noqa: E402

CLASSIFIERS = {
    "sequence_classification": {"head": Head.SEQUENCE_CLASSIFICATION, "num_labels": 3},
    "token_classification": {"head": Head.TOKEN_CLASSIFICATION, "num_labels": 5},
    "encoder": {"head": Head.ENCODER},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and wait for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(TINY_CONFIGS))
def config(request: pytest.FixtureRequest) -> T5Config:
    """A language model of each family."""
    return TINY_CONFIGS[request.param]


@pytest.fixture(params=["language_model", *CLASSIFIERS])
def config_of_each_head(request: pytest.FixtureRequest, config: T5Config) -> T5Config:
    """Every family with every head."""
    return dataclasses.replace(config, **CLASSIFIERS.get(request.param, {}))

"""Tiny models for decoding."""

import pytest

from t5kit.config import T5Config
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.answers import tensors_that_end


@pytest.fixture(scope="session")
def config() -> T5Config:
    return TINY_CONFIGS["t5_v1_1"]


@pytest.fixture(scope="session")
def runtime(config: T5Config) -> Runtime:
    """A model whose answers end, some early, some at the length limit."""
    return ReferenceRuntime(config, tensors_that_end(config))

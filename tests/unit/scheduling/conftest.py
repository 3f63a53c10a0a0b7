"""A tiny model and a count of what it has open."""

import pytest

from t5kit.config import T5Config
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.answers import tensors_that_end
from t5kit.testing.counting_runtime import CountingRuntime


@pytest.fixture(scope="session")
def config() -> T5Config:
    return TINY_CONFIGS["t5_v1_1"]


@pytest.fixture(scope="session")
def reference(config: T5Config) -> Runtime:
    return ReferenceRuntime(config, tensors_that_end(config))


@pytest.fixture
def runtime(reference: Runtime) -> CountingRuntime:
    return CountingRuntime(reference)

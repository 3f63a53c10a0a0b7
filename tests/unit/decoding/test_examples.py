"""The examples in decoding's docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import t5kit.decoding

MODULES = [f"t5kit.decoding.{module.name}" for module in pkgutil.iter_modules(t5kit.decoding.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name)).failed

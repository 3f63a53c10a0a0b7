"""The names that `import t5kit` offers."""

import importlib.metadata

import pytest

import t5kit


def test_every_public_name_can_be_had() -> None:
    assert dir(t5kit) == sorted(t5kit.__all__)
    for name in t5kit.__all__:
        assert getattr(t5kit, name) is not None


def test_version_is_that_of_the_installed_package() -> None:
    assert t5kit.__version__ == importlib.metadata.version("t5kit")


def test_a_misspelt_name_lists_what_there_is() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Missing'; it offers: Model, T5Config"):
        t5kit.Missing  # noqa: B018


def test_errors_are_one_family() -> None:
    errors = [getattr(t5kit, name) for name in t5kit.__all__ if name.endswith("Error")]
    assert len(errors) > 5
    assert all(issubclass(error, t5kit.T5kitError) for error in errors)

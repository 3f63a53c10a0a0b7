"""key.path=value over a recipe."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.config.overrides import apply_overrides, parse_override, read_settings
from t5kit.config.toml_files import to_toml
from t5kit.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a.b=1", ("a", "b"), 1),
        ("a = 1e-3", ("a",), 1e-3),
        ("a=true", ("a",), True),
        ("a='x y'", ("a",), "x y"),
        ("a=google/flan-t5-small", ("a",), "google/flan-t5-small"),
        ("a=/data/x=y", ("a",), "/data/x=y"),
        ("a=", ("a",), ""),
        ("a=2024-01-01", ("a",), "2024-01-01"),
        ("a=1\nb = 2", ("a",), "1\nb = 2"),
        ("a=[1, 2", ("a",), "[1, 2"),
        ('a=["x", "y"]', ("a",), ["x", "y"]),
        ("a={ b = 1 }", ("a",), {"b": 1}),
        ('data.tasks."glue/cola".train=x', ("data", "tasks", "glue/cola", "train"), "x"),
    ],
)
def test_an_override_is_a_path_and_a_toml_value_or_text(text: str, path: tuple[str, ...], value: Any) -> None:
    found = parse_override(text)
    assert found == (path, value) and type(found[1]) is type(value)


@pytest.mark.parametrize("text", ["", "a", "=1", " =1", "a b=1", "a..b=1", "[a]=1", "a.=1"])
def test_what_is_no_override_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"command line: .* is no (override|key path)"):
        parse_override(text)


def test_the_last_override_wins_and_the_values_stay() -> None:
    values = {"a": {"b": 1, "c": [1]}}
    result = apply_overrides(values, ["a.b=2", "a.b=3", "d.e.f=x"])
    assert result == {"a": {"b": 3, "c": [1]}, "d": {"e": {"f": "x"}}}
    result["a"]["c"].append(2)
    assert values == {"a": {"b": 1, "c": [1]}}


def test_below_a_value_nothing_can_be_set() -> None:
    with pytest.raises(ConfigError, match=r"a\.b\.c cannot be set: a\.b is no table"):
        apply_overrides({"a": {"b": 1}}, ["a.b.c=2"])


def test_places_tell_file_and_command_line_apart(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[a]\nb = 1\nc = 2\n", encoding="utf-8")
    settings = read_settings(path, ["a.b=5", "d={ e = 1 }"])
    assert settings.values == {"a": {"b": 5, "c": 2}, "d": {"e": 1}}
    assert settings.place(("a", "b")) == settings.place(("d", "e")) == "command line"
    assert settings.place(("a", "c")) == f"{path}:3"


@given(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(),
        st.text(st.characters(exclude_categories=["Cs"])),
    )
)  # fmt: skip
def test_every_value_can_be_said_on_the_command_line(value: object) -> None:
    text = to_toml({"a": value}).removesuffix("\n")
    assert parse_override(text) == (("a",), value)

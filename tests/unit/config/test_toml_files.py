"""Recipes as files: values, the line of every key, and values written back."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.config.toml_files import load_toml, to_toml
from t5kit.errors import ConfigError

TEXT = """\
# A comment
seed = 1
[training]   # [not.this]
num_steps = 10
text = \"\"\"
[fake]
num_steps = 11
\"\"\"
files = [
  "a",  # seed = 3
  "b",
]
inline = { one = 1, two = { three = 3 } }
dotted.key = 1

[data.tasks."glue/cola"]
train = []
[[many]]
rate = 1
[[many]]
rate = 2
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "r.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("seed",), 2),
        (("training",), 3),
        (("training", "num_steps"), 4),
        (("training", "text"), 5),
        (("training", "files"), 9),
        (("training", "files", "1"), 9),
        (("training", "inline", "two", "three"), 13),
        (("training", "dotted", "key"), 14),
        (("data", "tasks", "glue/cola", "train"), 17),
        (("many",), 18),
    ],
)
def test_every_key_has_its_line(tmp_path: Path, path: tuple[str, ...], line: int) -> None:
    file = load_toml(written(tmp_path, TEXT))
    assert file.place(path) == f"{file.path}:{line}"


def test_what_is_not_there_has_no_line(tmp_path: Path) -> None:
    file = load_toml(written(tmp_path, TEXT))
    assert file.place(("fake",)) == file.place(("training", "nothing")) == ""
    assert file.place(()) == str(file.path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a = 1\na = 2\n", "is not valid TOML"),
        ("a = \n", "line 1"),
        (b"a = '\xff'\n", "is not UTF-8"),
        ("a = " + "[" * 20_000 + "]" * 20_000, "is not valid TOML"),
        ("a = 1\n" + "#" * 1_000_001, "is larger than"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_toml(written(tmp_path, content))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_toml(path)


scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
tables = st.recursive(
    st.one_of(scalars, st.lists(scalars, max_size=3)),
    lambda inner: st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), tables, max_size=4))
def test_written_values_read_back(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(values)) == values

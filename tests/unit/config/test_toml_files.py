"""Recipes as files: values, the line of every key, and values written back."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from t5kit.config.toml_files import _statements, load_toml, to_toml
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


def slowly_split(text: str) -> list[tuple[int, str]]:
    """The slow twin of the scan: ask the parser after every line."""
    statements, pending = [], []
    for number, line in enumerate(text.split("\n"), 1):
        pending.append(line)
        try:
            tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue
        statements.append((number - len(pending) + 1, "\n".join(pending)))
        pending.clear()
    assert not pending
    return statements


punctuation = st.text("\"'[]{}#=\\\n,a \u2028", max_size=12)


@given(
    st.dictionaries(
        punctuation, st.one_of(punctuation, st.lists(st.one_of(punctuation, st.lists(punctuation)))), max_size=4
    ),
    st.lists(st.one_of(punctuation, st.dictionaries(punctuation, punctuation, max_size=2)), max_size=3),
)
def test_brackets_and_quotes_alone_show_where_statements_end(values: dict[str, Any], more: list[Any]) -> None:
    text = tomli_w.dumps({**values, "many": {"members": more, **values}}, multiline_strings=True)
    assert list(_statements(text)) == slowly_split(text)


@pytest.mark.parametrize(
    "value",
    [
        "\"\"\"one\"\"\"", "\"\"\"\\\n  a \\\"\"\" [\n\"\"\"\"\"", "'''\n]''''", "''", "\"\"", "\"\\\\\"",
        "[ # ]\n '[', \"]\\\"]\",\n]", "{ a = [\n1,\n], b = '}' }", "1979-05-27 07:32:00Z # '''",
    ],
)  # fmt: skip
def test_the_line_after_any_value_is_known(tmp_path: Path, value: str) -> None:
    file = load_toml(written(tmp_path, f"a = {value}\r\nlast = 1\n"))
    assert file.place(("last",)) == f"{file.path}:{value.count(chr(10)) + 2}"


def test_the_scan_asks_the_parser_once_a_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = load_toml(written(tmp_path, "files = [\n" + "  'a',\n" * 20_000 + "]\nseed = 1\n"))
    parsed: list[str] = []
    loads = tomllib.loads

    def counted(text: str) -> dict[str, Any]:
        parsed.append(text)
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    assert file.place(("seed",)) == f"{file.path}:20003"
    assert len(parsed) == 3, "the list, the seed, the empty last line"

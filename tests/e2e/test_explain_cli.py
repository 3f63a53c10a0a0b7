"""`t5kit explain` as a user meets it."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from t5kit import Model
from t5kit.api import explaining
from t5kit.cli import main as cli
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.pages import Page


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]
FAST = ("--tolerance", "0.9", "--max-steps", "16", "--max-new-tokens", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Run:
    def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
        words = ["t5kit", "explain", *map(str, arguments), "--model", str(folder), "--engine", "reference"]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "internal error" not in captured.err
        code = stop.value.code
        return Result(code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err)

    return run


def test_the_answer_is_printed_with_the_words_it_comes_from(run: Run, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    page, picture = tmp_path / "why.html", tmp_path / "why.png"
    pytest.importorskip("matplotlib")
    found = run("two <b>words</b>", "--target", "so it", "--html", page, "--png", picture, *FAST[:4])
    lines = found.out.splitlines()
    assert lines[0] == "so it"
    assert [line.split()[0] for line in lines[2:5]] == ["so", "it", "</s>"]
    assert "<b>words</b> " in lines[2] and "largest error of a token" in lines[-1]
    assert Page(page.read_text(encoding="utf-8")).text_of["h1"] == ["so it"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert found.code == (1 if "Raise --max-steps" in found.err else 0)


def test_json_is_what_python_gives_and_needs_no_torch_for_attention(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining.importlib.util, "find_spec", lambda name: None)
    found = run("-", "--json", "--max-new-tokens", "3", stdin=b"ab c\n")
    assert found.code == 0 and "Attribution was left out: it needs PyTorch" in found.err
    with Model.from_pretrained(folder, engine="reference") as model:
        assert json.loads(found.out) == model.explain("ab c", max_new_tokens=3).to_json()
    plain = run("ab c", "--map", "alignment", "--target", "x")
    assert (plain.code, plain.err) == (0, "")
    assert "Shares of cross-attention" in plain.out


def test_attributions_that_do_not_come_within_the_tolerance_fail_and_say_so(run: Run) -> None:
    pytest.importorskip("torch")
    found = run("ab", "--target", "xy", "--map", "attribution", "--tolerance", "0.000001", "--max-steps", "16")
    assert (found.code, "after 16 steps the attributions are off" in found.err) == (1, True)
    assert found.out.startswith("xy\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing argument"),
        (("a", "--map", "x"), "must be a list of at least one of: attribution"),
        (("a", "--baseline", "x"), "must be one of: pad, unknown, zero"),
        (("a", "--tolerance", "7", "--map", "attribution"), "tolerance = 7.0 must be between 0 and 1"),
        (("a", "--png", "a.svg"), "--png a.svg draws a PNG; give the file a name that ends in .png"),
        (("a", "--draw", "alignment"), "--draw is for the picture of --png"),
        (("a", "--png", "x.png", "--draw", "alignment", "--map", "attribution"), "not among the maps asked for"),
        (("a", "--png", "x.png", "--draw", "y"), "not among the maps asked for: attribution, alignment"),
        (("a", "--html", "none/why.html"), "its folder none does not exist"),
        (("a", "--target", "b", "--num-beams", "2"), "num_beams has no effect on a given target"),
        (("a" * 1100,), "an explanation takes at most 1,024"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(
    run: Run, words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    found = run(*words)
    assert (found.code, found.out, message in found.err) == (2, "", True), found.err
    assert not list(tmp_path.iterdir())


def test_a_piped_text_is_read_whole_and_bad_bytes_are_named(run: Run) -> None:
    found = run("-", "--target", "so", "--map", "alignment", "--json", stdin=b"two\nlines\n")
    assert (found.code, json.loads(found.out)["text"]) == (0, "two\nlines")
    bad = run("-", stdin=b"good\nb\xffd\n")
    assert bad.code == 1 and "<stdin>:2: not UTF-8 (byte 0xff at column 2)" in bad.err

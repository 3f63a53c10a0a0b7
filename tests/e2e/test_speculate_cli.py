"""--speculate and --max-cache-bytes as a user meets them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from t5kit.cli import main as cli
from t5kit.testing.folders import write_tiny_folder

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        words = ["t5kit", "generate", "abcabcabc", "--model", str(folder), "--engine", "reference", *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return (int(stop.value.code or 0), captured.out, captured.err)

    return run


def test_every_word_for_drafts_gives_the_same_answer(run: Run) -> None:
    plain = run("--max-new-tokens", "30")
    assert plain[0] == 0
    for word in ("off", "on", "auto", "AUTO", "0", "3"):
        assert run("--max-new-tokens", "30", "--speculate", word) == plain


@pytest.mark.parametrize("word", ["yes", "-1", "2.5", "65"])
def test_a_wrong_word_is_misuse(run: Run, word: str) -> None:
    code, out, err = run("--speculate", word)
    assert (code, out) == (2, "")
    assert "speculate" in err


def test_an_answer_that_can_outgrow_the_caches_is_refused_in_its_place(run: Run) -> None:
    code, out, err = run("--max-cache-bytes", "50000", "--max-new-tokens", "5000")
    assert (code, out) == (1, "\n")
    assert "max_cache_bytes = 50,000" in err

"""`t5kit convert --weights int8` and what answers from its folder."""

from pathlib import Path

import pytest

from t5kit import Model
from t5kit.cli.main import main
from t5kit.testing.folders import write_tiny_folder


def run(*arguments: str) -> int:
    """Run `t5kit` in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["t5kit", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_an_int8_folder_answers_as_its_float_folder_quantised_at_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("t5kit._native")
    source, target = write_tiny_folder(tmp_path / "float"), tmp_path / "int8"
    assert run("convert", str(source), str(target), "--weights", "int8") == 0
    assert "int8" in capsys.readouterr().err
    assert (target / "t5kit-int8.safetensors").stat().st_size < (source / "model.safetensors").stat().st_size / 2
    answers = []
    for folder in (source, target):
        words = ("--engine", "native", "--weights", "int8", "--max-new-tokens", "12")
        assert run("generate", "some text", "-m", str(folder), *words) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] and answers[0].strip()
    assert run("inspect", str(target)) == 0
    assert "stored as int8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "int3"), "must be one of: as_is, int8"),
        (("--weights", "int8", "--dtype", "bfloat16"), "has its own dtypes"),
        (("--no-exact-head",), "is for --weights int8"),
    ],
)
def test_words_that_do_not_fit_are_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    source = write_tiny_folder(tmp_path / "float")
    assert run("convert", str(source), str(tmp_path / "out"), *words) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_loaded_model_saves_itself_as_int8(tmp_path: Path) -> None:
    pytest.importorskip("t5kit._native")
    with Model.from_pretrained(write_tiny_folder(tmp_path / "float"), weights="int8") as model:
        model.save_pretrained(tmp_path / "int8", weights="int8")
        expected = model.generate(["some text", "other"], max_new_tokens=8)
    with Model.from_pretrained(tmp_path / "int8") as model:
        assert model.folder.dtype == "int8"
        assert model.generate(["some text", "other"], max_new_tokens=8) == expected

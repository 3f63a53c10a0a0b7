"""Where the core cannot be loaded, another engine answers and one line says so."""

from pathlib import Path

import pytest

from t5kit.api import engines
from t5kit.checkpoint import open_folder
from t5kit.errors import EngineError
from t5kit.testing.folders import write_tiny_folder


@pytest.mark.parametrize("threads", [None, 2])
@pytest.mark.parametrize(("has_torch", "weights", "engine"), [(True, "auto", "torch"), (False, "auto", "reference")])
def test_another_engine_takes_over_with_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_torch: bool,
    weights: str,
    engine: str,
    threads: int | None,
) -> None:
    if has_torch:
        pytest.importorskip("torch")
    monkeypatch.setattr(engines, "unavailable_reason", lambda: "libfoo is missing")
    monkeypatch.setattr(engines, "_has_torch", lambda: has_torch)
    folder = open_folder(write_tiny_folder(tmp_path / "m"))
    runtime = engines.open_runtime(folder, weights=weights, threads=threads)  # type: ignore[arg-type]
    assert runtime.description.engine == engine
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "libfoo is missing" in lines[0] and f"using the {engine} engine" in lines[0]
    assert ("leaves threads to NumPy" in lines[0]) == (threads is not None and not has_torch)


@pytest.mark.parametrize("weights", ["int8", "int4", "bfloat16"])
def test_weights_that_no_other_engine_has_are_an_error_and_no_takeover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weights: str
) -> None:
    monkeypatch.setattr(engines, "unavailable_reason", lambda: "libfoo is missing")
    monkeypatch.setattr(engines, "_has_torch", lambda: False)
    with pytest.raises(EngineError, match=r"libfoo is missing.*reference engine takes its place"):
        engines.open_runtime(open_folder(write_tiny_folder(tmp_path / "m")), weights=weights)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""

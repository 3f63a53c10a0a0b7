"""`t5kit bench`: engines side by side, in processes of their own; what cannot take part is left out with a sentence."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t5kit import decoding
from t5kit.cli import main as cli
from t5kit.cli.bench import _Worker, _worker
from t5kit.decoding import DecodingOptions
from t5kit.errors import DependencyError, RequestError
from t5kit.runtime.native import unavailable_reason
from t5kit.testing import peers
from t5kit.testing.engine_worker import EngineWorker, peak_bytes
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.peers import EngineName, Search

pytestmark = pytest.mark.skipif(unavailable_reason() is not None, reason="the native engine is not built")

Run = Callable[..., tuple[int, str, str]]
FEW = ("--rounds", "1", "--max-new-tokens", "6", "--batch-size", "3", "--threads", "1", "--num-beams", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t5kit", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return (int(stop.value.code or 0), captured.out, captured.err)

    return run


def test_every_work_of_every_engine_is_measured_and_checked(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\nanother text\nthree\nfour\n", encoding="utf-8")
    code, out, err = run(folder, "--texts", texts, *FEW, "--engines", "native:float32,native:int8,reference", "--json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {(row["engine"], row["work"]) for row in rows} == {
        (engine, work)
        for engine in ("native:float32", "native:int8", "reference")
        for work in ("one", "batch", "one, 2 beams", "batch, 2 beams")
    }
    for row in rows:
        assert row["texts"] == 4
        assert row["ms_a_text"] > 0
        assert row["texts_per_s"] > 0
        assert row["equal_to"] == "native:float32"
        assert row["threads"] == 1
        assert row["equal"] == 4 or row["engine"] == "native:int8"
        assert 4 <= row["new_tokens"] <= 24


def test_the_table_has_a_line_for_each_engine(run: Run, folder: Path) -> None:
    code, out, _ = run(folder, *FEW, "--num-texts", "2", "--num-beams", "1", "--engines", "native:float32")
    assert code == 0
    header, line, empty, about, _ = out.split("\n")
    assert header.split("  ")[0] == "engine"
    assert line.startswith("native:float32")
    assert "2/2" in line.split()
    assert empty == ""
    assert about.startswith("2 texts of ")
    assert "equal: to native:float32" in about


def test_texts_alone_are_a_comparison_too(run: Run, folder: Path) -> None:
    alone = ("--rounds", "1", "--max-new-tokens", "4", "--batch-size", "1", "--threads", "1", "--num-texts", "2")
    code, out, _ = run(folder, *alone, "--num-beams", "2", "--engines", "native:float32")
    header, line, *_ = out.split("\n")
    assert code == 0 and "batch" not in header and header.split("  ")[0] == "engine"
    assert len([word for word in header.split("  ") if word.strip()]) == len(line.split()) == 7
    assert line.split()[3:5] == ["2/2", "2/2"]


def test_engines_that_cannot_take_part_are_left_out_with_a_sentence(run: Run, folder: Path) -> None:
    engines = "native:float32,reference:int8"
    code, out, err = run(folder, *FEW, "--num-texts", "1", "--num-beams", "1", "--engines", engines)
    assert code == 0
    assert "t5kit: reference:int8 is left out: reference has no weights 'int8' here; it takes one of: float32." in err
    assert "reference" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--engines", "natvie"), 2, "'natvie'"),
        (("--engines", ","), 2, "names none"),
        (("--engines", "reference:int8", "--num-texts", "1"), 1, "No engine could be measured"),
    ],
)
def test_nothing_to_measure_is_an_error(
    run: Run, folder: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    found, out, err = run(folder, *FEW, *arguments)
    assert (found, out) == (code, "")
    assert says in err


def test_no_baseline_is_computed_for_engines_that_cannot_be_opened(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(_Worker, "open", lambda self, command: opened.append(self.name))  # None: refused
    assert run(folder, *FEW, "--engines", "native")[0] == 1
    assert opened == ["native:int8"] or opened == ["native"]
    assert run(folder, "--threads", "1025")[0] == 2


def test_an_empty_file_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "none.txt"
    texts.write_text("", encoding="utf-8")
    code, _, err = run(folder, "--texts", texts, "--engines", "reference")
    assert code == 2
    assert "holds no text" in err


def test_a_text_that_cannot_be_read_is_named_with_its_place_once(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "bad.jsonl"
    texts.write_text("{broken\n", encoding="utf-8")
    code, _, err = run(folder, "--texts", texts, "--engines", "reference")
    assert code == 2
    assert err.startswith(f"t5kit: {texts}:1: not valid JSON") and err.count("bad.jsonl:1") == 1


def test_columns_and_an_encoding_are_said_of_the_texts(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_bytes("1,\u00e9\n2,b\n".encode("cp1252"))
    named = ("--texts", texts, "--columns", "number,text", *FEW, "--engines", "native:float32", "--num-beams", "1")
    assert run(folder, *named, "--encoding", "cp1252")[0] == 0
    assert "not UTF-8" in run(folder, *named)[2]


def test_long_texts_are_cut_and_said_so(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "long.txt"
    texts.write_text("x" * 100 + "\nshort\n", encoding="utf-8")
    code, out, err = run(
        folder, "--texts", texts, "--max-input-tokens", "10", *FEW, "--engines", "native:float32", "--num-beams", "1"
    )
    assert code == 0
    assert "1 texts are cut to 10 tokens" in err
    assert "of 8 tokens on average" in out


def test_an_engine_is_named_with_its_weights_or_without() -> None:
    assert str(EngineName.parse("native")) == "native:int8"
    assert str(EngineName.parse(" torch:bfloat16 ")) == "torch:bfloat16"
    for wrong in ("torch:int8", "onnx", ""):
        with pytest.raises(RequestError):
            EngineName.parse(wrong)


def test_a_peer_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for word in ("transformers", "ctranslate2", "ctranslate2_workers"):
        with pytest.raises(DependencyError, match=f"{word.partition('_')[0]} is not installed"):
            peers.open_engine(EngineName.parse(word), folder, threads=1, max_new_tokens=4, scratch=tmp_path)


def test_whatever_goes_wrong_in_a_worker_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    worker = EngineWorker()
    opening = {"folder": str(tmp_path), "threads": 1, "max_new_tokens": 4, "scratch": str(tmp_path)}
    assert "config.json" in worker.obey({**opening, "open": "native"})["error"]
    assert "load_s" in worker.obey({**opening, "folder": str(folder), "open": "native"})
    reply = worker.obey({"prompts": [[100000]], "together": 1, "search": {}})
    assert "100000" in reply["error"]
    assert len(worker.obey({"prompts": [[9, 1], [8, 1]], "together": 2, "search": {}})["answers"]) == 2
    assert worker.obey({"memory": True})["peak_bytes"] == pytest.approx(peak_bytes(), rel=0.1)


def test_beams_stop_by_the_rule_that_was_asked_for(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[DecodingOptions] = []

    def options(**given: Any) -> DecodingOptions:
        made.append(DecodingOptions(**given))
        return made[-1]

    monkeypatch.setattr(decoding, "DecodingOptions", options)
    answer = peers.open_engine(EngineName.parse("native"), folder, threads=1, max_new_tokens=2, scratch=tmp_path)
    answer([[9, 1]], Search(num_beams=2, early_stopping=True))
    answer([[9, 1]], Search())
    assert [(each.num_beams, each.early_stopping) for each in made] == [(2, True), (1, False)]

    asked: list[dict[str, Any]] = []
    ask = _Worker.ask
    monkeypatch.setattr(_Worker, "ask", lambda self, command: asked.append(command) or ask(self, command))
    code, _, _ = run(folder, *FEW, "--num-texts", "1", "--engines", "native:float32", "--early-stopping")
    assert code == 0
    assert {(c["search"]["num_beams"], c["search"]["early_stopping"]) for c in asked if "search" in c} == {
        (1, True),
        (2, True),
    }


def test_a_worker_that_dies_is_an_error_and_no_more() -> None:
    with _worker("native", 1) as worker:
        worker._process.kill()
        worker._process.wait()
        for _ in range(3):
            reply = worker.ask({"prompts": [[5] * 100_000], "together": 1, "search": {}})
            assert "ended with code" in reply["error"]

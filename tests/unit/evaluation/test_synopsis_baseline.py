"""The published baseline of the synopsis task, by our metric."""

import os
from pathlib import Path

import pytest

from t5kit.evaluation.evaluator import evaluate_predictions, scoring_of
from t5kit.evaluation.examples import evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.sources.tables import read_table

TASKS = Path(os.environ.get("T5KIT_TASK_DATA", Path(__file__).parents[4] / "shared" / "data" / "tasks"))
TEST = TASKS / "synopsis.test.tsv.gz"


@pytest.mark.slow
@pytest.mark.skipif(not TEST.is_file(), reason="needs T5KIT_TASK_DATA, the folder of the task files")
def test_the_first_eight_words_score_what_the_data_notes_say() -> None:
    pytest.importorskip("rouge_score")
    examples = evaluation_set(pair_form(), read_table(TEST))
    words = [example.prompt.removeprefix("summarize: ").split()[:8] for example in examples.examples]
    report = evaluate_predictions(examples, [" ".join(first) for first in words], scoring_of(["rouge_stemmed"]))
    found = {name: round(report.scores[name], 1) for name in ("rouge1", "rouge2", "rougeL")}
    assert (len(report.results), found) == (2631, {"rouge1": 30.5, "rouge2": 12.8, "rougeL": 26.9})

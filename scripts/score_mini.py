"""Score a model on every task of mini, beside each task's baseline.

    python scripts/score_mini.py DATA_FOLDER [--model mini] [--part dev] [--only g2p,spell]
                                 [--num-beams 4] [--output scores.json]

DATA_FOLDER holds the tables of build_tasks.py, build_debian_tasks.py and build_translations.py. Choose on dev; test is
scored once for a recipe that will not change any more.

Tasks are scored by what the model answers freely. Two have a second row, by what t5kit offers beside that: spelling
with the prompt's own word forbidden (every word of the file is misspelled), and sections by `classify` over all of
train's labels, calibrated by labelled records of dev (dev itself by its other half).
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import t5kit
from t5kit.evaluation.config import RepeatedPrompts
from t5kit.evaluation.evaluator import Bootstrap, evaluate_predictions, scoring_of
from t5kit.evaluation.examples import EvaluationSet, evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.evaluation.report import EvaluationReport
from t5kit.sources import read_table

Way = Literal["generate", "forbid_copy", "classify"]
"""How the answers come about: freely, freely but for the prompt's own word, or as the likeliest of all labels."""

MOST_INPUT_TOKENS = 256
"""Prompts are cut to it, as in training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """A task's score and what it is measured against, both in percent."""

    task: str
    metric: str
    score: str
    """Which of the metric's scores."""
    baseline: float
    baseline_name: str
    is_lower_better: bool = False
    prompt: str = "{input}"
    repeated_prompts: RepeatedPrompts = "each"
    reference_separator: str = ""
    max_new_tokens: int = 64
    stop_strings: tuple[str, ...] = ()
    way: Way = "generate"


PRONUNCIATION = Scored(
    task="g2p", metric="pronunciation", score="wer", baseline=25.96, baseline_name="Phonetisaurus, trained on the same",
    is_lower_better=True, prompt="pronounce: {input}", repeated_prompts="group",
)  # fmt: skip
SPELLING = Scored(task="spell", metric="exact_match", score="exact_match", baseline=80.7, baseline_name="SymSpell")
SECTION = Scored(
    task="section", metric="accuracy", score="accuracy", baseline=84.3, baseline_name="TF-IDF + LinearSVC",
    max_new_tokens=8,
)  # fmt: skip
TASKS = (
    PRONUNCIATION,
    dataclasses.replace(PRONUNCIATION, score="per", baseline=6.22),
    SPELLING,
    dataclasses.replace(SPELLING, way="forbid_copy"),
    # The model names all the forms that it knows, "pharynxes/pharynges": its first one counts.
    Scored(
        task="inflect", metric="exact_match", score="exact_match", baseline=85.5, baseline_name="rules by hand",
        reference_separator="/", stop_strings=("/",),
    ),
    SECTION,
    dataclasses.replace(SECTION, way="classify"),
    Scored(task="synopsis", metric="rouge_stemmed", score="rougeL", baseline=26.9, baseline_name="first eight words"),
    Scored(
        task="en-de", metric="chrf", score="chrf", baseline=26.0, baseline_name="the English itself",
        max_new_tokens=128,
    ),
    Scored(
        task="en-fr", metric="chrf", score="chrf", baseline=30.8, baseline_name="the English itself",
        max_new_tokens=128,
    ),
)  # fmt: skip


def main() -> None:
    """Print a line a score and, with --output, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--part", choices=("dev", "test"), default="dev")
    parser.add_argument("--only", default="", help="tasks apart by commas; none: all")
    parser.add_argument("--num-beams", type=int, default=4)
    parser.add_argument("--max-examples", type=int, default=0, help="of each task; 0: all")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    only = set(filter(None, arguments.only.split(",")))
    if unknown := only - {scored.task for scored in TASKS}:
        sys.exit(f"--only: no task {', '.join(sorted(unknown))}.")
    rows = []
    with t5kit.Model.from_pretrained(
        arguments.model, weights=arguments.weights, max_input_tokens=MOST_INPUT_TOKENS
    ) as model:
        reports: dict[Scored, EvaluationReport] = {}
        for scored in (scored for scored in TASKS if not only or scored.task in only):
            started = time.perf_counter()
            asked = dataclasses.replace(scored, score="", baseline=0.0)  # scores of one metric share its answers
            if asked not in reports:
                reports[asked] = report_of(model, scored, arguments)
            report = reports[asked]
            interval = report.intervals[scored.score]
            rows.append(
                {
                    "task": scored.task, "way": scored.way, "score": scored.score,
                    "value": report.scores[scored.score],
                    "interval": [interval.low, interval.high], "num_examples": len(report.results),
                    "baseline": scored.baseline, "baseline_name": scored.baseline_name,
                    "is_better": (report.scores[scored.score] < scored.baseline) == scored.is_lower_better,
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
            print(f"{scored.task}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if arguments.output is not None:
        result = {"model": arguments.model, "part": arguments.part, "num_beams": arguments.num_beams, "scores": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def report_of(model: t5kit.Model, scored: Scored, arguments: argparse.Namespace) -> EvaluationReport:
    """Return the scores of a model's answers to a task's part, under the command's arguments."""
    if scored.way != "classify":
        return model.evaluate(
            str(arguments.data / f"{scored.task}.{arguments.part}.tsv.gz"), [scored.metric],
            input=scored.prompt, target="target", repeated_prompts=scored.repeated_prompts,
            reference_separator=scored.reference_separator, max_examples=arguments.max_examples,
            truncate=True, num_beams=arguments.num_beams,
            max_new_tokens=scored.max_new_tokens, stop_strings=list(scored.stop_strings),
            forbid_copy=scored.way == "forbid_copy",
        )  # fmt: skip
    train, dev = (examples_of(scored, arguments.data, part) for part in ("train", "dev"))
    labels = sorted({example.references[0] for example in train.examples})
    if arguments.part == "test":
        test = examples_of(scored, arguments.data, "test", arguments.max_examples)
        predictions = classified(model, labels, learn_from=dev, answer=test)
    else:
        test = examples_of(scored, arguments.data, "dev", arguments.max_examples)
        halves = [dataclasses.replace(test, examples=test.examples[start::2]) for start in range(2)]
        predictions = [""] * len(test.examples)
        for start, (half, other) in enumerate(zip(halves, reversed(halves), strict=True)):
            predictions[start::2] = classified(model, labels, learn_from=other, answer=half)
    return evaluate_predictions(test, predictions, scoring_of([scored.metric]), bootstrap=Bootstrap())


def examples_of(scored: Scored, data: Path, part: str, max_examples: int = 0) -> EvaluationSet:
    """Return the records of a part of a task's data."""
    table = read_table(data / f"{scored.task}.{part}.tsv.gz")
    return evaluation_set(pair_form(scored.prompt, "target"), table, max_examples=max_examples)


def classified(
    model: t5kit.Model, labels: Sequence[str], *, learn_from: EvaluationSet, answer: EvaluationSet
) -> list[str]:
    """Return the likeliest of the labels for each example, calibrated by other examples whose targets are known."""
    known = [example for example in learn_from.examples if example.references[0] in labels]
    calibration = model.calibrate(
        labels,
        texts=[example.prompt for example in known],
        targets=[example.references[0] for example in known],
        truncate=True,
    )
    prompts = [example.prompt for example in answer.examples]
    return [found.label for found in model.classify(prompts, labels, calibration=calibration, truncate=True)]


if __name__ == "__main__":
    main()

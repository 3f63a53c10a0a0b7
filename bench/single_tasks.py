"""What training on every task together gave or cost: mini's first stage beside models of one task each.

    python bench/single_tasks.py DATA [--only section,synopsis] [--out FOLDER] [--threads 2]

Each model is recipes/mini-1.toml with the rates of all other tasks at 0: the same shape, vocabulary, optimizer and
decay, random weights, and as many examples of its task as mini-1 met (its card says how many; steps are that over the
examples that fit a step). Both answer the whole dev file, 4 beams, by scripts/score_mini.py. One JSON line a model on
stdout; a table at the end on stderr.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "mini-1.toml"
STAGE = ROOT / "models" / "mini-1"
T5KIT = [sys.executable, "-c", "from t5kit.cli.main import main; main()"]


@dataclasses.dataclass(frozen=True, slots=True)
class Single:
    """A model of one task."""

    task: str
    num_steps: int
    """What mini-1 met of the task, over what fits 24 rows of 256 and 128 tokens."""
    with_tasks: tuple[str, ...] = ()
    """Data that is for the same prefix, at the same rate."""


SINGLES = (
    Single("section", 540),  # 28,000 examples at 52 a step
    Single("synopsis", 440),  # 28,000 at 63
    Single("inflect", 220),  # 70,000 at 314
    Single("en-de", 220),  # 21,000 at 94
    Single("en-fr", 220),  # 21,000 at 96
    Single("spell", 930, with_tasks=("words",)),  # 280,000 at 300
    Single("g2p", 860),  # 350,000 at 406
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the tables, words.train.tsv.gz and corpus.txt.gz among them")
    parser.add_argument("--only", default=",".join(single.task for single in SINGLES))
    parser.add_argument("--out", type=Path, default=None, help="where the runs go (a folder that is removed)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - {single.task for single in SINGLES}:
        sys.exit(f"--only: no task {', '.join(sorted(unknown))}; there are {', '.join(s.task for s in SINGLES)}.")
    lines = ["| task | score | alone | together | steps | seconds |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch)
        for single in SINGLES:
            if single.task in names:
                lines += measure(single, arguments.data.resolve(), out.resolve(), arguments.threads)
    print("\n".join(lines), file=sys.stderr)


def measure(single: Single, data: Path, out: Path, threads: int) -> list[str]:
    """Train one model, score it beside mini-1, print that, and return its rows of the table."""
    run = out / single.task
    began = time.perf_counter()
    command = [*T5KIT, "train", str(RECIPE), *overrides(single, data, threads), "--run-folder", str(run), "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT)
    seconds = time.perf_counter() - began
    alone, together = (scores(model, single.task, data) for model in (run / "model", STAGE))
    print(json.dumps({"bench": "single_tasks", "task": single.task, "num_steps": single.num_steps, "seconds": seconds,
                      "alone": alone, "together": together}), flush=True)  # fmt: skip
    return [
        f"| {single.task} | {row['score']} | {row['value']:.1f} | {other['value']:.1f} | {single.num_steps} "
        f"| {seconds:.0f} |"
        for row, other in zip(alone, together, strict=True)
    ]


def overrides(single: Single, data: Path, threads: int) -> list[str]:
    """Return the recipe's keys that differ."""
    tasks = tomllib.loads(RECIPE.read_text(encoding="utf-8"))["data"]["tasks"]
    trained = {single.task, *single.with_tasks}
    rates = ", ".join(f"{name} = {int(name in trained)}" for name in tasks)
    return [
        f"data.dir={data}", f"data.mixture.rates={{ {rates} }}", f"training.num_steps={single.num_steps}",
        "training.evaluate_every=0", "evaluation.max_examples=20", "evaluation.max_loss_examples=50",
        f"compute.num_threads={threads}",
    ]  # fmt: skip


def scores(model: Path, task: str, data: Path) -> list[dict[str, Any]]:
    """Return a model's rows of scripts/score_mini.py for the free answers of a task ("": all), over whole dev files."""
    program = ROOT / "scripts" / "score_mini.py"
    command = [sys.executable, str(program), str(data), "--model", str(model), "--only", task]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [row for row in rows if row["way"] == "generate"]


if __name__ == "__main__":
    main()

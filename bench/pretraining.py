"""What pre-training gives mini: short first stages with and without it, on the same steps and the same tasks.

    python bench/pretraining.py DATA [--only tasks,mixed,pretrained,twice] [--num-steps 500]
                                      [--out FOLDER] [--threads 2]

All are recipes/mini-1.toml from random weights (its shape, vocabulary, optimizer, decay and order of the data):

    tasks        the tasks alone
    mixed        as mini-1 was trained: one example in a hundred is span corruption
    pretrained   first as many steps of recipes/pretrain-small.toml's mixture (span corruption, short passages,
                 misspelled words), then the tasks alone
    twice        the tasks alone for twice the steps, what "pretrained" took

Each answers the whole dev files, 4 beams, by scripts/score_mini.py. One JSON line a model on stdout; a table on stderr.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

from single_tasks import RECIPE, ROOT, T5KIT, scores

PRETRAINING = ROOT / "recipes" / "pretrain-small.toml"
WAYS = ("tasks", "mixed", "pretrained", "twice")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the tables, words.train.tsv.gz and corpus.txt.gz among them")
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--num-steps", type=int, default=500)
    parser.add_argument("--out", type=Path, default=None, help="where the runs go (a folder that is removed)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(WAYS):
        sys.exit(f"--only: no way {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}.")
    columns: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        out = (arguments.out or Path(scratch)).resolve()
        for name in names:
            began = time.perf_counter()
            model = trained(name, out, arguments)
            seconds = time.perf_counter() - began
            rows = scores(model, "", arguments.data)
            print(json.dumps({"bench": "pretraining", "way": name, "num_steps": arguments.num_steps,
                              "seconds": seconds, "scores": rows}), flush=True)  # fmt: skip
            columns[name] = {f"{row['task']} {row['score']}": row["value"] for row in rows}
    lines = ["| dev | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for score in next(iter(columns.values())):
        lines.append(f"| {score} | " + " | ".join(f"{column[score]:.1f}" for column in columns.values()) + " |")
    print("\n".join(lines), file=sys.stderr)


def trained(name: str, out: Path, arguments: argparse.Namespace) -> Path:
    """Train a model in one of WAYS and return its folder."""
    rates = tomllib.loads(RECIPE.read_text(encoding="utf-8"))["data"]["mixture"]["rates"]
    alone = {**rates, "corpus": 0}
    steps = arguments.num_steps
    match name:
        case "tasks":
            return run(RECIPE, out / name, alone, steps, arguments)
        case "mixed":
            return run(RECIPE, out / name, rates, steps, arguments)
        case "twice":
            return run(RECIPE, out / name, alone, 2 * steps, arguments)
    pretraining = tomllib.loads(PRETRAINING.read_text(encoding="utf-8"))["data"]
    passages = pretraining["tasks"]["passages"]
    before = run(
        RECIPE, out / "pretraining", dict.fromkeys(rates, 0) | pretraining["mixture"]["rates"], steps, arguments,
        f"data.tasks.passages.train={json.dumps(passages['train'])}",
        f"data.tasks.passages.held_out={passages['held_out']}",
        f"data.tasks.passages.objective={inline(passages['objective'])}",
    )  # fmt: skip
    return run(started_from(before, out), out / name, alone, steps, arguments)


def started_from(model: Path, out: Path) -> Path:
    """Write mini-1's recipe with a model to start from, which brings its vocabulary, in place of random weights."""
    text = RECIPE.read_text(encoding="utf-8")
    recipe = out / "started.toml"
    start = f"[model]\nstart = {json.dumps(str(model))}\ndropout_rate = 0.0\n\n"
    recipe.write_text(start + text[text.index("[data]\n") :], encoding="utf-8")
    return recipe


def run(
    recipe: Path, folder: Path, rates: dict[str, int], num_steps: int, arguments: argparse.Namespace, *more: str
) -> Path:
    """Train a recipe at other rates and return its model's folder."""
    settings = [
        f"data.dir={arguments.data.resolve()}", f"data.mixture.rates={inline(rates)}",
        f"training.num_steps={num_steps}", "training.evaluate_every=0",
        "evaluation.max_examples=20", "evaluation.max_loss_examples=200",
        f"compute.num_threads={arguments.threads}", *more,
    ]  # fmt: skip
    command = [*T5KIT, "train", str(recipe), *settings, "--run-folder", str(folder), "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    return folder / "model"


def inline(table: Mapping[str, object]) -> str:
    """Return a TOML table on one line."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"


if __name__ == "__main__":
    main()

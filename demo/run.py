"""The main job on real input: the built-in model answers the texts of mini.jsonl, shown as a table.

usage: run.py [--engine ENGINE] [--texts FILE.jsonl] [MODEL]        (`make demo` sets everything up and calls it)

The texts were drawn at random from the test records of the model's tasks, which it has not seen; its card,
src/t5kit/mini/README.md, says where they come from. texts.jsonl beside it suits FLAN-T5 models: `make demo-flan`. Its
package descriptions are Debian's, under their packages' free licences; the reviews and questions were written for it.
"""

import argparse
import json
import sys
import textwrap
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import t5kit

HERE = Path(__file__).parent


def main() -> None:
    """Load the model, answer every text, print the table and what it took."""
    parser = argparse.ArgumentParser(description="Answer texts with a real T5.")
    parser.add_argument("model", nargs="?", default="mini", help="a model folder, a Hub id, or mini")
    parser.add_argument("--texts", type=Path, default=HERE / "mini.jsonl", help="lines of task, text and expected")
    parser.add_argument("--engine", default="auto", help="auto, native, torch or reference")
    arguments = parser.parse_args()

    started = time.perf_counter()
    model = t5kit.Model.from_pretrained(arguments.model, engine=arguments.engine)
    loaded = time.perf_counter()
    inputs = [json.loads(line) for line in arguments.texts.read_text(encoding="utf-8").splitlines()]
    answers = model.generate([item["text"] for item in inputs], max_new_tokens=64)
    finished = time.perf_counter()

    table = Table(title=f"{Path(arguments.model).name}, {model.config.num_parameters:,} parameters", show_lines=True)
    for column, width in (("task", 9), ("input", 58), ("answer", 30), ("a person wrote", 28)):
        table.add_column(column, max_width=width)
    for item, answer in zip(inputs, answers, strict=True):
        table.add_row(item["task"], textwrap.shorten(item["text"], 220), answer, item["expected"])
    Console(width=None if sys.stdout.isatty() else 132).print(table)
    print(
        f"{len(inputs)} texts answered in {finished - loaded:.1f} s by the {model.runtime.description.engine} engine"
        f" ({model.runtime.description.weights}); the model took {loaded - started:.1f} s to load;"
        f" PyTorch {'was' if 'torch' in sys.modules else 'was not'} loaded."
    )


if __name__ == "__main__":
    main()

"""The main job on real input: FLAN-T5-small answers the texts of texts.jsonl, shown as a table.

usage: run.py [--engine ENGINE] [MODEL_FOLDER]        (`make demo` sets everything up and calls it)

The package descriptions are Debian's, under their packages' free licences; the reviews and questions were written for
this file. The model is a FLAN-T5-small that was fine-tuned to give titles to logs, so it answers short.
"""

import argparse
import json
import os
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
    parser = argparse.ArgumentParser(description="Answer demo/texts.jsonl with a real T5.")
    default = Path(os.environ.get("T5KIT_TEST_FILES", HERE.parent / ".cache" / "t5kit-test-files")) / "flan-t5-small"
    parser.add_argument("model", nargs="?", default=str(default), help="a model folder")
    parser.add_argument("--engine", default="auto", help="auto, native, torch or reference")
    arguments = parser.parse_args()

    started = time.perf_counter()
    model = t5kit.Model.from_pretrained(arguments.model, engine=arguments.engine)
    loaded = time.perf_counter()
    inputs = [json.loads(line) for line in (HERE / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = model.generate([item["text"] for item in inputs], max_new_tokens=48)
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

"""Train recipes/vocabulary-8k: 8,000 pieces for English, some German and French, and the phonemes of CMUdict.

    python scripts/build_vocabulary.py CORPUS.txt.gz TASKS_FOLDER OUT_FOLDER

CORPUS holds one passage a line; TASKS_FOLDER the tables that build_tasks.py and build_translations.py write. The same
files give the same bytes. It takes about two minutes.
"""

import argparse
import gzip
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from t5kit.text import train_tokenizer

NUM_PASSAGES = 150_000
MOST_CHARACTERS = 2000
NUM_PRONUNCIATIONS = 60_000
VOCAB_SIZE = 8000


def texts(corpus: Path, tasks: Path) -> Iterator[str]:
    """Yield passages drawn from the corpus, the German and French of the translations, and pronunciations."""
    passages = gzip.decompress(corpus.read_bytes()).decode().split("\n")
    random.Random(0).shuffle(passages)
    yield from (passage[:MOST_CHARACTERS] for passage in passages[:NUM_PASSAGES])
    for task in ("en-de", "en-fr"):
        yield from targets(tasks / f"{task}.train.tsv.gz")
    yield from list(targets(tasks / "g2p.train.tsv.gz"))[:NUM_PRONUNCIATIONS]


def targets(table: Path) -> Iterator[str]:
    """Yield the second column."""
    with gzip.open(table, "rt", encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n").split("\t")[1]


def main() -> None:
    """Write the texts to a temporary file and train on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "tasks", "out"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        passages = Path(folder, "passages.txt")
        with passages.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{text}\n" for text in texts(arguments.corpus, arguments.tasks))
        # One thread: SentencePiece's sums depend on how many there are.
        trained = train_tokenizer([passages], arguments.out, vocab_size=VOCAB_SIZE, num_threads=1, overwrite=True)
    print(f"{arguments.out}: {trained.vocab_size:,} ids")


if __name__ == "__main__":
    main()

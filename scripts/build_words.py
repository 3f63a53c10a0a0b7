"""Write words.train.tsv.gz: the corpus's common words, each as a prompt to spell and its own answer.

    python scripts/build_words.py CORPUS.txt.gz TASKS_FOLDER OUT_FOLDER

Mistyped anew in every pass by a recipe's augmentation, they teach a speller which words there are. Left out are words
that spell.train of TASKS_FOLDER knows as misspellings. dev and test of the spelling task are not read.
"""

import argparse
import collections
import gzip
import re
from pathlib import Path

WORD = re.compile(r"(?<![\w'-])[A-Za-z]{3,20}(?![\w'-])")
FEWEST = 6
PREFIX = "spell: "


def words(corpus: Path, tasks: Path) -> list[str]:
    """Return the words that are written in lower case at least FEWEST times, most frequent first."""
    counts: collections.Counter[str] = collections.Counter()
    with gzip.open(corpus, "rt", encoding="utf-8") as passages:
        for passage in passages:
            counts.update(WORD.findall(passage))
    with gzip.open(tasks / "spell.train.tsv.gz", "rt", encoding="utf-8") as pairs:
        misspelt = {line.split("\t")[0].removeprefix(PREFIX) for line in pairs}
    kept = [(-count, word) for word, count in counts.items() if count >= FEWEST and word.islower()]
    return [word for _, word in sorted(kept) if word not in misspelt]


def main() -> None:
    """Write the table; the same corpus and tasks give the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "tasks", "out"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    found = words(arguments.corpus, arguments.tasks)
    table = "".join(f"{PREFIX}{word}\t{word}\n" for word in found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "words.train.tsv.gz").write_bytes(gzip.compress(table.encode(), mtime=0))
    print(f"{arguments.out / 'words.train.tsv.gz'}: {len(found):,} words")


if __name__ == "__main__":
    main()

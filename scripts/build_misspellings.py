"""Write misspellings.train.tsv.gz: words as people mistype them, each with the word that was meant.

    python scripts/build_misspellings.py CORPUS.txt.gz TASKS_FOLDER OUT_FOLDER

Which letters get lost, doubled, swapped or taken for others is learned from the pairs of spell.train that differ by a
single slip, each slip beside the letters around it, and done to the words of the corpus and of spell.train. dev and
test of the spelling task are not read. The same corpus and tasks give the same bytes.
"""

import argparse
import collections
import gzip
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from build_words import PREFIX, misspelt, words

FEWEST = 3
"""Rarer words of the corpus are left out: too many are slips themselves."""
SHARES = (0.78, 0.17, 0.05)
"""Of words with one, two and three slips, as in spell.train."""
WEIGHTS = (0.04, 0.26, 0.7)
"""What a slip's share among equal letters counts, with no letter beside them, the one before, and both."""
EDGE = "\0"
SEED = 0

Slip = tuple[int, str, str]
"""Place, letters there, letters instead."""


def slip_of(word: str, typed: str) -> Slip | None:
    """Return the one slip that makes a word into what was typed, the last place of several; None if it takes more."""
    start = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(word, typed, strict=False)))
    rest, other = word[start:], typed[start:]
    while rest and other and rest[-1] == other[-1]:
        rest, other = rest[:-1], other[:-1]
    is_swap = len(rest) == 2 and rest[::-1] == other
    return (start, rest, other) if is_swap or max(len(rest), len(other)) == 1 else None


def contexts(word: str, place: int, letters: str) -> tuple[tuple[str, ...], ...]:
    """Return what a slip may hang on: the letters, with the one before, with both beside; as many as WEIGHTS."""
    before = word[place - 1] if place else EDGE
    behind = word[place + len(letters)] if place + len(letters) < len(word) else EDGE
    return (letters,), (letters, before), (letters, before, behind)


def spans(word: str) -> Iterator[tuple[int, str]]:
    """Yield where a slip can happen: between letters, at each, and at each two neighbours that differ."""
    for place in range(len(word) + 1):
        yield place, ""
        if place < len(word):
            yield place, word[place]
        if place + 1 < len(word) and word[place] != word[place + 1]:
            yield place, word[place : place + 2]


class Typist:
    """Makes the slips that it has seen, as often."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        seen: dict[tuple[str, ...], collections.Counter[str]] = collections.defaultdict(collections.Counter)
        chances: collections.Counter[tuple[str, ...]] = collections.Counter()
        for word, typed in pairs:
            if (slip := slip_of(word, typed)) is None:
                continue
            for context in contexts(word, slip[0], slip[1]):
                seen[context][slip[2]] += 1
            for place, letters in spans(word):
                chances.update(contexts(word, place, letters))
        self._shares = {
            context: [(typed, count / chances[context]) for typed, count in counts.items()]
            for context, counts in seen.items()
        }

    def slips(self, word: str) -> tuple[list[Slip], np.ndarray]:
        """Return the slips that a word invites and how likely each is among them."""
        found: collections.Counter[Slip] = collections.Counter()
        for place, letters in spans(word):
            for context, weight in zip(contexts(word, place, letters), WEIGHTS, strict=True):
                for typed, share in self._shares.get(context, ()):
                    found[place, letters, typed] += weight * share  # type: ignore[assignment]
        rates = np.array(list(found.values()), dtype=np.float64)
        return list(found), rates / rates.sum()

    def typed(self, word: str, times: int, rng: np.random.Generator) -> set[str]:
        """Return the word with one to three slips, tried so many times."""
        first = self.slips(word)
        found = set()
        for _ in range(times):
            typed, (slips, rates) = word, first
            for later in range(1 + int(rng.choice(len(SHARES), p=SHARES))):
                if later:
                    slips, rates = self.slips(typed)
                place, letters, instead = slips[int(rng.choice(len(slips), p=rates))]
                typed = typed[:place] + instead + typed[place + len(letters) :]
            found.add(typed)
        return found


def num_misspellings(count: int) -> int:
    """Return how many ways a word of so many occurrences is mistyped: common words more, as in spell.train."""
    return 4 + 2 * min(4, int(np.log10(count)))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "tasks", "out"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    pairs = misspelt(arguments.tasks)
    counts = words(arguments.corpus, pairs, FEWEST)
    for word in sorted(set(pairs.values())):
        if word.replace("-", "").isalpha():
            counts.setdefault(word, 1)
    typist = Typist((word, typed) for typed, word in pairs.items())
    rng = np.random.default_rng(SEED)
    lines = []
    for word, count in counts.items():
        wrong = typist.typed(word, num_misspellings(count), rng)
        lines += [f"{PREFIX}{typed}\t{word}\n" for typed in sorted(wrong) if len(typed) > 1 and typed not in counts]
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "misspellings.train.tsv.gz"
    path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    print(f"{path}: {len(lines):,} misspellings of {len(counts):,} words")


if __name__ == "__main__":
    main()

"""Other words for the same: inputs changed a little, anew in every pass, while their targets stay.

Changes are drawn by the generator that draws a record's phrasing, so a resumed run draws the same ones. Augmentation by
a model (back-translation) is a callable, list[str] -> list[str], and makes records before a run: `paraphrased`.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from t5kit.errors import DataError, RequestError
from t5kit.tasks.config import AugmentationConfig

Paraphrase = Callable[[list[str]], list[str]]
"""Texts -> as many texts that mean the same."""

_UNIT = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
"""A word, "don't" and "well-known" too, or a sign."""
_JOINERS = "\u200c\u200d"
"""Zero-width: they stand within words of Persian and of India's scripts."""
_NUM_KINDS = 4


@dataclasses.dataclass(frozen=True)
class Augmenter:
    """Changes texts as a config says.

    Example: "a great film" -> "a superb film", "a greaat film"
    Words are replaced where they stand whole, phrases of the list too: of "fine" and "fine film" the longer one.
    """

    config: AugmentationConfig
    synonyms: Mapping[str, tuple[str, ...]]
    """Word or phrase in lower case -> those that may stand in its place."""

    @classmethod
    def of(cls, config: AugmentationConfig, folder: Path) -> Self:
        """Return the augmenter, its word list read. Raises: DataError for a list that cannot be read."""
        return cls(config, read_synonyms(folder / config.synonyms) if config.synonyms else {})

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """Return the text, changed or as it is; what the config keeps at its beginning and end stays."""
        before, behind = self.config.kept_prefix, self.config.kept_suffix
        if rng.random() >= self.config.probability or not _is_between(before, text, behind):
            return text
        changed = _between(before, text, behind)
        if self.synonyms:
            changed = self._with_synonyms(changed, rng)
        if self.config.noise_rate:
            changed = noisy(changed, self.config.noise_rate, rng)
        return before + changed + behind if changed.strip() else text

    @functools.cached_property
    def _lengths(self) -> list[int]:
        """How many units the list's phrases have, the most first."""
        return sorted({len(_units(_marked(phrase))) for phrase in self.synonyms}, reverse=True)

    def _with_synonyms(self, text: str, rng: np.random.Generator) -> str:
        """Return the text with some of the list's words and phrases replaced, of several at one place the longest."""
        marked = _marked(text)
        units = _units(marked)
        pieces: list[str] = []
        copied = place = 0
        while place < len(units):
            begin = units[place][0]
            for last in (place + length - 1 for length in self._lengths if place + length <= len(units)):
                end = units[last][1]
                others = self.synonyms.get(_key(text[begin:end]), ())
                if others and _is_apart(marked, begin, end):
                    pieces += [text[copied:begin], self._synonym(text[begin:end], others, rng)]
                    copied, place = end, last
                    break
            place += 1
        return "".join([*pieces, text[copied:]])

    def _synonym(self, phrase: str, others: Sequence[str], rng: np.random.Generator) -> str:
        if rng.random() >= self.config.synonym_rate:
            return phrase
        other = others[int(rng.integers(len(others)))]
        if phrase.isupper() and len(phrase) > 1:
            return other.upper()
        return other[:1].upper() + other[1:] if phrase[0].isupper() else other


def _units(marked: str) -> list[tuple[int, int]]:
    return [unit.span() for unit in _UNIT.finditer(marked)]


def _marked(text: str) -> str:
    """Return the text with "_", a sign of words, for what Python counts to none: combining marks and joiners.

    Places stay the same. Example: "बढ़िया" is one word of six signs, and "\\w" sees four letters, two of them alone.
    """
    if text.isascii():
        return text
    return "".join("_" if unicodedata.category(sign)[0] == "M" or sign in _JOINERS else sign for sign in text)


def _is_apart(marked: str, begin: int, end: int) -> bool:
    """Say whether no sign of words stands beside a phrase that begins or ends with another sign: "C++" in "C++11"."""
    return re.search(r"\w", marked[max(0, begin - 1) : begin] + marked[end : end + 1]) is None


def _key(phrase: str) -> str:
    return " ".join(phrase.lower().split())


def noisy(text: str, rate: float, rng: np.random.Generator) -> str:
    """Return the text with about `rate` of its letters, at least one, mistyped: left out, doubled, swapped, or another.

    At rate 0, or without letters and digits, it stays as it is.
    """
    places = [place for place, letter in enumerate(text) if letter.isalnum()]
    if not places or not rate:
        return text
    slips = {places[drawn] for drawn in np.flatnonzero(rng.random(len(places)) < rate)}
    slips = slips or {places[int(rng.integers(len(places)))]}
    pieces: list[str] = []
    place = 0
    while place < len(text):
        letter, behind = text[place], text[place + 1 : place + 2]
        is_slip = place in slips
        place += 1
        if not is_slip:
            pieces.append(letter)
            continue
        kind = int(rng.integers(_NUM_KINDS))
        if kind == 0:
            continue
        if kind == 2 and behind.isalnum() and behind != letter:
            pieces += [behind, letter]
            place += 1
            continue
        other = text[places[int(rng.integers(len(places)))]]
        pieces += [letter, letter] if kind == 1 or other == letter else [other]
    return "".join(pieces)


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a word list: words and phrases of a line, apart by commas or tabs, may each stand for the others.

    # begins a comment.

    Raises: DataError if the file cannot be read, or no line has two words.
    """
    try:
        return parse_synonyms(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: the word list cannot be read ({reason}).") from error


def parse_synonyms(text: str, name: str) -> dict[str, tuple[str, ...]]:
    """Return word -> others from a word list's text. Raises: DataError, calling it by its name."""
    found: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        words = [word.strip() for word in re.split(r"[,\t]", line.partition("#")[0]) if word.strip()]
        for word in words:
            others = dict.fromkeys(other for other in words if other != word)
            found.setdefault(_key(word), {}).update(others)
    synonyms = {word: tuple(others) for word, others in found.items() if others}
    if not synonyms:
        raise DataError(f"{name}: no line has two words; expected lines such as: great, superb, wonderful.")
    return synonyms


def paraphrased(
    texts: Sequence[str], paraphrase: Paraphrase, *, kept_prefix: str = "", kept_suffix: str = ""
) -> list[str | None]:
    """Return what the callable makes of each text, None where that is empty or the text itself.

    kept_prefix, kept_suffix: of all texts, are not given to the callable, and stand around what comes back.
    Raises: RequestError if it gives back another number of texts, or what is none.
    """
    given = [_between(kept_prefix, text, kept_suffix) for text in texts]
    back = paraphrase(list(given))
    if not isinstance(back, list) or len(back) != len(given) or not all(isinstance(text, str) for text in back):
        gave = f"a list of {len(back)}" if isinstance(back, list) else type(back).__name__
        raise RequestError(f"the paraphrasing callable got a list of {len(given)} texts and gave {gave}.")
    return [
        kept_prefix + new + kept_suffix if new.strip() and new.split() != old.split() else None
        for old, new in zip(given, back, strict=True)
    ]


def _is_between(before: str, text: str, behind: str) -> bool:
    return text.startswith(before) and text.endswith(behind) and len(text) >= len(before) + len(behind)


def _between(before: str, text: str, behind: str) -> str:
    """Return what stands between the two in a text: "r: ", "r: good ok?", " ok?" -> "good"."""
    return text.removeprefix(before).removesuffix(behind)

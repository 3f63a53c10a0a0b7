"""Other words for the same: inputs changed a little, anew in every pass, while their targets stay.

Changes are drawn by the generator that draws a record's phrasing, so a resumed run draws the same ones. Augmentation by
a model (back-translation) is a callable, list[str] -> list[str], and makes records before a run: `paraphrased`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from t5kit.errors import DataError, RequestError
from t5kit.tasks.config import AugmentationConfig

Paraphrase = Callable[[list[str]], list[str]]
"""Texts -> as many texts that mean the same."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_NUM_KINDS = 4


@dataclasses.dataclass(frozen=True)
class Augmenter:
    """Changes texts as a config says.

    Example: "a great film" -> "a superb film", "a greaat film"
    """

    config: AugmentationConfig
    synonyms: Mapping[str, tuple[str, ...]]
    """Word in lower case -> words that may stand in its place."""

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
            changed = _WORD.sub(lambda word: self._synonym(word[0], rng), changed)
        if self.config.noise_rate:
            changed = noisy(changed, self.config.noise_rate, rng)
        return before + changed + behind if changed.strip() else text

    def _synonym(self, word: str, rng: np.random.Generator) -> str:
        others = self.synonyms.get(word.lower(), ())
        if not others or rng.random() >= self.config.synonym_rate:
            return word
        other = others[int(rng.integers(len(others)))]
        return other.upper() if word.isupper() and len(word) > 1 else other.capitalize() if word[0].isupper() else other


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
    """Read a word list: words of a line, apart by commas or tabs, may each stand for the others; # begins a comment.

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
            found.setdefault(word.lower(), {}).update(others)
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

"""Stop strings, found in text and not in ids: a stop string may begin inside one token and end inside another.

The rule, the same for a finished answer and for a stream: text is read character by character, and ends where the first
stop string is complete; where two are complete at the same character, the longer one counts. The stop string and what
follows it are no part of the text. So the result does not depend on where the tokens' borders are.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Detokenizer(Protocol):
    """Turns ids into text as they come. Pieces are final: what was given is never taken back."""

    def push(self, token_id: int) -> str:
        """Return the text that is certain now and was not before; empty for a control token or half a character."""
        ...

    def finish(self) -> str:
        """Return what was still held back."""
        ...


DetokenizerFactory = Callable[[], Detokenizer]


class _Match(NamedTuple):
    end: int
    start: int
    stop_string: str


def find_first_stop(text: str, stop_strings: Sequence[str]) -> tuple[int, str] | None:
    """Return where the text is to be cut and the stop string that does it, or None.

    >>> find_first_stop("one. Two", ["Two", ". "])
    (3, '. ')
    >>> find_first_stop("abc", ["bc", "abc"])
    (0, 'abc')
    """
    matches = [
        _Match(start + len(stop), start, stop) for stop in stop_strings if (start := text.find(stop)) >= 0
    ]  # the first occurrence of a string is also the first of it to be complete
    if not matches:
        return None
    first = min(matches)
    return first.start, first.stop_string


def num_characters_held(text: str, stop_strings: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that a stop string could begin with.

    >>> num_characters_held("the en", ["end", "nd"])
    2
    """
    longest = min(len(text), max(map(len, stop_strings), default=0))
    for length in range(longest, 0, -1):
        if any(stop.startswith(text[len(text) - length :]) for stop in stop_strings):
            return length
    return 0


class StopMatcher:
    """Watches one answer's tokens for its stop strings."""

    def __init__(self, detokenizer: Detokenizer, stop_strings: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stop_strings = stop_strings
        self._num_kept = max(map(len, stop_strings)) - 1
        self._tail = ""

    def push(self, token_id: int) -> str | None:
        """Take the next token and return the stop string that it completes, or None."""
        piece = self._detokenizer.push(int(token_id))
        if not piece:
            return None
        text = self._tail + piece
        # The tail is one character too short to hold a whole stop string, so what is found here is new.
        found = find_first_stop(text, self._stop_strings)
        self._tail = text[max(0, len(text) - self._num_kept) :]
        return None if found is None else found[1]

    def push_all(self, token_ids: Iterable[int]) -> tuple[int, str] | None:
        """Take tokens up to the one that completes a stop string; return how many were taken and it, or None."""
        for number, token_id in enumerate(token_ids, 1):
            stop_string = self.push(token_id)
            if stop_string is not None:
                return number, stop_string
        return None


def new_matcher(stop_strings: Sequence[str], detokenizer_factory: DetokenizerFactory | None) -> StopMatcher | None:
    """Return a fresh matcher, or None if there is nothing to watch for."""
    if not stop_strings:
        return None
    assert detokenizer_factory is not None  # check_options saw to it
    return StopMatcher(detokenizer_factory(), stop_strings)


class StopTextStream:
    """Turns a stream of ids into a stream of text in which no stop string, nor the beginning of one, ever shows.

    The pieces joined are the text that the whole answer gives: `answer_text`.
    """

    def __init__(self, detokenizer: Detokenizer, stop_strings: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stop_strings = tuple(stop_strings)
        self._held = ""
        self._stop_string: str | None = None

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text, if one did; nothing more will come then."""
        return self._stop_string

    def push(self, token_ids: Iterable[int] | np.ndarray) -> str:
        """Take new ids and return the text to show now; what may become a stop string waits."""
        pieces = []
        for token_id in token_ids:
            if self._stop_string is None:
                pieces.append(self._take(self._detokenizer.push(int(token_id))))
        return "".join(pieces)

    def finish(self) -> str:
        """Return the rest: no more ids will come, so what was held back is ordinary text after all."""
        if self._stop_string is not None:
            return ""
        rest = self._take(self._detokenizer.finish()) + self._held
        self._held = ""
        return rest

    def _take(self, piece: str) -> str:
        if not piece:
            return ""
        text = self._held + piece
        found = find_first_stop(text, self._stop_strings)
        if found is not None:
            cut, self._stop_string = found
            self._held = ""
            return text[:cut]
        num_held = num_characters_held(text, self._stop_strings)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def answer_text(token_ids: Iterable[int] | np.ndarray, detokenizer: Detokenizer, stop_strings: Sequence[str]) -> str:
    """Return the text of a whole answer, cut before its first stop string: what its stream joins to."""
    stream = StopTextStream(detokenizer, stop_strings)
    return stream.push(token_ids) + stream.finish()

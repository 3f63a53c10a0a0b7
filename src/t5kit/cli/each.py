"""Texts asked in chunks; if one of a chunk is refused, each alone, so that it takes no other down."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import typer

from t5kit.cli.inputs import chunks
from t5kit.cli.outputs import ProgressCount, at_place, progress
from t5kit.errors import T5kitError
from t5kit.sources import BadRecord

Item = TypeVar("Item")
"""What is asked: a text, or a source and its target."""
Answer = TypeVar("Answer")


@dataclasses.dataclass(slots=True)
class Asking:
    """Asks for texts, and keeps count of those that have no answer."""

    count: ProgressCount
    num_failed: int = 0

    def each(
        self,
        items: Iterable[tuple[str, Item | BadRecord]],
        ask: Callable[[list[Item]], Sequence[Answer]],
        *,
        batch_size: int,
    ) -> Iterator[tuple[str, Item | BadRecord, Answer | str]]:
        """Yield (place, item, its answer or why there is none), in order; the reasons are told on standard error."""
        for chunk in chunks(items, batch_size):
            for (place, item), answer in zip(chunk, _asked_each(chunk, ask), strict=True):
                if isinstance(answer, str):
                    self.num_failed += 1
                    print(f"t5kit: {answer}", file=sys.stderr)
                yield place, item, answer
            self.count.advance(len(chunk))


@contextlib.contextmanager
def asking(what: str) -> Iterator[Asking]:
    """Show progress ("texts classified") while a verb asks; exits with 1 if something has no answer."""
    with progress(what) as count:
        made = Asking(count)
        yield made
    if made.num_failed:
        raise typer.Exit(1)


def _asked_each(
    chunk: Sequence[tuple[str, Item | BadRecord]], ask: Callable[[list[Item]], Sequence[Answer]]
) -> list[Answer | str]:
    """Return for each (place, item or what is wrong) its answer, or why there is none.

    ask: gives one answer for each item, or raises a T5kitError for all.
    """
    good = [(place, item) for place, item in chunk if not isinstance(item, BadRecord)]
    answers = iter(_asked(good, ask))
    return [item.error if isinstance(item, BadRecord) else next(answers) for _, item in chunk]


def _asked(items: list[tuple[str, Item]], ask: Callable[[list[Item]], Sequence[Answer]]) -> list[Answer | str]:
    if not items:
        return []
    try:
        return list(ask([item for _, item in items]))
    except T5kitError as error:
        if len(items) == 1:
            return [at_place(items[0][0], error)]
        return [answer for item in items for answer in _asked([item], ask)]

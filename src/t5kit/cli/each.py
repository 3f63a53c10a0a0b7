"""A chunk of texts asked at once; if one of it is refused, each alone, so that it takes no other down."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from t5kit.cli.outputs import at_place
from t5kit.errors import T5kitError
from t5kit.sources import BadRecord

Item = TypeVar("Item")
"""What is asked: a text, or a source and its target."""
Answer = TypeVar("Answer")


def asked_each(
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

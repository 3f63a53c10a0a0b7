"""A chunk of texts asked at once; if one of it is refused, each alone, so that it takes no other down."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from t5kit.cli.outputs import at_place
from t5kit.errors import T5kitError
from t5kit.sources import BadRecord

Answer = TypeVar("Answer")


def asked_each(
    chunk: Sequence[tuple[str, str | BadRecord]], ask: Callable[[list[str]], Sequence[Answer]]
) -> list[Answer | str]:
    """Return for each (place, text or what is wrong) its answer, or why there is none.

    ask: gives one answer for each text, or raises a T5kitError for all.
    """
    good = [(place, text) for place, text in chunk if isinstance(text, str)]
    answers = iter(_asked(good, ask))
    return [text.error if isinstance(text, BadRecord) else next(answers) for _, text in chunk]


def _asked(items: list[tuple[str, str]], ask: Callable[[list[str]], Sequence[Answer]]) -> list[Answer | str]:
    if not items:
        return []
    try:
        return list(ask([text for _, text in items]))
    except T5kitError as error:
        if len(items) == 1:
            return [at_place(items[0][0], error)]
        return [answer for item in items for answer in _asked([item], ask)]

"""What answers alive may take together, and what of it is kept for clients that have none."""

import dataclasses
from typing import Self

from t5kit.errors import RequestError

_RESERVE = 8
"""One part in so many of each limit is for clients that have no answer alive."""


@dataclasses.dataclass(slots=True)
class EncodedPrompt:
    """A prompt that has been through the encoder."""

    handle: int
    num_tokens: int
    num_bytes: int
    num_users: int = 0
    """Jobs alive that decode from it."""


@dataclasses.dataclass(slots=True)
class Used:
    """What is taken of each limit."""

    rows: int = 0
    prompt_tokens: int = 0
    cache_bytes: int = 0

    def add(self, prompt: EncodedPrompt, times: int) -> None:
        """Count what a prompt takes so many times more; -1 takes it off."""
        self.prompt_tokens += times * prompt.num_tokens
        self.cache_bytes += times * prompt.num_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The limits of what is alive; max_cache_bytes may be None, no limit. Raises: RequestError for one below 1."""

    max_batch_rows: int
    max_prompt_tokens: int
    max_cache_bytes: int | None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "max_cache_bytes" or self.max_cache_bytes is not None:
                check_limit(field.name, getattr(self, field.name), least=1)

    def holds(self, used: Used) -> bool:
        """Return whether so much may be taken."""
        return (
            used.rows <= self.max_batch_rows
            and used.prompt_tokens <= self.max_prompt_tokens
            and (self.max_cache_bytes is None or used.cache_bytes <= self.max_cache_bytes)
        )

    def without_reserve(self) -> Self:
        """Return what may be taken by all together before a client that has an answer alive has to wait.

        >>> Room(max_batch_rows=256, max_prompt_tokens=65_536, max_cache_bytes=None).without_reserve()
        Room(max_batch_rows=224, max_prompt_tokens=57344, max_cache_bytes=None)
        """
        most = self.max_cache_bytes
        return dataclasses.replace(
            self,
            max_batch_rows=self.max_batch_rows - self.max_batch_rows // _RESERVE,
            max_prompt_tokens=self.max_prompt_tokens - self.max_prompt_tokens // _RESERVE,
            max_cache_bytes=None if most is None else most - most // _RESERVE,
        )


def check_limit(name: str, limit: object, *, least: int) -> None:
    """Raise RequestError unless a limit is an integer of at least `least`."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < least:
        raise RequestError(f"{name} = {limit!r} must be an integer of at least {least}.")

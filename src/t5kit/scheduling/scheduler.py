"""What a scheduler is: requests in, events out; it decides which prompt is encoded when, and which rows are fed."""

from collections.abc import Sequence
from typing import Protocol

from t5kit.scheduling.requests import Event, GenerationRequest


class Scheduler(Protocol):
    """Nothing happens but inside `step`; one caller at a time."""

    @property
    def has_work(self) -> bool:
        """A request is waiting or alive, or an event has not been given yet."""
        ...

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Take requests in. One that cannot be answered becomes a RequestFailed of the next step.

        Raises: RequestError if a request_id is in use.
        """
        ...

    def step(self) -> list[Event]:
        """Do the next piece of work and return what came of it.

        That is at most one encoder run of bounded size, and one token (or verified draft) for every answer alive.
        """
        ...

    def cancel(self, request_id: int) -> None:
        """Drop a request, waiting or alive, and free what it holds at once; it gives no more events.

        An unknown id is ignored: the request may just have finished.
        """
        ...

    def close(self) -> None:
        """Cancel everything; the scheduler may be used again."""
        ...

"""Streams by themselves: however they end, what they were made of ends too."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Send

from t5kit.serving import streams
from t5kit.serving.streams import EventStream


async def endless() -> AsyncIterator[str]:
    while True:
        yield "data: a\n\n"
        await asyncio.sleep(0)


async def still_there() -> Message:
    """Receive nothing: the client neither writes nor leaves."""
    await asyncio.Event().wait()
    raise AssertionError


def num_ends_of(send: Send) -> int:
    """Return how often a stream that is sent with `send` ends its work."""
    ends: list[None] = []

    async def main() -> None:
        stream = EventStream(endless(), lambda: ends.append(None))
        await asyncio.wait_for(stream({"type": "http"}, still_there, send), 10)

    asyncio.run(main())
    return len(ends)


def test_a_stream_that_never_begins_ends_its_work() -> None:
    async def gone(message: Message) -> None:
        raise OSError("the client left")

    assert num_ends_of(gone) == 1


def test_a_reader_that_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "READER_TIMEOUT_S", 0.05)
    sent: list[Message] = []

    async def full_after_three(message: Message) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    assert num_ends_of(full_after_three) == 1 and len(sent) == 4

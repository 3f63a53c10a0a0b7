"""Answers that stop when nobody is there to read them, and server-sent events."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")

HEARTBEAT_S = 15.0
"""A comment is sent when there was nothing to say for so long, so that proxies keep the connection."""


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`; if the client leaves before, `work` is cancelled.

    Raises: ClientDisconnect then.
    """
    task = asyncio.ensure_future(work)
    listener = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({task, listener}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _ended(listener)
        await _ended(task)


class EventStream(StreamingResponse):
    """Server-sent events from an iterator of their data; the iterator is closed as soon as the client leaves.

    A client that reads slowly slows the iterator down.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str]) -> None:
        self._events = _with_heartbeat(events)
        super().__init__(self._events, headers={"X-Accel-Buffering": "no"})  # nginx: do not collect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self.stream_response(send))
        listener = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({writer, listener}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                with contextlib.suppress(OSError):  # the client left while it was being written to
                    writer.result()
        finally:
            await _ended(listener)
            await _ended(writer)
            await self._events.aclose()


def event_data(value: object) -> str:
    """Return one server-sent event that holds `value` as JSON."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _with_heartbeat(events: AsyncIterator[str]) -> Any:
    upcoming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({upcoming}, timeout=HEARTBEAT_S)
            if not done:
                yield ": waiting\n\n"
                continue
            event = upcoming.result()
            if event is None:
                return
            yield event
            upcoming = asyncio.ensure_future(anext(events, None))
    finally:
        await _ended(upcoming)
        await events.aclose()  # type: ignore[attr-defined]  # every iterator here is a generator


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: "asyncio.Future[Any]") -> None:
    """Cancel a task that still runs and wait until it has cleaned up."""
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task

"""Answers that stop when nobody is there to read them, and server-sent events."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

_log = logging.getLogger("t5kit.serving")

Result = TypeVar("Result")

HEARTBEAT_S = 15.0
"""A comment is sent when there was nothing to say for so long, so that proxies keep the connection."""
READER_TIMEOUT_S = 60.0
"""A stream whose client takes nothing for so long is ended: what it does not read is held in memory."""


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

    A client that reads slowly slows the iterator down. on_end is called in any case, even if the iterator was never
    begun and so cannot clean up.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], on_end: Callable[[], None]) -> None:
        self._events, self._on_end = _with_heartbeat(events), on_end
        super().__init__(self._events, headers={"X-Accel-Buffering": "no"})  # nginx: do not collect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(READER_TIMEOUT_S):
                await send(message)

        writer = asyncio.create_task(self.stream_response(send_in_time))
        listener = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({writer, listener}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                with contextlib.suppress(OSError):  # the client left, or did not read (a TimeoutError is one)
                    writer.result()
        finally:
            self._on_end()  # first: it cannot be kept from it by another cancellation
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
        try:
            await task
        except (asyncio.CancelledError, OSError):  # as asked; or the client left
            pass
        except Exception:
            _log.exception("what a stream left behind failed to clean up")

"""The border of the application by itself: defects are answered and told, bodies are bounded."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from t5kit.serving import middleware
from t5kit.serving.access import HostGuard
from t5kit.serving.metrics import ServerMetrics
from t5kit.serving.middleware import RequestBorder


def answered(
    app: Any,
    messages: Iterable[Message] = (),
    headers: Iterable[tuple[bytes, bytes]] = (),
    hosts: Sequence[str] = (),
) -> list[Message]:
    """Return what an application behind the border sends for one request."""
    sent: list[Message] = []
    given = iter(messages)
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}

    async def receive() -> Message:
        return next(given)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(
        RequestBorder(app, metrics=ServerMetrics(), max_body_bytes=10, hosts=HostGuard(hosts))(scope, receive, send)
    )
    return sent


def test_a_defect_is_answered_with_its_id_and_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("secret")

    with caplog.at_level(logging.ERROR, "t5kit.serving"):
        start, body = answered(broken, headers=[(b"x-request-id", b"r-1")])
    assert start["status"] == 500 and (b"x-request-id", b"r-1") in start["headers"]
    assert b"r-1" in body["body"] and b"secret" not in body["body"]
    assert caplog.records[0].exc_info is not None and caplog.records[0].fields == {"request_id": "r-1"}  # type: ignore[attr-defined]


def test_a_defect_within_a_response_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    assert [message["type"] for message in answered(broken)] == ["http.response.start"]
    assert "defect" in caplog.messages


def test_a_body_that_says_its_size_is_refused_before_it_is_read() -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    start, _ = answered(never, headers=[(b"content-length", b"11")])
    assert start["status"] == 413


def test_parts_of_a_body_are_counted_together() -> None:
    seen = []

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            seen.append(await receive())

    parts = [{"type": "http.request", "body": b"123456", "more_body": True}] * 2
    answered(reads, parts)
    assert len(seen) == 1  # the second part is one too many


def test_a_body_that_trickles_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(middleware, "BODY_BYTES_PER_S", 1000)
    statuses, num_parts = [], 0

    async def trickle() -> Message:
        nonlocal num_parts
        num_parts += 1
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"a", "more_body": num_parts < 1000}

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
        except HTTPException as error:
            statuses.append(error.status_code)

    async def send(message: Message) -> None:
        pass

    border = RequestBorder(reads, metrics=ServerMetrics(), max_body_bytes=10_000, hosts=HostGuard(()))
    asyncio.run(border({"type": "http", "method": "POST", "path": "/", "headers": []}, trickle, send))
    assert statuses == [408] and num_parts < 100


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without reading the body."""
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("header", "is_closed"),
    [
        ((b"content-length", b"1000000"), True),
        ((b"transfer-encoding", b"chunked"), True),
        ((b"content-length", b"10"), False),  # passed over, so that its client surely reads why it is refused
        ((b"accept", b"*/*"), False),
    ],
)
def test_a_long_body_that_nobody_reads_ends_its_connection(header: tuple[bytes, bytes], is_closed: bool) -> None:
    sent: list[Message] = []
    border = RequestBorder(refuses, metrics=ServerMetrics(), max_body_bytes=10**9, hosts=HostGuard(()))

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(border({"type": "http", "method": "POST", "path": "/", "headers": [header]}, receive, send))
    assert ((b"connection", b"close") in sent[0]["headers"]) == is_closed


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 401),
        (b"LocalHost:8000", 401),
        (b"localhost.:8000", 401),
        (b"127.0.0.1:8000", 401),
        (b"127.9.9.9", 401),
        (b"[::1]:8000", 401),
        (b"[0:0:0:0:0:0:0:1]", 401),
        (b"[fe80::1]", 401),
        (b"t5.example:443", 401),
        (None, 401),
        (b"rebound.example:8000", 421),
        (b"localhost.rebound.example", 421),
        (b"127.0.0.1.rebound.example", 421),
        (b"rebound.example@localhost", 421),
        (b"10.0.0.1", 421),
        (b"0.0.0.0:8000", 421),
        (b"[::2]", 421),
        (b"[::1", 421),
        (b"localhost:80:80", 421),
        (b"", 421),
        (b"\xff", 421),
    ],
)
def test_only_hosts_that_were_told_and_this_machines_own_are_answered(host: bytes | None, status: int) -> None:
    headers = [] if host is None else [(b"host", host)]
    start, body = answered(refuses, headers=headers, hosts=["T5.example", "fe80::1"])
    assert start["status"] == status
    if status == 421:
        assert b"--allowed-host" in body["body"]
    for hosts in ([], ["t5.example", "*"]):
        assert answered(refuses, headers=headers, hosts=hosts)[0]["status"] == 401

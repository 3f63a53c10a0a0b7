"""What happens to every request, whatever it asks: an id, a bound on its body, headers that browsers heed, a line in
the log and counts. Plain ASGI, so that streams pass through untouched.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t5kit.serving.access import HostGuard
from t5kit.serving.metrics import ServerMetrics

CLIENT_GONE = 499
"""nginx's word for a client that left; nobody receives it, the log and the metrics do."""
BODY_TIMEOUT_S = 30.0
BODY_BYTES_PER_S = 10_000
"""A body has so many seconds, and as many more as it takes at this rate: a slower client holds a connection for
nothing."""
_MAX_PASSED_BYTES = 65_536
"""Of a body that nobody reads; more than this is left where it is and the connection closed."""
_MAX_LOGGED_PATH = 200
"""Characters; none of our paths is longer, and a client may send 64 KB."""
_WRONG_HOST = "This server does not answer to this host. Ask it as localhost, or start it with --allowed-host NAME."
_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_log = logging.getLogger("t5kit.serving")


class RequestBorder:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics, max_body_bytes: int, hosts: HostGuard) -> None:
        self._app, self._metrics, self._max_body_bytes, self._hosts = app, metrics, max_body_bytes, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = _given_id(headers) or secrets.token_hex(8)
        fields: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, fields=fields)
        status, is_complete, num_bytes = 0, False, 0

        async def send_on(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
                found = MutableHeaders(scope=message)
                found["X-Request-Id"] = request_id
                if status == 408 or (not fields.get("has_body") and _announces_much(headers)):
                    found["Connection"] = "close"  # what is left of the body is not read
                for name, value in _HEADERS.items():
                    found.setdefault(name, value)
            await send(message)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        async def receive_bounded() -> Message:
            nonlocal num_bytes
            if fields.get("has_body"):
                return await receive()  # only a disconnect can come now, and may take its time
            try:
                spent_s = time.perf_counter() - started_s
                async with asyncio.timeout(BODY_TIMEOUT_S + num_bytes / BODY_BYTES_PER_S - spent_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "The request's body did not come in time.") from None
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                if num_bytes > self._max_body_bytes:
                    raise HTTPException(413, self._too_large())
                fields["has_body"] = not message.get("more_body", False)
            return message

        try:
            host = headers.get(b"host")
            length = headers.get(b"content-length", b"0")
            if not self._hosts.allows(None if host is None else host.decode("latin-1")):
                self._metrics.refusals.labels("host").inc()
                await _refuse(send_on, 421, _WRONG_HOST)
            elif length.isdigit() and int(length) > self._max_body_bytes:
                await _refuse(send_on, 413, self._too_large())
            else:
                await self._app(scope, receive_bounded, send_on)
        except Exception as error:  # a defect of ours: told here, where it has its id
            _log.error("defect", exc_info=error, extra={"fields": {"request_id": request_id}})
            if not status:
                told = f"Internal error, please report it with the request id {request_id}."
                await _refuse(send_on, 500, told, "server_error")
        finally:
            seconds = time.perf_counter() - started_s
            if not is_complete or status == CLIENT_GONE:
                status = CLIENT_GONE
                self._metrics.disconnects.inc()
            fields.pop("has_body", None)
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.http_requests.labels(route, str(status)).inc()
            self._metrics.http_seconds.labels(route).observe(seconds)
            entry = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"][:_MAX_LOGGED_PATH],
                "status": status,
                "seconds": round(seconds, 4),
            }
            is_quiet = route in ("/healthz", "/readyz", "/metrics") and status < 400
            _log.log(logging.DEBUG if is_quiet else logging.INFO, "request", extra={"fields": entry | fields})

    def _too_large(self) -> str:
        self._metrics.refusals.labels("size").inc()
        return f"The body is larger than this server takes ({self._max_body_bytes:,} bytes). Split the request."


def _announces_much(headers: dict[bytes, bytes]) -> bool:
    """Return whether a body is announced that the server would not just pass over to come to the next request."""
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or not length.isdigit() or int(length) > _MAX_PASSED_BYTES


def _given_id(headers: dict[bytes, bytes]) -> str | None:
    """Return the client's own X-Request-Id, if it is one that a log can hold."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else None


async def _refuse(send: Send, status: int, message: str, kind: str = "invalid_request_error") -> None:
    error = {"message": message, "type": kind, "param": None, "code": None}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

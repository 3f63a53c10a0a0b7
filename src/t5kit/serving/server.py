"""Running the application: sockets, TLS, signals. A first SIGTERM or interrupt lets what was accepted be answered."""

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from t5kit.errors import ConfigError, EngineError, RequestError
from t5kit.serving.access import is_loopback
from t5kit.serving.app import create_app
from t5kit.serving.config import ServingConfig
from t5kit.serving.state import ServerState

_log = logging.getLogger("t5kit.serving")
FIRST_REQUEST_S = 2.0
"""Seconds that a connection which was taken, and has asked nothing yet, is given to ask while the server stops."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a server listens, and how it stops."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one, told on standard error."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed."""
    drain_delay_s: float = 0.0
    """Seconds between saying "not ready" and taking no more connections: the time a balancer needs to notice."""
    drain_timeout_s: float = 60.0
    """Seconds that requests under way are given; then they are dropped."""

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both files: the certificate and its key.")
        for path in (self.tls_certificate, self.tls_key):
            if path is not None and not path.is_file():
                raise ConfigError(f"{path}: there is no such file.")


class _Server(uvicorn.Server):
    """uvicorn, stopping in two stages and without ending in a signal."""

    def __init__(self, config: uvicorn.Config, state: ServerState, listening: Listening) -> None:
        super().__init__(config)
        self._state, self._listening = state, listening
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        assert sockets
        host, port = sockets[0].getsockname()[:2]
        scheme = "http" if self._listening.tls_certificate is None else "https"
        shown = f"[{host}]" if ":" in host else host
        names = ", ".join(model.name for model in self._state.models)
        # Whoever reads this line may connect at once: it comes when the socket is heard.
        print(f"t5kit: serving {names} at {scheme}://{shown}:{port}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        yield  # the handlers stay: a signal while the engines are stopped must not cut that short

    def _stop(self) -> None:
        if self._draining is None:
            self._state.is_draining = self._listening.drain_delay_s == 0
            self._draining = asyncio.create_task(self._drain())
        else:
            self.force_exit = True

    async def _drain(self) -> None:
        num_pending = sum(model.engine.num_pending for model in self._state.models)
        _log.info("stopping", extra={"fields": {"pending": num_pending}})
        self._state.is_leaving = True
        await asyncio.sleep(self._listening.drain_delay_s)
        self._state.is_draining = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, refuse in words what new connections are about to ask, and let uvicorn end the others.

        uvicorn closes a connection whose first request is still on its way, and its client would never be told why.
        """
        for server in self.servers:
            server.close()
        end_s = time.monotonic() + FIRST_REQUEST_S
        while not self.force_exit:
            await asyncio.sleep(0.02)  # at first, so that what was just taken counts among the connections
            if time.monotonic() > end_s or not self._awaits_first_request():
                break
        await super().shutdown(sockets)

    def _awaits_first_request(self) -> bool:
        return any(getattr(connection, "cycle", None) is None for connection in self.server_state.connections)


def serve(config: ServingConfig, listening: Listening) -> None:
    """Serve until told to stop.

    Raises: what keeps a model from being loaded; EngineError where the address cannot be listened at.
    """
    with _listening_socket(listening) as listener:
        app = create_app(_with_hosts(config, listening, listener))
        options = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(listening.trusted_proxies),
            forwarded_allow_ips=list(listening.trusted_proxies) or None,
            ssl_certfile=listening.tls_certificate,
            ssl_keyfile=listening.tls_key,
            timeout_graceful_shutdown=max(1, round(listening.drain_timeout_s)),
            lifespan="off",  # it is entered here, where what it raises can be told
            ws="none",
            timeout_keep_alive=65,  # longer than balancers keep idle connections, or they would meet closed ones
        )
        _check_tls(options)
        loop_factory = options.get_loop_factory()  # uvloop's, where that is installed
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_serve(app, options, listening, listener))


def _with_hosts(config: ServingConfig, listening: Listening, listener: socket.socket) -> ServingConfig:
    """Return the configuration with the hosts that requests must be meant for, if they are checked.

    They are where the server was told any, and where only this machine hears it: there pages of other sites are what
    would be let in.
    """
    if config.allowed_hosts or is_loopback(listener.getsockname()[0]):
        return dataclasses.replace(config, allowed_hosts=(*config.allowed_hosts, listening.host))
    return config


async def _serve(app: FastAPI, options: uvicorn.Config, listening: Listening, listener: socket.socket) -> None:
    state = app.state.server
    server = _Server(options, state, listening)
    async with app.router.lifespan_context(app):
        await server.serve(sockets=[listener])


def _listening_socket(listening: Listening) -> socket.socket:
    """Return a listening socket, made before anything is loaded, so that a taken port is told at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EngineError(
            f"Cannot listen at {listening.host}:{listening.port}: {reason}. Choose another --host or --port."
        ) from error
    listener.set_inheritable(False)
    return listener


def _check_tls(options: uvicorn.Config) -> None:
    try:
        options.load()
    except OSError as error:  # ssl.SSLError is one
        raise RequestError(f"The TLS files cannot be used: {error}.") from error

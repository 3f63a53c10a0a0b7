"""What the routes share: the models, who may ask, and what is counted."""

import dataclasses
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from t5kit.errors import BusyError, ModelNotFoundError, OverloadedError, RequestError
from t5kit.serving.access import KeyGuard, RateLimiter
from t5kit.serving.config import ServingConfig
from t5kit.serving.metrics import ServerMetrics
from t5kit.serving.schemas import Asking, ErrorReply
from t5kit.serving.served_model import Answer, Asker, ServedModel

_ERRORS = {
    400: "An option or text that cannot be taken.",
    401: "A missing or unknown API key.",
    404: "No such model.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    421: "A host that this server was not told.",
    422: "The body is not of the right shape.",
    429: "Too many requests or wrong API keys; Retry-After says when to come again.",
    500: "A defect, or a model with damaged weights.",
    503: "Starting, stopping, or an engine that died; Retry-After says when to come again.",
    504: "Not done within the time limit.",
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text} for status, text in _ERRORS.items()
}
"""For the OpenAPI document: what every request to a model may be answered with."""


@dataclasses.dataclass(slots=True, kw_only=True)
class ServerState:
    """One server."""

    config: ServingConfig
    models: tuple[ServedModel, ...]
    metrics: ServerMetrics
    keys: KeyGuard
    limiter: RateLimiter
    started_s: int = dataclasses.field(default_factory=lambda: int(time.time()))
    """When it was started, in Unix time."""
    is_leaving: bool = False
    """Not ready any more, so that balancers look for another server."""
    is_draining: bool = False
    """Requests under way are finished, new ones are refused."""

    def model_of(self, name: str | None) -> tuple[ServedModel, str]:
        """Return a model and the adapter's name, or "", that a request's `model` names; the first one for None.

        Raises: ModelNotFoundError.
        """
        if name is None:
            return self.models[0], ""
        for model in self.models:
            if name == model.name:
                return model, ""
            if name in model.adapters:
                return model, name
        known = [each for model in self.models for each in (model.name, *model.adapters)]
        raise ModelNotFoundError(f"There is no model {name!r} here; there are: {', '.join(known)}.")

    def asker(self, client: str, body: Asking, adapter: str = "") -> Asker:
        """Return what the scheduler has to know of a request. Raises: RequestError for more time than is allowed."""
        limits = self.config.limits
        timeout_s = limits.timeout_s if body.timeout_s is None else body.timeout_s
        if timeout_s > limits.max_timeout_s:
            raise RequestError(f"timeout_s = {timeout_s:g} is more than this server allows ({limits.max_timeout_s:g}).")
        return Asker(client=client, priority=body.priority or "normal", timeout_s=timeout_s, adapter=adapter)

    def take_answer(self, model: ServedModel, answer: Answer, num_input_tokens: int) -> None:
        """Count a finished answer."""
        self.metrics.take_answer(model.name, answer.completions[0].timings, num_input_tokens)

    def take_error(self, model: ServedModel, error: Exception) -> None:
        """Count a text that failed in the engine."""
        self.metrics.errors.labels(model.name, type(error).__name__).inc()


def server_of(request: Request) -> ServerState:
    """Return the server that a request came to."""
    state = request.app.state.server
    assert isinstance(state, ServerState)
    return state


async def current_server(request: Request) -> ServerState:
    """Return `server_of`. Speed: async, or FastAPI would call it on another thread."""
    return server_of(request)


_bearer = HTTPBearer(auto_error=False, description="One of the server's API keys, where it was started with any.")


Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def known_client(request: Request, credentials: Credentials) -> str:
    """Return who asks: the name of the key's client, or the address where no keys are used.

    Raises: HTTPException (401) without a key that is someone's; OverloadedError after too many wrong ones.
    """
    server = server_of(request)
    client = request.client.host if request.client else "unknown"
    if server.keys:
        try:
            found = None if credentials is None else server.keys.client_of(credentials.credentials, client)
        except OverloadedError:
            server.metrics.refusals.labels("key").inc()
            raise
        if found is None:
            raise HTTPException(
                401,
                "This server needs an API key: send the header Authorization: Bearer KEY.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        client = found
    request.state.fields["client"] = client
    return client


class AdmittingRoute(APIRoute):
    """A route that refuses whoever may not ask now before anything of the body is read: FastAPI reads it before it
    looks at what a route depends on."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def admit_and_handle(request: Request) -> Response:
            await _admit(request)
            return await handle(request)

        return admit_and_handle


async def _admit(request: Request) -> None:
    """Raises: what `known_client` raises, BusyError while the server stops, OverloadedError over the client's rate."""
    client = await known_client(request, await _bearer(request))
    server = server_of(request)
    if server.is_draining:
        raise BusyError("This server is stopping. Ask another one, or again in a moment.", retry_after_s=5.0)
    try:
        server.limiter.take(client)
    except OverloadedError:
        server.metrics.refusals.labels("rate").inc()
        raise
    request.state.client = client


async def admitted_client(request: Request, credentials: Credentials) -> str:
    """Return whom `AdmittingRoute` has let in. credentials: so that the OpenAPI document says that a key is asked for.

    Speed: the route has called `known_client`, since each nested dependency takes 0.1 ms.
    """
    client = request.state.client
    assert isinstance(client, str)
    return client


KnownClient = Annotated[str, Depends(known_client)]
AdmittedClient = Annotated[str, Depends(admitted_client)]
"""Of the routers whose routes are AdmittingRoutes."""
Server = Annotated[ServerState, Depends(current_server)]

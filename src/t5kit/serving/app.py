"""The application: engines started and stopped with it, errors made into answers, and the routes put together."""

import contextlib
import difflib
import logging
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from t5kit.errors import BusyError, OverloadedError, T5kitError
from t5kit.serving import routes_generate, routes_openai, routes_score, routes_status
from t5kit.serving.access import ApiKeys, HostGuard, KeyGuard, RateLimiter
from t5kit.serving.config import ModelSource, ServingConfig
from t5kit.serving.engine import Engine
from t5kit.serving.error_words import error_detail, error_words, retry_after
from t5kit.serving.loading import FolderLoader
from t5kit.serving.metrics import ServerMetrics
from t5kit.serving.middleware import CLIENT_GONE, RequestBorder
from t5kit.serving.served_model import ServedModel
from t5kit.serving.state import ServerState

_log = logging.getLogger("t5kit.serving")
_PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_DESCRIPTION = """\
T5 over HTTP. Answers are those of `t5kit.Model`, whatever else is being answered at the same time.

`/v1/completions` and `/v1/embeddings` have OpenAI's shape. Where the server was started with API keys, send one as
`Authorization: Bearer KEY`. Refusals that are worth another try (429, 503) say when in `Retry-After`.
"""


def create_app(config: ServingConfig) -> FastAPI:
    """Return the application of a server; its engines start when it starts.

    Raises: CheckpointError, TokenizerError for a folder that cannot be served.
    """
    metrics = ServerMetrics()
    models = [_model(source, config, metrics) for source in config.models]
    state = ServerState(
        config=config,
        models=tuple(models),
        metrics=metrics,
        keys=KeyGuard(ApiKeys(config.api_keys), config.limits.wrong_keys_per_minute),
        limiter=RateLimiter(config.limits.requests_per_minute),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            for model in models:
                await model.engine.start()
                description = model.engine.description
                assert description is not None
                told = {"model": model.name, "engine": description.engine, "weights": description.weights}
                _log.info("model ready", extra={"fields": told})
            yield
        finally:
            state.is_draining = True
            for model in models:
                await model.engine.close()

    app = FastAPI(
        title="t5kit",
        version=version("t5kit"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.server = state
    for routes in (routes_generate, routes_openai, routes_score, routes_status):
        app.include_router(routes.router)
    if config.is_page_shown:
        _add_page(app)
    _add_error_handlers(app, metrics)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(
        RequestBorder,
        metrics=metrics,
        max_body_bytes=config.limits.max_body_bytes,
        hosts=HostGuard(config.allowed_hosts),
    )
    return app


def _model(source: ModelSource, config: ServingConfig, metrics: ServerMetrics) -> ServedModel:
    engine = Engine(
        source.name,
        FolderLoader(source),
        config.service,
        max_requests=config.limits.max_requests,
        max_tokens=config.limits.max_queued_tokens,
        on_counts=lambda now, before: metrics.take_counts(source.name, now, before),
        on_restart=lambda: metrics.engine_restarts.labels(source.name).inc(),
    )
    return ServedModel.open(source, engine, config.limits)


def _add_page(app: FastAPI) -> None:
    folder = resources.files("t5kit.serving") / "page"
    for path, (name, media_type) in _PAGE_FILES.items():
        content = (folder / name).read_bytes()

        async def show(content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

        app.add_api_route(path, show, include_in_schema=False, response_model=None)


def _add_error_handlers(app: FastAPI, metrics: ServerMetrics) -> None:
    def reply(
        status: int,
        message: str,
        kind: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> JSONResponse:
        error = {"message": message, "type": kind, "param": param, "code": None}
        return JSONResponse({"error": error}, status, headers=None if headers is None else dict(headers))

    @app.exception_handler(T5kitError)
    async def failed(request: Request, error: T5kitError) -> JSONResponse:
        request.state.fields["error"] = type(error).__name__
        if isinstance(error, BusyError):
            metrics.refusals.labels("overload" if isinstance(error, OverloadedError) else "unready").inc()
        seconds = retry_after(error)
        headers = None if seconds is None else {"Retry-After": seconds}
        return JSONResponse({"error": error_detail(error)}, error_words(error)[0], headers=headers)

    @app.exception_handler(RequestValidationError)
    async def misshapen(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = error.errors()
        body = request.scope["route"].body_field if "route" in request.scope else None
        known = list(body.field_info.annotation.model_fields) if body is not None else []
        where = ".".join(str(part) for part in problems[0]["loc"][1:2])
        message = "; ".join(dict.fromkeys(_problem(problem, known) for problem in problems[:4]))
        return reply(422, message, "invalid_request_error", param=where if where in known else None)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 401:
            metrics.refusals.labels("key").inc()
        kind = "authentication_error" if error.status_code == 401 else "invalid_request_error"
        return reply(error.status_code, str(error.detail), kind, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)


def _problem(problem: Mapping[str, Any], known: list[str]) -> str:
    """Return what is wrong with one field, without its value: a user's text has no place in logs and error pages."""
    where = ".".join(str(part) for part in problem["loc"][1:])
    match problem["type"]:
        case "json_invalid":
            return f"The body is not valid JSON, at character {where}: {problem['ctx']['error']}."
        case "extra_forbidden":
            near = difflib.get_close_matches(where, known, n=2)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
            return f"There is no field {where[:60]!r}. {hint}"
        case _:
            return f"{where or 'The body'}: {problem['msg']}."

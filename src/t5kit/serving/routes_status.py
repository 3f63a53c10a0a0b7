"""GET /v1/models, /healthz, /readyz and /metrics: what there is, and how it does."""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from t5kit.serving.schemas import ErrorReply, Health, ModelReply, ModelsReply
from t5kit.serving.state import ERROR_RESPONSES, KnownClient, Server

router = APIRouter(tags=["status"])
_KEY_NEEDED: dict[int | str, dict[str, Any]] = {401: ERROR_RESPONSES[401]}


@router.get("/v1/models", response_model=ModelsReply, responses=_KEY_NEEDED, summary="Models and adapters")
async def models(client: KnownClient, server: Server) -> ModelsReply:
    """List what requests may name as their model."""
    replies = []
    for model in server.models:
        description = model.engine.description
        for name in (model.name, *model.adapters):
            replies.append(
                ModelReply(
                    id=name,
                    created=server.started_s,
                    parent=None if name == model.name else model.name,
                    engine=description.engine if description else "",
                    weights=description.weights if description else "",
                    status=model.engine.status,
                    max_input_tokens=model.limits.max_input_tokens,
                    defaults=dict(model.defaults_of("" if name == model.name else name)),
                    prefixes=dict(model.folder.prefixes),
                )
            )
    return ModelsReply(data=replies)


@router.get("/healthz", response_model=Health, summary="Is the process alive?")
async def healthz() -> Health:
    """Answer as long as the process does; says nothing of the models."""
    return Health(status="alive")


@router.get(
    "/readyz",
    response_model=Health,
    responses={503: {"model": Health, "description": "Not all models are ready, or the server is stopping."}},
    summary="May requests come?",
)
async def readyz(server: Server, response: Response) -> Health:
    """Answer 200 while every model is ready and the server is not stopping, 503 otherwise."""
    statuses = {model.name: model.engine.status for model in server.models}
    is_stopping = server.is_leaving or server.is_draining
    is_ready = not is_stopping and all(status == "ready" for status in statuses.values())
    if not is_ready:
        response.status_code = 503
    return Health(status="ready" if is_ready else "stopping" if is_stopping else "waiting", models={**statuses})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 401: {"model": ErrorReply}},
    summary="Counts for Prometheus",
)
async def metrics(client: KnownClient, server: Server) -> Response:
    """Give all counts in Prometheus' text format."""
    return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)

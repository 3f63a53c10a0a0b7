"""POST /v1/score, /v1/classify and /v1/rank: how likely given texts are as answers."""

from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request

from t5kit.api.classification import Classification as ClassifiedText
from t5kit.api.classification import LabelScores, classifications
from t5kit.api.ranking import ranking
from t5kit.errors import RequestError
from t5kit.serving.routes_generate import note
from t5kit.serving.schemas import (
    Classification,
    ClassifyBody,
    ClassifyReply,
    LabelScore,
    RankBody,
    Ranked,
    RankReply,
    ScoreBody,
    ScoreReply,
    TargetScore,
)
from t5kit.serving.state import ERROR_RESPONSES, AdmittedClient, AdmittingRoute, Server
from t5kit.serving.streams import unless_disconnected

router = APIRouter(route_class=AdmittingRoute, tags=["score"], responses=ERROR_RESPONSES)


@router.post("/v1/score", response_model=ScoreReply, summary="Log-probabilities of given targets")
async def score(request: Request, body: ScoreBody, client: AdmittedClient, server: Server) -> ScoreReply:
    """Score targets given their sources, as `Model.score` does."""
    model, adapter = server.model_of(body.model)
    name = body.model or model.name
    sources = [body.sources] if isinstance(body.sources, str) else body.sources
    targets = [body.targets] if isinstance(body.targets, str) else body.targets
    if len(sources) != len(targets):
        raise RequestError(f"Got {len(sources)} sources and {len(targets)} targets; give one target for each source.")
    note(request, server, name, sources)
    prompts = await model.encode(sources, truncate=body.truncate)
    ids = await model.encode(targets, truncate=body.truncate, prompts=sources)
    work = model.score(prompts, [[each] for each in ids], server.asker(client, body, adapter))
    found = await unless_disconnected(request, work)
    return ScoreReply(model=name, scores=[TargetScore(score=total(row), num_tokens=len(row)) for (row,) in found])


@router.post("/v1/classify", response_model=ClassifyReply, summary="The likeliest of given labels")
async def classify(request: Request, body: ClassifyBody, client: AdmittedClient, server: Server) -> ClassifyReply:
    """Compare labels by the log-probability that the model gives each as the whole answer to the text."""
    model, adapter = server.model_of(body.model)
    name = body.model or model.name
    texts = [body.text] if isinstance(body.text, str) else body.text
    note(request, server, name, texts)
    prompts = await model.encode(texts, truncate=body.truncate)
    labels = await model.encode_labels(body.labels, texts)
    work = model.score(prompts, labels, server.asker(client, body, adapter))
    scores = LabelScores.of_tokens(await unless_disconnected(request, work))
    compared_NK = scores.comparable(is_length_normalized=body.is_length_normalized)
    found = classifications(scores, body.labels, is_length_normalized=body.is_length_normalized, calibration=None)
    return ClassifyReply(
        model=name,
        results=[
            _classification(index, each, ranking(compared_K).order)
            for index, (each, compared_K) in enumerate(zip(found, compared_NK, strict=True))
        ],
    )


@router.post("/v1/rank", response_model=RankReply, summary="Candidates in order of likelihood")
async def rank(request: Request, body: RankBody, client: AdmittedClient, server: Server) -> RankReply:
    """Order candidates by the log-probability that the model gives each as the whole answer to the text."""
    model, adapter = server.model_of(body.model)
    name = body.model or model.name
    note(request, server, name, [body.text])
    prompts = await model.encode([body.text], truncate=body.truncate)
    candidates = await model.encode(body.candidates, truncate=body.truncate, prompts=[body.text] * len(body.candidates))
    work = model.score(prompts, [candidates], server.asker(client, body, adapter))
    (rows,) = await unless_disconnected(request, work)
    (compared_K,) = LabelScores.of_tokens([rows]).comparable(is_length_normalized=body.is_length_normalized)
    ranked = ranking(compared_K)
    return RankReply(
        model=name,
        results=[
            Ranked(index=place, text=body.candidates[place], score=ranked.scores[place], num_tokens=len(rows[place]))
            for place in ranked.order[: body.top_n]
        ],
    )


def _classification(index: int, found: ClassifiedText, order: Sequence[int]) -> Classification:
    """Return one text's reply, its labels in an order of their places."""
    names = list(found.probabilities)
    labels = [
        LabelScore(
            label=names[place],
            score=found.log_probabilities[names[place]],
            probability=found.probabilities[names[place]],
        )
        for place in order
    ]
    return Classification(index=index, label=found.label, labels=labels)


def total(log_probs: np.ndarray) -> float:
    """Return the sum of a target's log-probabilities [T], as `Model.score` takes it."""
    return float(log_probs.sum(dtype=np.float64))

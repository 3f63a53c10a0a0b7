"""POST /v1/generate and /v1/trace: answers in t5kit's own words."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from t5kit.api.arguments import GenerationArguments
from t5kit.api.completion import Completion
from t5kit.errors import RequestError
from t5kit.serving.error_words import error_detail
from t5kit.serving.schemas import (
    Alternative,
    GenerateReply,
    GenerateRequest,
    GenerationWords,
    Output,
    Reply,
    Result,
    TimingsReply,
    TokenReply,
    TraceBody,
    TracedToken,
    TraceReply,
)
from t5kit.serving.served_model import Answer, Failure, Generation, Piece, ServedModel, Trace
from t5kit.serving.state import ERROR_RESPONSES, AdmittedClient, AdmittingRoute, Server, ServerState
from t5kit.serving.streams import EventStream, event_data, unless_disconnected
from t5kit.text import Tokenizer

router = APIRouter(route_class=AdmittingRoute, tags=["generate"])

_MAX_TRACED_WEIGHTS = 250_000
"""Tokens of the prompt times tokens of the answer: some megabytes of JSON."""
_STREAM_DOC: dict[str, Any] = {
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": (
                'data: {"type":"text","index":0,"text":"Hal"}\n\ndata: {"type":"text","index":0,"text":"lo"}\n\n'
                'data: {"type":"result","index":0,"outputs":[{"text":"Hallo","score":-0.4,"finish_reason":"eos",'
                '"num_tokens":3}],"num_input_tokens":7,"timings":{"queued_s":0.0,"first_token_s":0.01,'
                '"total_s":0.03}}\n\ndata: {"type":"done"}\n\n'
            ),
        }
    },
    "description": "The answers, or with stream=true server-sent events: text, result, error (of one text), done.",
}


@router.post(
    "/v1/generate",
    response_model=GenerateReply,
    responses={200: _STREAM_DOC, **ERROR_RESPONSES},
    summary="Answer one text or several",
)
async def generate(request: Request, body: GenerateRequest, client: AdmittedClient, server: Server) -> Any:
    """Answer as `Model.generate` does. With stream=true the pieces of each text come as they are generated; joined they
    are its answer. Beam search knows its answer only at the end and gives it whole."""
    model, adapter = server.model_of(body.model)
    name = body.model or model.name
    texts = [body.text] if isinstance(body.text, str) else body.text
    note(request, server, name, texts)
    asked = await model.asked(words_of(body), adapter=adapter, is_streamed=body.stream)
    prompts = await model.encode(texts, truncate=body.truncate)
    asker = server.asker(client, body, adapter)
    generation = model.generate(prompts, asked, asker, texts=texts, is_streamed=body.stream)
    if body.stream:
        return EventStream(_events(server, model, generation, prompts, details=body.details), generation.cancel)
    answers = await unless_disconnected(request, counted(server, model, generation))
    results = []
    for answer, ids in zip(answers, prompts, strict=True):
        server.take_answer(model, answer, len(ids))
        results.append(_result(answer, len(ids), model.tokenizer, details=body.details))
    return as_json(GenerateReply(model=name, results=results))


@router.post(
    "/v1/trace",
    response_model=TraceReply,
    responses=ERROR_RESPONSES,
    summary="Look into an answer",
)
async def trace(request: Request, body: TraceBody, client: AdmittedClient, server: Server) -> Response:
    """Tell for each token of an answer its log-probability, what else could have stood there, and which tokens of the
    prompt the decoder looked at when it chose the token (the mean over layers and heads)."""
    model, adapter = server.model_of(body.model)
    name = body.model or model.name
    note(request, server, name, [body.text])
    if (body.answer is None) == (body.answer_ids is None):
        raise RequestError("Give the answer as text (answer) or as token ids (answer_ids): one of the two.")
    (ids,) = await model.encode([body.text], truncate=body.truncate)
    if body.answer_ids is not None:
        target = id_array(body.answer_ids, model)
    else:
        (target,) = await model.encode([body.answer or ""], prompts=[body.text])
    if len(target) > model.limits.max_new_tokens or len(ids) * len(target) > _MAX_TRACED_WEIGHTS:
        raise RequestError(
            f"An answer of {len(target):,} tokens to a prompt of {len(ids):,} is too long to look into: at most "
            f"{model.limits.max_new_tokens:,} tokens, and {_MAX_TRACED_WEIGHTS:,} pairs of an answer's and a prompt's."
        )
    work = model.trace([ids], [target], body.num_alternatives, server.asker(client, body, adapter))
    (found,) = await unless_disconnected(request, work)
    return as_json(_trace_reply(name, found, model.tokenizer))


def as_json(reply: Reply) -> Response:
    """Return a reply as it is; FastAPI would validate again what was made by its own schema."""
    return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")


def words_of(body: GenerationWords) -> GenerationArguments:
    """Return the options that a body names."""
    words: dict[str, Any] = {
        word: value for word in GenerationWords.model_fields if (value := getattr(body, word)) is not None
    }
    if "logit_bias" in words:
        words["logit_bias"] = bias_of(words["logit_bias"])
    return words  # type: ignore[return-value]  # the same words, see the tests


def bias_of(bias: dict[str, float]) -> dict[int, float]:
    """Return logit_bias with ids in place of JSON's texts. Raises: RequestError for a key that is no id."""
    wrong = [key for key in bias if not (key.isascii() and key.isdecimal())]
    if wrong:
        raise RequestError(f"logit_bias has the key {wrong[0][:40]!r}, expected token ids.")
    return {int(key): delta for key, delta in bias.items()}


def id_array(ids: list[int], model: ServedModel) -> np.ndarray:
    """Return ids as [N] int32. Raises: RequestError for one outside the vocabulary."""
    size = model.folder.config.vocab_size
    wrong = [token_id for token_id in ids if not 0 <= token_id < size]
    if wrong:
        raise RequestError(f"The token id {wrong[0]} is outside the model's vocabulary of {size}.")
    return np.array(ids, np.int32)


def note(request: Request, server: ServerState, model: str, texts: list[str]) -> None:
    """Note for the log what a request is about; its texts only where the server was told to."""
    fields = request.state.fields
    fields["model"], fields["num_texts"] = model, len(texts)
    if server.config.logs_texts:
        fields["texts"] = texts


async def counted(server: ServerState, model: ServedModel, generation: Generation) -> list[Answer]:
    """Return the answers; an error is counted on its way."""
    try:
        return await generation.answers()
    except Exception as error:
        server.take_error(model, error)
        raise


async def _events(
    server: ServerState, model: ServedModel, generation: Generation, prompts: list[np.ndarray], *, details: bool
) -> AsyncIterator[str]:
    stream = generation.stream()
    try:
        async for event in stream:
            match event:
                case Piece():
                    yield event_data({"type": "text", "index": event.index, "text": event.text})
                case Answer():
                    num_tokens = len(prompts[event.index])
                    server.take_answer(model, event, num_tokens)
                    result = _result(event, num_tokens, model.tokenizer, details=details)
                    yield event_data({"type": "result", **result.model_dump(exclude_none=True)})
                case Failure():
                    server.take_error(model, event.error)
                    yield event_data({"type": "error", "index": event.index, "error": error_detail(event.error)})
        yield event_data({"type": "done"})
    finally:
        await stream.aclose()  # type: ignore[attr-defined]  # a generator


def _result(answer: Answer, num_input_tokens: int, tokenizer: Tokenizer, *, details: bool) -> Result:
    timings = answer.completions[0].timings
    return Result(
        index=answer.index,
        outputs=[_output(completion, tokenizer, details=details) for completion in answer.completions],
        num_input_tokens=num_input_tokens,
        timings=TimingsReply(queued_s=timings.queued_s, first_token_s=timings.first_token_s, total_s=timings.total_s),
    )


def _output(completion: Completion, tokenizer: Tokenizer, *, details: bool) -> Output:
    return Output(
        text=completion.text,
        score=completion.score,
        finish_reason=completion.finish_reason,
        num_tokens=len(completion.token_ids),
        token_ids=list(completion.token_ids) if details else None,
        tokens=[tokenizer.id_to_piece(each) for each in completion.token_ids] if details else None,
        token_scores=list(completion.token_scores) if details else None,
    )


def _trace_reply(name: str, trace: Trace, tokenizer: Tokenizer) -> TraceReply:
    found = trace.found
    assert found.cross_attention is not None
    texts = spelled(trace.target_ids, tokenizer)
    attention = np.round(found.cross_attention.astype(np.float64), 4).tolist()
    return TraceReply(
        model=name,
        input_tokens=[
            TokenReply(id=token, text=text, piece=tokenizer.id_to_piece(token))
            for token, text in zip(trace.input_ids.tolist(), spelled(trace.input_ids, tokenizer), strict=True)
        ],
        tokens=[
            TracedToken(
                id=token,
                text=texts[place],
                piece=tokenizer.id_to_piece(token),
                log_prob=float(found.token_log_probs[place]),
                alternatives=[
                    Alternative(
                        id=other, text=lone_text(other, tokenizer), piece=tokenizer.id_to_piece(other), log_prob=value
                    )
                    for other, value in zip(
                        found.top_ids[place].tolist(), found.top_log_probs[place].tolist(), strict=True
                    )
                    if other >= 0
                ],
                attention=attention[place],
            )
            for place, token in enumerate(trace.target_ids.tolist())
        ],
    )


def spelled(ids: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Return the text that each of ids [N] adds where it stands; joined they are the whole text."""
    detokenizer = tokenizer.detokenizer()
    texts = [detokenizer.push(token) for token in ids.tolist()]
    if texts:
        texts[-1] += detokenizer.finish()
    return texts


def lone_text(token_id: int, tokenizer: Tokenizer) -> str:
    """Return a token's text in the middle of a text; half a character shows as such."""
    return tokenizer.token_bytes(token_id).decode("utf-8", "replace")

"""POST /v1/completions and /v1/embeddings: OpenAI's shapes, so that existing clients work unchanged."""

import base64
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response

from t5kit.api.arguments import GenerationArguments
from t5kit.api.completion import Completion
from t5kit.api.embedding import asked_modules
from t5kit.errors import RequestError
from t5kit.serving.error_words import error_detail
from t5kit.serving.routes_generate import as_json, bias_of, counted, id_array, lone_text, note, spelled
from t5kit.serving.schemas import (
    CompletionBody,
    CompletionChoice,
    CompletionReply,
    Embedding,
    EmbeddingsBody,
    EmbeddingsReply,
    EmbeddingsUsage,
    LogProbs,
    PromptInput,
    Usage,
)
from t5kit.serving.served_model import Answer, Asker, Failure, Generation, Piece, ServedModel, Trace
from t5kit.serving.state import ERROR_RESPONSES, AdmittedClient, AdmittingRoute, Server, ServerState
from t5kit.serving.streams import EventStream, event_data, unless_disconnected

router = APIRouter(route_class=AdmittingRoute, tags=["openai"])

_OURS = ("num_beams", "length_penalty", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens")
_THEIRS = {
    "max_tokens": "max_new_tokens",
    "stop": "stop_strings",
    "n": "num_return_sequences",
    "best_of": "num_beams",
}
"""OpenAI's word -> ours."""
_STREAM_DOC: dict[str, Any] = {
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": (
                'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"flan-t5-small","choices":'
                '[{"index":0,"text":"Hal","logprobs":null,"finish_reason":null}]}\n\ndata: [DONE]\n\n'
            ),
        }
    },
    "description": "The completions, or with stream=true OpenAI's server-sent events.",
}


@router.post(
    "/v1/completions",
    response_model=CompletionReply,
    responses={200: _STREAM_DOC, **ERROR_RESPONSES},
    summary="OpenAI's text completion",
)
async def completions(request: Request, body: CompletionBody, client: AdmittedClient, server: Server) -> Any:
    """Complete prompts: the prompt goes to the encoder, and the completion is T5's answer to it."""
    _refuse_what_t5_has_not(body)
    model, adapter = server.model_of(body.model)
    name = body.model or model.name
    prompts = await _prompts(request, server, model, name, body.prompt, truncate=body.truncate)
    words, num_each = _words(body)
    is_streamed = bool(body.stream)
    # Samples are prompts asked several times, each with random numbers of its own; without randomness the answers are
    # equal, as OpenAI's are. The best beams are one request's.
    num_repeats = num_each if words.get("num_beams", 1) == 1 else 1
    if num_repeats < num_each:
        words["num_return_sequences"] = num_each
    num_answers = len(prompts) * num_repeats
    if num_answers > model.limits.max_texts:
        raise RequestError(f"{num_answers} answers are more than one request may ask for ({model.limits.max_texts}).")
    try:
        asked = await model.asked(words, adapter=adapter, is_streamed=is_streamed)
    except RequestError as error:
        raise RequestError(_in_their_words(str(error), body)) from error
    repeated = [ids for ids in prompts for _ in range(num_repeats)]
    asker = server.asker(client, body, adapter)
    generation = model.generate(repeated, asked, asker, is_streamed=is_streamed)
    head: dict[str, Any] = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}
    if is_streamed:
        is_told = bool((body.stream_options or {}).get("include_usage"))
        num_prompt_tokens = sum(map(len, prompts))
        events = _events(server, model, generation, head, repeated, num_prompt_tokens if is_told else None)
        return EventStream(events, generation.cancel)
    answers = await unless_disconnected(request, counted(server, model, generation))
    found = [(ids, each) for answer, ids in zip(answers, repeated, strict=True) for each in answer.completions]
    for answer, ids in zip(answers, repeated, strict=True):
        server.take_answer(model, answer, len(ids))
    every_log_probs: list[LogProbs | None] = [None] * len(found)
    if body.logprobs is not None:
        work = _log_probs(model, found, body.logprobs, asker)
        every_log_probs = list(await unless_disconnected(request, work))
    return CompletionReply(
        **head,
        choices=[
            CompletionChoice(index=index, text=each.text, logprobs=log_probs, finish_reason=_finish(each))
            for index, ((_, each), log_probs) in enumerate(zip(found, every_log_probs, strict=True))
        ],
        usage=_usage(sum(map(len, prompts)), sum(len(each.token_ids) for _, each in found)),
    )


@router.post("/v1/embeddings", response_model=EmbeddingsReply, responses=ERROR_RESPONSES, summary="OpenAI's embeddings")
async def embeddings(request: Request, body: EmbeddingsBody, client: AdmittedClient, server: Server) -> Response:
    """Give the encoder's vectors of texts, pooled over their tokens."""
    model, adapter = server.model_of(body.model)
    name = body.model or model.name
    modules = asked_modules(model.sentence_modules, body.pooling, body.normalize)
    width = modules.width(model.folder.config.d_model)
    if body.dimensions is not None and body.dimensions != width:
        raise RequestError(f"dimensions = {body.dimensions}: this model's vectors have {width} numbers.")
    prompts = await _prompts(request, server, model, name, body.input, truncate=body.truncate)
    work = model.embed(prompts, modules, server.asker(client, body, adapter))
    vectors_NW = await unless_disconnected(request, work)
    num_tokens = sum(map(len, prompts))
    return as_json(
        EmbeddingsReply(
            data=[
                Embedding(index=index, embedding=_encoded(vector_D, body.encoding_format))
                for index, vector_D in enumerate(vectors_NW)
            ],
            model=name,
            usage=EmbeddingsUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
        )
    )


def _encoded(vector_D: np.ndarray, encoding: Literal["float", "base64"] | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector_D.astype("<f4").tobytes()).decode("ascii")
    numbers: list[float] = vector_D.tolist()
    return numbers


async def _prompts(
    request: Request, server: ServerState, model: ServedModel, name: str, given: PromptInput, *, truncate: bool
) -> list[np.ndarray]:
    """Return ids [S_i] with EOS of a text, of texts, or of ids."""
    if isinstance(given, str):
        given = [given]
    texts = [each for each in given if isinstance(each, str)]
    note(request, server, name, texts)
    if texts:
        return await model.encode(texts, truncate=truncate)
    rows = [each for each in given if isinstance(each, list)] or [[each for each in given if isinstance(each, int)]]
    eos_id, limit = model.tokenizer.eos_id, model.limits.max_input_tokens
    prompts = [id_array(row if row[-1] == eos_id else [*row, eos_id], model) for row in rows]
    if len(prompts) > model.limits.max_texts or any(len(ids) > limit for ids in prompts):
        raise RequestError(f"At most {model.limits.max_texts} prompts of {limit:,} tokens are taken in one request.")
    return prompts


def _refuse_what_t5_has_not(body: CompletionBody) -> None:
    """Raise RequestError for words that would change the answer and that T5 cannot follow."""
    if body.echo:
        raise RequestError("echo: T5's prompt is not a part of its answer. Join the two yourself.")
    if body.suffix:
        raise RequestError("suffix: T5 does not insert. Put a sentinel such as <extra_id_0> into the prompt instead.")
    for word in ("presence_penalty", "frequency_penalty"):
        if getattr(body, word):
            raise RequestError(f"{word}: not supported; repetition_penalty is T5's usual word for it.")
    if body.stream and body.logprobs is not None:
        raise RequestError("logprobs come with stream=false only.")
    if body.best_of is not None and body.best_of < (body.n or 1):
        raise RequestError(f"best_of = {body.best_of} must be at least n = {body.n}.")


def _in_their_words(error: str, body: CompletionBody) -> str:
    """Return what is wrong with an option by the name that the client gave it."""
    for theirs, ours in _THEIRS.items():
        if getattr(body, theirs) is not None and (theirs != "best_of" or body.num_beams is None):
            error = re.sub(rf"\b{ours}\b", theirs, error)
    return error


def _words(body: CompletionBody) -> tuple[GenerationArguments, int]:
    """Return our words for OpenAI's, and the number of answers a prompt."""
    words: dict[str, Any] = {word: value for word in _OURS if (value := getattr(body, word)) is not None}
    for theirs in ("max_tokens", "stop", "seed"):
        ours = _THEIRS.get(theirs, theirs)
        if (value := getattr(body, theirs)) is not None:
            words[ours] = value
    if body.logit_bias:
        words["logit_bias"] = bias_of(body.logit_bias)
    num_each = body.n or 1
    if body.best_of is not None and body.best_of > num_each and "num_beams" not in words:
        words["num_beams"] = body.best_of
    if words.get("num_beams", 1) > 1 or body.temperature == 0:
        words["do_sample"] = False
    elif body.temperature is not None or body.top_p is not None or num_each > 1:
        words["do_sample"] = True
        words |= {word: value for word in ("temperature", "top_p") if (value := getattr(body, word)) is not None}
    return words, num_each  # type: ignore[return-value]  # GenerationArguments' own words


def _usage(num_prompt_tokens: int, num_new_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_new_tokens,
        total_tokens=num_prompt_tokens + num_new_tokens,
    )


def _finish(completion: Completion) -> Literal["stop", "length"]:
    return "length" if completion.finish_reason == "length" else "stop"


async def _log_probs(
    model: ServedModel, found: Sequence[tuple[np.ndarray, Completion]], num_alternatives: int, asker: Asker
) -> list[LogProbs]:
    """Return the log-probabilities of completions, with so many alternatives a token."""
    traces: list[Trace | None] = [None] * len(found)
    if num_alternatives:
        targets = [np.array(each.token_ids, np.int32) for _, each in found]
        prompts = [ids for ids, _ in found]
        traces = list(await model.trace(prompts, targets, num_alternatives, asker, has_attention=False))
    return [_log_probs_of(each, trace, model) for (_, each), trace in zip(found, traces, strict=True)]


def _log_probs_of(completion: Completion, trace: Trace | None, model: ServedModel) -> LogProbs:
    texts = spelled(np.array(completion.token_ids, np.int32), model.tokenizer)
    offsets, length = [], 0
    for text in texts:
        offsets.append(length)
        length += len(text)
    # EOS is no text, and neither is what a stop string cut off.
    num_told = len(texts) - (completion.finish_reason == "eos")
    while num_told and offsets[num_told - 1] >= len(completion.text) and texts[num_told - 1]:
        num_told -= 1
    alternatives = None
    if trace is not None:
        alternatives = []
        for place in range(num_told):
            likeliest: dict[str, float] = {}
            for other, value in zip(
                trace.found.top_ids[place].tolist(), trace.found.top_log_probs[place].tolist(), strict=True
            ):
                likeliest.setdefault(lone_text(other, model.tokenizer), value)
            alternatives.append(likeliest)
    return LogProbs(
        tokens=texts[:num_told],
        token_logprobs=list(completion.token_scores[:num_told]),
        top_logprobs=alternatives,
        text_offset=offsets[:num_told],
    )


async def _events(
    server: ServerState,
    model: ServedModel,
    generation: Generation,
    head: dict[str, Any],
    prompts: Sequence[np.ndarray],
    num_prompt_tokens: int | None,
) -> AsyncIterator[str]:
    """Yield OpenAI's chunks; with num_prompt_tokens a last one tells the usage."""
    head = {"object": "text_completion", **head}
    num_new_tokens = 0

    def chunk(index: int, text: str, finish_reason: str | None) -> str:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return event_data({**head, "choices": [choice]})

    stream = generation.stream()
    try:
        async for event in stream:
            match event:
                case Piece():
                    yield chunk(event.index, event.text, None)
                case Answer():
                    (completion,) = event.completions
                    num_new_tokens += len(completion.token_ids)
                    server.take_answer(model, event, len(prompts[event.index]))
                    yield chunk(event.index, "", _finish(completion))
                case Failure():
                    server.take_error(model, event.error)
                    yield event_data({"error": error_detail(event.error)})
                    return
        if num_prompt_tokens is not None:
            usage = _usage(num_prompt_tokens, num_new_tokens)
            yield event_data({**head, "choices": [], "usage": usage.model_dump()})
        yield "data: [DONE]\n\n"
    finally:
        await stream.aclose()  # type: ignore[attr-defined]  # a generator

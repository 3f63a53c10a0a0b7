"""Questions to a model that generate nothing: scores of given targets, encoder vectors, and a look into one answer.

Plain data in and out, as `t5kit.scheduling.requests`. A probe is one bounded piece of work, done between two decoding
steps.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5kit.checkpoint.sentence_modules import PoolingMode
from t5kit.config import T5Config
from t5kit.errors import EngineError, RequestError, T5kitError
from t5kit.runtime import Need, Runtime, StepInput, StepOutput
from t5kit.runtime.adapters import NO_ADAPTER, encoder_states_adapted
from t5kit.runtime.opened import encoded, opened
from t5kit.runtime.pooling import pool
from t5kit.runtime.validation import check_encoder_sequences, check_ids
from t5kit.scheduling.memory import prompt_bytes
from t5kit.scheduling.requests import RequestFailed

_MAX_ATTENTION_BYTES = 2**27
"""Of one step of a trace: at the most pairs of tokens that the server looks into it would be 48 MB of T5-small's 48
heads, and 3 GB of T5-11B's 3,072."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreRequest:
    """How likely are these targets, given one prompt?"""

    request_id: int
    encoder_input_ids: np.ndarray
    """[S] int32, EOS in; S at least 1."""
    targets: tuple[np.ndarray, ...]
    """Each [T_i] int32, EOS in; at least one."""
    adapter: int = NO_ADAPTER


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbedRequest:
    """Which encoder vector has this text?"""

    request_id: int
    encoder_input_ids: np.ndarray
    """[S] int32, EOS in; S at least 1."""
    pooling: tuple[PoolingMode, ...] = ("mean",)
    adapter: int = NO_ADAPTER


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceRequest:
    """What else could have stood in this answer, and where did the model look?"""

    request_id: int
    encoder_input_ids: np.ndarray
    """[S] int32, EOS in; S at least 1."""
    target_ids: np.ndarray
    """[T] int32: the answer; T at least 1."""
    num_alternatives: int = 5
    """Likeliest ids told for each position."""
    has_attention: bool = True
    """Tell where the model looked."""
    adapter: int = NO_ADAPTER


Probe = ScoreRequest | EmbedRequest | TraceRequest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreFinished:
    """Natural log-probabilities of the targets' tokens."""

    request_id: int
    token_log_probs: tuple[np.ndarray, ...]
    """One [T_i] float32 for each target."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbedFinished:
    """A text's encoder vector."""

    request_id: int
    vector: np.ndarray
    """[D] float32."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceFinished:
    """An answer seen from inside, position by position, with the answer's own tokens before each."""

    request_id: int
    token_log_probs: np.ndarray
    """[T] float32: of the answer's tokens."""
    top_ids: np.ndarray
    """[T, k] int32, likeliest first."""
    top_log_probs: np.ndarray
    """[T, k] float32."""
    cross_attention: np.ndarray | None
    """[T, S] float32: from the position that chose token t to the prompt, the mean over layers and heads; rows sum to
    1. None without has_attention."""


ProbeEvent = ScoreFinished | EmbedFinished | TraceFinished | RequestFailed


def num_probe_tokens(probe: Probe) -> int:
    """Return how many tokens the model has to read for a probe."""
    match probe:
        case ScoreRequest():
            return len(probe.encoder_input_ids) + sum(len(target) for target in probe.targets)
        case EmbedRequest():
            return len(probe.encoder_input_ids)
        case TraceRequest():
            return len(probe.encoder_input_ids) + 2 * len(probe.target_ids)


def probe_bytes(probe: Probe, config: T5Config) -> int:
    """Return the most bytes of caches that a probe can take."""
    if isinstance(probe, EmbedRequest):
        return 0
    lengths = (len(probe.encoder_input_ids), *_target_lengths(probe))
    return sum(prompt_bytes(config, length) for length in lengths)


def check_probe_bytes(probe: Probe, config: T5Config, max_cache_bytes: int) -> None:
    """Raise RequestError for a probe whose caches can take more than all answers together may."""
    needed = probe_bytes(probe, config)
    if needed > max_cache_bytes:
        raise RequestError(
            f"A prompt of {len(probe.encoder_input_ids):,} tokens with given answers of "
            f"{sum(_target_lengths(probe)):,} can take {needed:,} bytes of caches, more than max_cache_bytes = "
            f"{max_cache_bytes:,}. Shorten the texts, or raise max_cache_bytes."
        )


def _target_lengths(probe: Probe) -> list[int]:
    """Return how many tokens each answer given in a probe has."""
    match probe:
        case ScoreRequest():
            return [len(target) for target in probe.targets]
        case TraceRequest():
            return [len(probe.target_ids)]
        case EmbedRequest():
            return []


def run_probes(runtime: Runtime, probes: Sequence[Probe]) -> list[ProbeEvent]:
    """Answer probes; one that cannot be answered fails alone. Nothing is left open in the runtime."""
    events: list[ProbeEvent] = []
    for kind in (ScoreRequest, EmbedRequest, TraceRequest):
        same = [probe for probe in probes if isinstance(probe, kind)]
        try:
            events += _answer(runtime, same)
        except T5kitError:
            for probe in same:
                try:
                    events += _answer(runtime, [probe])
                except T5kitError as error:
                    events.append(
                        RequestFailed(request_id=probe.request_id, error=str(error), error_type=type(error).__name__)
                    )
    return events


def _answer(runtime: Runtime, probes: Sequence[Probe]) -> list[ProbeEvent]:
    """Answer probes of one kind together."""
    check_encoder_sequences([probe.encoder_input_ids for probe in probes], runtime.config)
    scores = [probe for probe in probes if isinstance(probe, ScoreRequest)]
    if scores:
        return list(_scores(runtime, scores))
    embeds = [probe for probe in probes if isinstance(probe, EmbedRequest)]
    if embeds:
        return list(_vectors(runtime, embeds))
    return [_trace(runtime, probe) for probe in probes if isinstance(probe, TraceRequest)]


def _scores(runtime: Runtime, probes: Sequence[ScoreRequest]) -> list[ScoreFinished]:
    keys = [(probe.adapter, probe.encoder_input_ids.tobytes()) for probe in probes]
    distinct = dict(zip(keys, probes, strict=True))
    prompts = [probe.encoder_input_ids for probe in distinct.values()]
    with encoded(runtime, prompts, [probe.adapter for probe in distinct.values()]) as found_handles:
        handles = dict(zip(distinct, found_handles, strict=True))
        rows = runtime.score(
            [handles[key] for key, probe in zip(keys, probes, strict=True) for _ in probe.targets],
            [target for probe in probes for target in probe.targets],
        )
    if not all(np.isfinite(row).all() for row in rows):
        raise EngineError(_NOT_FINITE.format("scores"))
    found, start = [], 0
    for probe in probes:
        end = start + len(probe.targets)
        found.append(ScoreFinished(request_id=probe.request_id, token_log_probs=tuple(rows[start:end])))
        start = end
    return found


def _vectors(runtime: Runtime, probes: Sequence[EmbedRequest]) -> list[EmbedFinished]:
    every_states = encoder_states_adapted(
        runtime, [probe.encoder_input_ids for probe in probes], [probe.adapter for probe in probes]
    )
    vectors = [pool(states_SD, probe.pooling) for states_SD, probe in zip(every_states, probes, strict=True)]
    if not all(np.isfinite(vector).all() for vector in vectors):
        raise EngineError(_NOT_FINITE.format("vectors"))
    return [
        EmbedFinished(request_id=probe.request_id, vector=vector) for probe, vector in zip(probes, vectors, strict=True)
    ]


def _trace(runtime: Runtime, probe: TraceRequest) -> TraceFinished:
    """Feed the answer and read every position; the answer's own log-probabilities come from `score`.

    It is fed in one step, or in as many as keep the attention of all heads, L * H * T * S numbers, within bounds.
    """
    config, target = runtime.config, np.ascontiguousarray(probe.target_ids, np.int32)
    check_ids(target, config, "target_ids")
    inputs = np.concatenate([[config.decoder_start_id], target[:-1]]).astype(np.int32)
    num_tokens = len(inputs)
    if probe.has_attention:
        bytes_a_token = 4 * config.num_decoder_layers * config.num_heads * len(probe.encoder_input_ids)
        num_tokens = max(1, _MAX_ATTENTION_BYTES // bytes_a_token)
    need = Need(top_k=probe.num_alternatives, all_positions=True, cross_attention=probe.has_attention)
    outputs: list[StepOutput] = []
    attention: list[np.ndarray] = []
    with encoded(runtime, [probe.encoder_input_ids], [probe.adapter]) as handles, opened(runtime, handles) as slots:
        (log_probs,) = runtime.score(handles, [target])
        for first in range(0, len(inputs), num_tokens):
            tokens = inputs[first : first + num_tokens]
            lengths = np.array([len(tokens)], np.int32)
            output = runtime.step(StepInput(slots=slots, tokens=tokens, lengths=lengths, need=need))
            if output.cross_attention is not None:
                attention.append(output.cross_attention[0].mean(axis=(0, 1), dtype=np.float32))
            outputs.append(dataclasses.replace(output, cross_attention=None))
    top_log_probs = np.concatenate([output.top_logits - output.log_sum_exp[:, None] for output in outputs])
    if not (np.isfinite(log_probs).all() and np.isfinite(top_log_probs).all()):
        raise EngineError(_NOT_FINITE.format("scores"))
    return TraceFinished(
        request_id=probe.request_id,
        token_log_probs=log_probs,
        top_ids=np.concatenate([output.top_ids for output in outputs]),
        top_log_probs=top_log_probs,
        cross_attention=np.concatenate(attention) if attention else None,
    )


_NOT_FINITE = (
    "The model produced NaN or infinite {}. Its weights are damaged, or overflow in this precision: try "
    "weights=float32."
)

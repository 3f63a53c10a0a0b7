"""What goes into a scheduler and what comes out: plain data, ids in and ids out, fit to cross a process boundary."""

import dataclasses

import numpy as np

from t5kit.decoding.options import DecodingOptions
from t5kit.decoding.search import Hypothesis
from t5kit.runtime.adapters import NO_ADAPTER


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerationRequest:
    """One prompt to be answered."""

    request_id: int
    """Chosen by the caller, unique among the requests alive."""
    encoder_input_ids: np.ndarray
    """[S] int32, EOS in; S at least 1."""
    options: DecodingOptions = dataclasses.field(default_factory=DecodingOptions)
    sample_stream: int = 0
    """Tells apart repeated samplings of one prompt under one seed."""
    is_streamed: bool = False
    """Report tokens as they come."""
    adapter: int = NO_ADAPTER
    """The runtime's name of the adapter to answer with (`t5kit.runtime.adapters`)."""
    client: str | None = None
    """Who asks, so that a part of the room is kept for others; None: nothing is kept from this request."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Wall-clock seconds of one request."""

    queued_s: float
    """From submission to the start of its encoder run."""
    encode_s: float
    """Encoder run of the chunk it was in."""
    first_token_s: float
    """From submission to its first token."""
    total_s: float
    """From submission to its end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokensGenerated:
    """New tokens of a streamed request."""

    request_id: int
    token_ids: np.ndarray
    """[n] int32, n >= 1."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestFinished:
    """A request is done."""

    request_id: int
    hypotheses: tuple[Hypothesis, ...]
    """num_return_sequences answers, best first."""
    timings: Timings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed:
    """A request could not be answered; the others go on."""

    request_id: int
    error: str
    """One clear sentence."""
    error_type: str
    """Name of the class in t5kit.errors."""


Event = TokensGenerated | RequestFinished | RequestFailed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerCounts:
    """What a scheduler holds now, and what it has done since it was made."""

    num_waiting: int
    """Requests not encoded yet."""
    num_alive: int
    """Requests being answered."""
    num_rows: int
    """Rows they take; a step feeds so many."""
    cache_bytes: int
    """Caches that are taken or promised, kept prompts among them."""
    num_steps: int
    num_stepped_rows: int
    """Rows fed, summed over the steps: over num_steps it is the mean batch."""
    num_encoded_prompts: int
    num_encoded_tokens: int
    num_shared_prompts: int
    """Requests that found their prompt encoded already."""

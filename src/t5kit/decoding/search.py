"""The search contract: many requests of one kind advanced together, over any runtime.

A search never calls the runtime's `step` itself. It says which rows it wants fed (`rows`) and takes the result
(`advance`), so that a scheduler can feed many searches in one step, and requests can join and leave between any two
steps. A search does open, fork, reorder and close its own slots.
"""

import dataclasses
from typing import Literal, Protocol

import numpy as np

from t5kit.decoding.options import DecodingOptions
from t5kit.errors import T5kitError
from t5kit.runtime import StepInput, StepOutput

FinishReason = Literal["eos", "length", "stop_string"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hypothesis:
    """One answer."""

    token_ids: np.ndarray
    """[n] int32: the generated ids, the start token not among them; EOS is the last one if finish_reason is "eos", and
    it is never invented for an answer that was cut."""
    token_log_probs: np.ndarray
    """[n] float32: each token's edited logit minus the unedited log-sum-exp, which is the model's own natural
    log-probability wherever no edit moved that token's logit."""
    score: float
    """Beam search: the sum of token_log_probs under the length penalty, by which answers are ranked. Otherwise the
    sum."""
    finish_reason: FinishReason
    stop_string: str | None = None
    """The stop string that ended it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchRequest:
    """One encoded prompt to be answered."""

    request_id: int
    """Unique among the requests alive."""
    handle: int
    """The encoded prompt. The search opens slots on it; whoever encoded it releases it."""
    encoder_input_ids: np.ndarray
    """[S] int32, for what looks back at the prompt (n-grams, seeds)."""
    options: DecodingOptions
    sample_stream: int = 0
    """Tells apart repeated samplings of one prompt under one seed."""
    is_streamed: bool = False
    """Tokens are reported as they come (one answer, no beams)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewTokens:
    """Tokens of a streamed request, in order; with the final ones the request's Found follows."""

    request_id: int
    token_ids: np.ndarray
    """[n] int32, n >= 1."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """A request is done: num_return_sequences answers, best first (samples: in order of their streams)."""

    request_id: int
    hypotheses: tuple[Hypothesis, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Failed:
    """A request could not be answered and is gone; the others go on."""

    request_id: int
    error: T5kitError
    """EngineError where the model's scores are not finite, RequestError where the options leave no token to choose."""


class Search(Protocol):
    """Requests of one strategy, advanced together. Results never depend on which requests share it."""

    def admit(self, requests: list[SearchRequest]) -> None:
        """Take in new requests; they are part of the next `rows`."""
        ...

    def rows(self) -> StepInput | None:
        """Return what to feed next, or None if no request is alive. Called once a step, before `advance`."""
        ...

    def advance(self, output: StepOutput) -> list[NewTokens | Found | Failed]:
        """Take the result of the rows last asked for; finished requests have closed their slots."""
        ...

    def cancel(self, request_id: int) -> None:
        """Drop a request and close its slots; an unknown id is ignored (it may just have finished)."""
        ...

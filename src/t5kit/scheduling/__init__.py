"""From requests to events, ids in and ids out: which prompts are encoded when, and which rows are fed together."""

from t5kit.scheduling.continuous import ContinuousScheduler
from t5kit.scheduling.memory import request_bytes
from t5kit.scheduling.requests import (
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    Timings,
    TokensGenerated,
)
from t5kit.scheduling.scheduler import Scheduler

__all__ = [
    "ContinuousScheduler",
    "Event",
    "GenerationRequest",
    "RequestFailed",
    "RequestFinished",
    "Scheduler",
    "Timings",
    "TokensGenerated",
    "request_bytes",
]

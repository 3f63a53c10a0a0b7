"""From requests to events, ids in and ids out: which prompts are encoded when, and which rows are fed together."""

from t5kit.scheduling.requests import (
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    Timings,
    TokensGenerated,
)
from t5kit.scheduling.scheduler import Scheduler
from t5kit.scheduling.static import StaticScheduler

__all__ = [
    "Event",
    "GenerationRequest",
    "RequestFailed",
    "RequestFinished",
    "Scheduler",
    "StaticScheduler",
    "Timings",
    "TokensGenerated",
]

"""From requests to events, ids in and ids out: which prompts are encoded when, and which rows are fed together."""

from t5kit.scheduling.continuous import ContinuousScheduler
from t5kit.scheduling.memory import request_bytes
from t5kit.scheduling.probes import (
    EmbedFinished,
    EmbedRequest,
    ScoreFinished,
    ScoreRequest,
    TraceFinished,
    TraceRequest,
)
from t5kit.scheduling.process import EngineProcess
from t5kit.scheduling.requests import (
    Event,
    GenerationRequest,
    RequestFailed,
    RequestFinished,
    SchedulerCounts,
    Timings,
    TokensGenerated,
)
from t5kit.scheduling.scheduler import Scheduler
from t5kit.scheduling.service import (
    Priority,
    SchedulingService,
    ServiceCounts,
    ServiceEvent,
    ServiceLimits,
    ServiceRequest,
)

__all__ = [
    "ContinuousScheduler",
    "EmbedFinished",
    "EmbedRequest",
    "EngineProcess",
    "Event",
    "GenerationRequest",
    "Priority",
    "RequestFailed",
    "RequestFinished",
    "Scheduler",
    "SchedulerCounts",
    "SchedulingService",
    "ScoreFinished",
    "ScoreRequest",
    "ServiceCounts",
    "ServiceEvent",
    "ServiceLimits",
    "ServiceRequest",
    "Timings",
    "TokensGenerated",
    "TraceFinished",
    "TraceRequest",
    "request_bytes",
]

"""What a client is told of an error: the HTTP status, OpenAI's words for it, and when to come again."""

import math

from t5kit.errors import (
    BusyError,
    DeadlineError,
    DependencyError,
    EngineGoneError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
)


def error_words(error: Exception) -> tuple[int, str, str | None]:
    """Return the HTTP status, type and code of an error."""
    match error:
        case OverloadedError():
            return 429, "rate_limit_error", "overloaded"
        case BusyError():
            return 503, "server_error", "not_ready"
        case EngineGoneError():
            return 503, "server_error", "engine_restarted"
        case DeadlineError():
            return 504, "timeout_error", "deadline"
        case ModelNotFoundError():
            return 404, "invalid_request_error", "model_not_found"
        case RequestError() | DependencyError():  # a grammar, where the library for it is not installed
            return 400, "invalid_request_error", None
        case _:
            return 500, "server_error", None


def error_detail(error: Exception) -> dict[str, str | None]:
    """Return OpenAI's object for an error, the same in a response and in a stream that has begun."""
    _, kind, code = error_words(error)
    return {"message": str(error), "type": kind, "param": None, "code": code}


def retry_after(error: Exception) -> str | None:
    """Return the value of Retry-After, whole seconds and not too early, for an error that is worth another try.

    >>> retry_after(BusyError("The model is loading.", retry_after_s=1.2))
    '2'
    """
    match error:
        case BusyError():
            return str(max(1, math.ceil(error.retry_after_s)))
        case EngineGoneError():
            return "1"
        case _:
            return None

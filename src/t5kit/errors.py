"""The one error family of t5kit.

Every message says where, what came, what was expected and what to do. Everything that a user's input can cause derives
from `T5kitError`; the command line prints its text as one clear sentence and exits with `exit_code`.
"""


class T5kitError(Exception):
    """Base of every error that t5kit raises on purpose. `exit_code` is the command line's: 1 failed, 2 misuse."""

    exit_code = 1


class ConfigError(T5kitError, ValueError):
    """A configuration value is unknown, of the wrong type, out of range, or at odds with another one."""

    exit_code = 2


class RequestError(T5kitError, ValueError):
    """An argument of a call (or an option of a command) is wrong: an unknown name, a bad range, a text too long."""

    exit_code = 2


class DataError(T5kitError, ValueError):
    """Input data cannot be used as it is: a bad record, an undecodable file, an empty set."""


class TokenizerError(T5kitError, ValueError):
    """A vocabulary file is missing, broken, hostile, or does not fit the model beside it."""


class CheckpointError(T5kitError, ValueError):
    """A model folder is missing, incomplete, altered, hostile, or of a layout that is not understood."""


class ModelNotFoundError(CheckpointError):
    """No built-in model, folder or Hub id of this name could be found or fetched."""


class EngineError(T5kitError, RuntimeError):
    """A runtime cannot run this model here: its backend is missing or lacks what the model needs."""


class BusyError(T5kitError, RuntimeError):
    """Not now: a service is starting, restarting or stopping. Nothing was begun."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        """retry_after_s: when it is worth asking again."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(BusyError):
    """Not now: a service holds as many requests as it can, or a client asks too often. Nothing was begun."""


class DeadlineError(T5kitError, TimeoutError):
    """A request was not answered within the time it was given."""


class EngineGoneError(EngineError):
    """The engine process ended while it worked on a request. Whether the request was the cause is not known."""


class DependencyError(T5kitError, ImportError):
    """An optional library is missing; the message names the extra that brings it."""

    @classmethod
    def for_extra(cls, library: str, extra: str, purpose: str) -> "DependencyError":
        """Return the error for a missing `library` that `pip install 't5kit[extra]'` brings."""
        return cls(
            f"{purpose} needs the package {library!r}, which is not installed. Run: pip install 't5kit[{extra}]'"
        )

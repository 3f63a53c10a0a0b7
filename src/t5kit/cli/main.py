"""`t5kit`: the entry point, and the one place where errors become a sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted. This module imports next to nothing, so that an interrupt finds
`main` at work and not an import that nobody guards.
"""

import errno
import os
import sys
from typing import NoReturn, TextIO, cast

from t5kit.cli.interrupts import interrupts_end_at_once
from t5kit.errors import T5kitError


def main() -> None:
    """Run the command line and exit."""
    try:
        _prepare_streams()
        with interrupts_end_at_once():
            from t5kit.cli.app import run  # here: loading the verbs takes long enough to be interrupted

        exit_code = run()
        sys.stdout.flush()
    except T5kitError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted.", 130)
    except BrokenPipeError:
        _drop_stdout()  # the reader of our output left (`t5kit ... | head`): nothing more to say
        sys.exit(1)
    except MemoryError:
        _fail("not enough memory. Try a smaller --batch-size, shorter texts, or --weights bfloat16.", 1)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail(f"no space left on the disk that holds {error.filename or 'the output'}.", 1)
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}.", 1)
    except Exception as error:  # a defect of ours: say so in one sentence, the traceback on request
        if os.environ.get("T5KIT_TRACEBACK"):
            raise
        _fail(f"internal error, please report it: {type(error).__name__}: {error}. T5KIT_TRACEBACK=1 shows where.", 1)
    sys.exit(exit_code)


def _prepare_streams() -> None:
    """Make standard error writable and standard output UTF-8; a standard output that was closed is a failure.

    Python leaves None for a stream that was closed before it started (`t5kit ... >&-`).
    """
    if cast("TextIO | None", sys.stderr) is None:
        sys.stderr = _nowhere()
    if cast("TextIO | None", sys.stdout) is None:
        sys.stdout = _nowhere()
        _fail("standard output is closed; leave it open, or send it to /dev/null.", 1)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="surrogatepass")


def _nowhere() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def _fail(message: str, exit_code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
    print(f"t5kit: {message}", file=sys.stderr)
    sys.exit(exit_code)


def _drop_stdout() -> None:
    """Send what is still buffered nowhere, so that Python has no second error to report at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""`t5kit`: the verbs put together, and the one place where errors become a sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted.
"""

import errno
import os
import sys

import typer

import t5kit
from t5kit.cli import convert, embed, generate, inspect, score, tokenizer
from t5kit.errors import T5kitError

app = typer.Typer(
    name="t5kit",
    help="T5, whole: text in, text out. Every answer goes to standard output, everything else to standard error.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: the boxed one cuts long option names on a terminal of 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", short_help="Texts in, answers out, in the same order.")(generate.generate)
app.command("score", short_help="Log-probabilities of given targets.")(score.score)
app.command("embed", short_help="Encoder vectors of texts.")(embed.embed)
app.command("inspect", short_help="What a model folder is, and why it is thought so.")(inspect.inspect)
app.command("convert", short_help="Any readable folder into the home layout.")(convert.convert)
app.add_typer(tokenizer.app, name="tokenizer")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(t5kit.__version__)
        raise typer.Exit


@app.callback()
def _global_options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line and exit."""
    try:
        app(prog_name="t5kit")
    except T5kitError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted.", 130)
    except BrokenPipeError:
        # The reader of our output left (`t5kit ... | head`): nothing more to say, and no second error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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


def _fail(message: str, exit_code: int) -> None:
    print(f"t5kit: {message}", file=sys.stderr)
    sys.exit(exit_code)

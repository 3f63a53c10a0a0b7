"""The verbs put together as one Typer application."""

import typer

import t5kit
from t5kit.cli import (
    bench,
    classify,
    config,
    convert,
    embed,
    evaluate,
    explain,
    extract,
    finetune,
    generate,
    inspect,
    rank,
    score,
    serve,
    tokenizer,
    train,
    tune,
)

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
app.command("classify", short_help="Which of a few labels a text has, and how surely.")(classify.classify)
app.command("extract", short_help="Facts out of texts, as JSON of a schema.")(extract.extract)
app.command("rank", short_help="Documents in the order of their worth for a query.")(rank.rank)
app.command("evaluate", short_help="Scores of a model or of predictions, with intervals.")(evaluate.evaluate)
app.command("explain", short_help="Which input words an answer comes from: heat maps.")(explain.explain)
app.command("inspect", short_help="What a model folder is, or what a recipe will do.")(inspect.inspect)
app.command("convert", short_help="Any readable folder into the home layout.")(convert.convert)
app.command("train", short_help="A recipe to a trained model; resumes what was stopped.")(train.train)
app.command("finetune", short_help="A model adapted to your own records by one command.")(finetune.finetune)
app.command("tune", short_help="Settings for fine-tuning searched by trying them.")(tune.tune)
app.command("bench", short_help="Engines compared on your model, texts and machine.")(bench.bench)
app.command("serve", short_help="Models over HTTP, with a page to look at.")(serve.serve)
app.add_typer(config.app, name="config")
app.add_typer(tokenizer.app, name="tokenizer")

_UsageProblem = typer.BadParameter.__mro__[2]
"""click's ClickException: newer Typers carry their own click, so it is reached through a name that Typer exports."""


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


def run() -> int:
    """Run the verb that the command line names; return its exit code.

    Raises: KeyboardInterrupt also where Typer turned it into something else; every error of the verb itself.
    """
    try:
        result = app(prog_name="t5kit", standalone_mode=False)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except Exception as error:
        if not isinstance(error, _UsageProblem):
            raise
        error.show()  # type: ignore[attr-defined]
        return int(error.exit_code)  # type: ignore[attr-defined]
    if result == 130:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0

"""Command-line options that several verbs share, and loading the model they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t5kit.cli.interrupts import interrupts_end_at_once
from t5kit.errors import RequestError

if TYPE_CHECKING:
    from t5kit.api import Model

DEFAULT_MODEL = "mini"
"""The built-in model."""
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="T5KIT_MODEL",
        help='A model folder, a Hugging Face Hub id, or "mini", the built-in one.',
    ),
]
TextsArgument = Annotated[list[str] | None, typer.Argument(help='Texts; "-" reads standard input.', show_default=False)]
FieldOption = Annotated[
    str | None, typer.Option("--field", help="JSON field or TSV column that holds the text.", show_default="text")
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", help="Texts taken from a file at once.", min=1)]
EngineOption = Annotated[str, typer.Option("--engine", help="auto, native, torch or reference.")]
WeightsOption = Annotated[str, typer.Option("--weights", help="auto, float32, bfloat16, float16, int8 or int4.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Processor threads.", show_default="all")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.", show_default=False)
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use only what is already in the Hub cache.")]
MaxInputTokensOption = Annotated[int, typer.Option("--max-input-tokens", help="Texts with more tokens are refused.")]
MaxCacheBytesOption = Annotated[
    int | None,
    typer.Option("--max-cache-bytes", help="Most bytes of attention caches at a time.", show_default="no limit"),
]
TruncateOption = Annotated[bool, typer.Option("--truncate", help="Cut longer texts instead of refusing them.")]
ForbidCopyOption = Annotated[
    bool, typer.Option("--forbid-copy", help='The answer is not the text itself, nor what follows its first ": ".')
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
InputOption = Annotated[
    Path | None,
    typer.Option(
        "--input",
        "-i",
        help='Read texts from a .txt, .tsv, .csv, .jsonl or .parquet file; "-" is standard input.',
        show_default=False,
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="Of the input: text, tsv, csv, jsonl or parquet.", show_default="by its name"),
]
EncodingOption = Annotated[
    str | None,
    typer.Option("--encoding", help="Of the input, such as cp1252 or latin-1.", show_default="utf-8"),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns", help="Names for the columns of CSV or TSV without a header: text,label.", show_default=False
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write to this file instead of standard output.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON lines.")]


def column_names(words: str | None) -> tuple[str, ...]:
    """Return the names that --columns gives, apart by commas; one that is empty is of a column not wanted.

    Raises: RequestError if a name stands twice, or there is none.
    """
    if words is None:
        return ()
    names = tuple(word.strip() for word in words.split(","))
    named = [name for name in names if name]
    if not named or len(set(named)) < len(named):
        raise RequestError(f"--columns {words!r} must be names apart by commas, each there once: text,label.")
    return names


def load_model(
    name: str,
    *,
    engine: str = "auto",
    weights: str = "auto",
    threads: int | None = None,
    device: str = "auto",
    revision: str | None = None,
    offline: bool = False,
    max_input_tokens: int = 4096,
    max_cache_bytes: int | None = None,
) -> "Model":
    """Return the model that the options name."""
    with interrupts_end_at_once():
        from t5kit.api import Model

        return Model.from_pretrained(
            name,
            engine=engine,  # type: ignore[arg-type]  # checked there, with the list of what is allowed
            weights=weights,  # type: ignore[arg-type]
            threads=threads,
            device=device,
            revision=revision,
            offline=offline or None,
            max_input_tokens=max_input_tokens,
            max_cache_bytes=max_cache_bytes,
        )


def check_one_input(texts: list[str], input: Path | None) -> None:
    """Refuse texts on the command line together with --input."""
    if texts and input is not None:
        raise RequestError("Texts on the command line and --input exclude each other; give one of the two.")

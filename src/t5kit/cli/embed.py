"""`t5kit embed`: encoder vectors of texts."""

import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from t5kit.cli import options
from t5kit.cli.each import asking
from t5kit.cli.inputs import records_of, texts_of
from t5kit.cli.outputs import json_line, open_output
from t5kit.errors import DataError, RequestError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Between the numbers of a line, by the file's suffix."""
FORMS = (".jsonl", ".ndjson", ".npy", *SEPARATORS)
"""Suffixes of what vectors are written to."""


def embed(
    model: options.ModelOption = options.DEFAULT_MODEL,
    texts: options.TextsArgument = None,
    input: options.InputOption = None,
    format: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    field: options.FieldOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .jsonl, .csv or .tsv file of a vector a line, or .npy for one float32 array [N, D].",
            show_default=False,
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="mean, max, first or last over the tokens.", show_default="the folder's own, else mean"),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize", help="Scale vectors to length 1.", show_default="as the folder says"
        ),
    ] = None,
    truncate: options.TruncateOption = False,
    max_input_tokens: options.MaxInputTokensOption = 4096,
    batch_size: options.BatchSizeOption = 256,
    engine: options.EngineOption = "auto",
    weights: options.WeightsOption = "auto",
    threads: options.ThreadsOption = None,
    device: options.DeviceOption = "auto",
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print an encoder vector for each text as a JSON list, one a line, in order; or write what --output's name says.

    A text that cannot be embedded gives {"error": …} in its place and makes the exit code 1; files of other formats,
    which have no place for an error, are not written then.
    """
    form = _form_of(output)
    records = records_of(texts or [], input, format, columns=options.column_names(columns), encoding=encoding)
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline,
        max_input_tokens=max_input_tokens,
    )  # fmt: skip
    asked: dict[str, Any] = {"pooling": pooling, "normalize": normalize}
    nothing = loaded.embed([], **asked)  # refuses a wrong option if no text comes
    as_array = form == ".npy"
    rows: list[np.ndarray] = []
    with asking("texts embedded") as verb, open_output(output, is_binary=as_array) as out:
        for _, _, result in verb.each(
            texts_of(records, field),
            lambda some: list(loaded.embed(some, truncate=truncate, **asked)),
            batch_size=batch_size,
        ):
            if isinstance(result, str):
                if form in (".npy", *SEPARATORS):
                    raise DataError(
                        f"{output} was not written: it has no place for a text that cannot be embedded. "
                        "Write JSON lines instead."
                    )
                out.write(json_line({"error": result}))
            elif as_array:
                rows.append(result)
            else:
                out.write(_row(result, SEPARATORS.get(form)))
        if as_array:
            buffer = io.BytesIO()
            np.save(buffer, np.stack(rows) if rows else nothing)
            out.write(buffer.getvalue())


def _form_of(output: Path | None) -> str:
    """Return the suffix that says how vectors are written; JSON lines go to what has none, or is a device or a pipe.

    Raises: RequestError for one that says another format.
    """
    if output is None or not output.suffix or (output.exists() and not output.is_file()):
        return ".jsonl"
    form = output.suffix.lower()
    if form not in FORMS:
        raise RequestError(f"--output {output}: must end in one of: {', '.join(FORMS)}.")
    return form


def _row(vector: np.ndarray, separator: str | None) -> str:
    """Return a vector as a JSON list, or as numbers apart by a separator; either way as a line."""
    line = json_line([round(float(value), 7) for value in vector])  # refuses what is not finite
    return line if separator is None else line.replace("[", "").replace("]", "").replace(", ", separator)

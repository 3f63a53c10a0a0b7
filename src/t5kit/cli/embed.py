"""`t5kit embed`: encoder vectors of texts."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from t5kit.cli import options
from t5kit.cli.inputs import chunks, records_of, texts_of
from t5kit.cli.outputs import at_place, json_line, open_output, progress
from t5kit.errors import DataError, T5kitError
from t5kit.sources import BadRecord

if TYPE_CHECKING:
    from t5kit.api import Model


def embed(
    model: options.ModelOption = options.DEFAULT_MODEL,
    texts: Annotated[
        list[str] | None, typer.Argument(help='Texts; "-" reads standard input.', show_default=False)
    ] = None,
    input: options.InputOption = None,
    format: options.FormatOption = None,
    field: Annotated[
        str | None, typer.Option("--field", help="JSON field or TSV column that holds the text.", show_default="text")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .jsonl file, or .npy for one float32 array [N, D].", show_default=False),
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
    batch_size: Annotated[int, typer.Option(help="Texts taken from a file at once.", min=1)] = 256,
    engine: options.EngineOption = "auto",
    weights: options.WeightsOption = "auto",
    threads: options.ThreadsOption = None,
    device: options.DeviceOption = "auto",
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print an encoder vector for each text as a JSON list, one a line, in order; or write one .npy array.

    A text that cannot be embedded gives {"error": …} in its place and makes the exit code 1; an .npy file, which has no
    place for an error, is not written then.
    """
    records = records_of(texts or [], input, format)
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline,
        max_input_tokens=max_input_tokens,
    )  # fmt: skip
    nothing = loaded.embed([], pooling=pooling)  # type: ignore[arg-type]  # refuses a wrong option if no text comes
    as_array = output is not None and output.suffix.lower() == ".npy"
    rows: list[np.ndarray] = []
    num_failed = 0
    with open_output(output, is_binary=as_array) as out, progress("texts embedded") as count:
        for chunk in chunks(texts_of(records, field), batch_size):
            good = [(place, text) for place, text in chunk if isinstance(text, str)]
            vectors = iter(_embed_each(loaded, good, pooling=pooling, normalize=normalize, truncate=truncate))
            for _, text in chunk:
                result = text.error if isinstance(text, BadRecord) else next(vectors)
                if isinstance(result, str):
                    num_failed += 1
                    print(f"t5kit: {result}", file=sys.stderr)
                    if as_array:
                        raise DataError(
                            f"{output} was not written: it has no place for a text that cannot be embedded. "
                            "Write JSON lines instead."
                        )
                    out.write(json_line({"error": result}))
                elif as_array:
                    rows.append(result)
                else:
                    out.write(json_line([round(float(value), 7) for value in result]))
            count.advance(len(chunk))
        if as_array:
            buffer = io.BytesIO()
            np.save(buffer, np.stack(rows) if rows else nothing)
            out.write(buffer.getvalue())
    if num_failed:
        raise typer.Exit(1)


def _embed_each(
    model: "Model", items: list[tuple[str, str]], *, pooling: str | None, normalize: bool | None, truncate: bool
) -> list[np.ndarray | str]:
    """Embed a chunk at once; if one text of it is refused, each alone, so that it takes no other down."""
    try:
        texts = [text for _, text in items]
        return list(model.embed(texts, pooling=pooling, normalize=normalize, truncate=truncate))  # type: ignore[arg-type]
    except T5kitError as error:
        if len(items) == 1:
            return [at_place(items[0][0], error)]
        return [
            result
            for item in items
            for result in _embed_each(model, [item], pooling=pooling, normalize=normalize, truncate=truncate)
        ]

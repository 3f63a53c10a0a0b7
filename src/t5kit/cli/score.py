"""`t5kit score`: log-probabilities of given targets."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from t5kit.cli import options
from t5kit.cli.each import asking
from t5kit.cli.inputs import named_field, records_of, with_field
from t5kit.cli.outputs import json_line, open_output
from t5kit.errors import RequestError
from t5kit.sources import BadRecord, Record


def score(
    model: options.ModelOption = options.DEFAULT_MODEL,
    pair: Annotated[list[str] | None, typer.Argument(help="One source and one target.", show_default=False)] = None,
    input: options.InputOption = None,
    format: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    source_field: Annotated[
        str | None, typer.Option(help="Field of the source.", show_default="source, or TSV column 0")
    ] = None,
    target_field: Annotated[
        str | None, typer.Option(help="Field of the target.", show_default="target, or TSV column 1")
    ] = None,
    output: options.OutputOption = None,
    json: options.JsonOption = False,
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
    """Print the natural log-probability of each target given its source, summed over its tokens, EOS included.

    Takes two arguments (source, target), or a TSV or JSON-lines file with both; standard input (a pipe, or --input -)
    is TSV unless --format says otherwise. One number a line, in order; a pair that cannot be scored gives an empty line
    (with --json an "error") and makes the exit code 1.
    """
    pairs = pair or []
    if pairs and len(pairs) != 2:
        raise RequestError(
            f"score takes one source and one target, got {len(pairs)} texts. "
            "For many pairs use --input with a TSV or JSONL file."
        )
    records = (
        records_of(
            [],
            input,
            format or ("tsv" if input is None or str(input) == "-" else None),
            columns=options.column_names(columns),
            encoding=encoding,
        )
        if not pairs
        else None
    )
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline,
        max_input_tokens=max_input_tokens,
    )  # fmt: skip

    def scored(some: list[tuple[str, str]]) -> list[float]:
        return loaded.score([source for source, _ in some], [target for _, target in some], truncate=truncate)

    with asking("pairs scored") as verb, open_output(output) as out:
        if records is None:
            value = loaded.score(pairs[0], pairs[1], truncate=truncate)
            out.write(json_line({"score": value}) if json else f"{value:.6f}\n")
            return
        for _, _, result in verb.each(_pairs_of(records, source_field, target_field), scored, batch_size=batch_size):
            if isinstance(result, str):
                out.write(json_line({"error": result}) if json else "\n")
            else:
                out.write(json_line({"score": result}) if json else f"{result:.6f}\n")


def _pairs_of(
    records: Iterable[Record | BadRecord], source_field: str | None, target_field: str | None
) -> Iterator[tuple[str, tuple[str, str] | BadRecord]]:
    """Yield (place, source and target or what is wrong) for each record."""

    def source_in(record: Record) -> str:
        return source_field or ("0" if "0" in record.fields else "source")

    def target_in(record: Record) -> str:
        return target_field or ("1" if "0" in record.fields else "target")

    records = with_field(records, source_in, "--source-field")
    for record in with_field(records, target_in, "--target-field"):
        if isinstance(record, BadRecord):
            yield record.place, record
            continue
        source = named_field(record, source_in(record), "--source-field")
        target = named_field(record, target_in(record), "--target-field")
        if isinstance(source, BadRecord):
            yield record.place, source
        elif isinstance(target, BadRecord):
            yield record.place, target
        else:
            yield record.place, (source, target)

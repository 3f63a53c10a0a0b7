"""`t5kit score`: log-probabilities of given targets."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from t5kit.cli import options
from t5kit.cli.inputs import chunks, records_of
from t5kit.cli.outputs import at_place, json_line, open_output, progress
from t5kit.errors import RequestError, T5kitError
from t5kit.sources import BadRecord, Record
from t5kit.sources.records import text_field

if TYPE_CHECKING:
    from t5kit.api import Model


def score(
    model: options.ModelOption = options.DEFAULT_MODEL,
    pair: Annotated[list[str] | None, typer.Argument(help="One source and one target.", show_default=False)] = None,
    input: options.InputOption = None,
    format: options.FormatOption = None,
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
    batch_size: Annotated[int, typer.Option(help="Pairs taken from a file at once.", min=1)] = 256,
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
        records_of([], input, format or ("tsv" if input is None or str(input) == "-" else None)) if not pairs else None
    )
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline,
        max_input_tokens=max_input_tokens,
    )  # fmt: skip
    with open_output(output) as out, progress("pairs scored") as count:
        if records is None:
            value = loaded.score(pairs[0], pairs[1], truncate=truncate)
            out.write(json_line({"score": value}) if json else f"{value:.6f}\n")
            return
        num_failed = 0
        for chunk in chunks(_pairs_of(records, source_field, target_field), batch_size):
            good = [pair for pair in chunk if not isinstance(pair, BadRecord)]
            scores = iter(_score_each(loaded, good, truncate=truncate))
            for pair_or_bad in chunk:
                result = pair_or_bad.error if isinstance(pair_or_bad, BadRecord) else next(scores)
                if isinstance(result, float):
                    out.write(json_line({"score": result}) if json else f"{result:.6f}\n")
                    continue
                num_failed += 1
                print(f"t5kit: {result}", file=sys.stderr)
                out.write(json_line({"error": result}) if json else "\n")
            count.advance(len(chunk))
    if num_failed:
        raise typer.Exit(1)


@dataclasses.dataclass(frozen=True, slots=True)
class _Pair:
    source: str
    target: str
    place: str


def _pairs_of(
    records: Iterable[Record | BadRecord], source_field: str | None, target_field: str | None
) -> Iterator[_Pair | BadRecord]:
    for record in records:
        if isinstance(record, BadRecord):
            yield record
            continue
        is_tsv = "0" in record.fields
        source = text_field(record, source_field or ("0" if is_tsv else "source"))
        target = text_field(record, target_field or ("1" if is_tsv else "target"))
        if isinstance(source, BadRecord):
            yield source
        elif isinstance(target, BadRecord):
            yield target
        else:
            yield _Pair(source, target, record.place)


def _score_each(model: "Model", pairs: list[_Pair], *, truncate: bool) -> list[float | str]:
    """Score a chunk at once; if one pair of it is refused, each alone, so that it takes no other down."""
    try:
        return list(model.score([pair.source for pair in pairs], [pair.target for pair in pairs], truncate=truncate))
    except T5kitError as error:
        if len(pairs) == 1:
            return [at_place(pairs[0].place, error)]
        return [result for pair in pairs for result in _score_each(model, [pair], truncate=truncate)]

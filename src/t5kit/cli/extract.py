"""`t5kit extract`: facts out of texts, as JSON of a schema."""

import sys
from typing import Annotated, Any

import typer

from t5kit.cli import options
from t5kit.cli.each import asking
from t5kit.cli.inputs import json_argument, records_of, texts_of
from t5kit.cli.outputs import json_line, open_output
from t5kit.errors import RequestError


def extract(
    model: options.ModelOption = options.DEFAULT_MODEL,
    texts: options.TextsArgument = None,
    entity: Annotated[
        list[str] | None, typer.Option("--entity", help="A type of entity to find (repeat it).", show_default=False)
    ] = None,
    relation: Annotated[
        list[str] | None, typer.Option("--relation", help="A relation to find (repeat it).", show_default=False)
    ] = None,
    schema: Annotated[
        str | None, typer.Option(help="A JSON schema: a file, or the schema itself.", show_default=False)
    ] = None,
    method: Annotated[
        str, typer.Option(help="line (all at once) or fields (one question for each field of a record).")
    ] = "line",
    prompt: Annotated[
        str | None,
        typer.Option(help="What the model reads, with {text} (and {field}).", show_default="a plain request"),
    ] = None,
    free_text: Annotated[
        bool, typer.Option("--free-text", help="Strings may be other words than the text's own.")
    ] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens a text.", show_default="256")] = None,
    num_beams: Annotated[int | None, typer.Option(help="Beams; 1 is greedy.", show_default="1")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sample, logits divided by this.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes samples repeatable.", show_default=False)] = None,
    input: options.InputOption = None,
    format: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    field: options.FieldOption = None,
    output: options.OutputOption = None,
    details: Annotated[
        bool, typer.Option("--details", help="Write input, value, is_complete, line and score.")
    ] = False,
    truncate: options.TruncateOption = False,
    max_input_tokens: options.MaxInputTokensOption = 4096,
    batch_size: options.BatchSizeOption = 64,
    engine: options.EngineOption = "auto",
    weights: options.WeightsOption = "auto",
    threads: options.ThreadsOption = None,
    device: options.DeviceOption = "auto",
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print the facts of each text as one line of JSON, in order.

    Say what to find with --entity, --relation or --schema. A text that nothing can be extracted from gives
    {"error": …} in its place and makes the exit code 1; so does an answer cut at --max-new-tokens, of which the part
    that is whole is printed (null if none is) and named on standard error.
    """
    from t5kit.api.extraction import DEFAULT_MAX_NEW_TOKENS

    asked_schema = _schema(entity or [], relation or [], schema)
    records = records_of(texts or [], input, format, columns=options.column_names(columns), encoding=encoding)
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline,
        max_input_tokens=max_input_tokens,
    )  # fmt: skip
    asked: dict[str, Any] = {
        "method": method, "prompt": prompt, "is_copied": not free_text,
        "max_new_tokens": max_new_tokens, "num_beams": num_beams,
        "temperature": temperature, "seed": seed, "truncate": truncate,
    }  # fmt: skip
    loaded.extract([], asked_schema, **asked)  # refuses a wrong option even if no text comes
    limit = DEFAULT_MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens
    with asking("texts read") as verb, open_output(output) as out:
        for place, text, found in verb.each(
            texts_of(records, field), lambda some: loaded.extract(some, asked_schema, **asked), batch_size=batch_size
        ):
            if isinstance(found, str):
                out.write(json_line({"error": found}))
                continue
            if not found.is_complete:
                verb.num_failed += 1
                kept = "nothing of it is whole" if found.value is None else "its whole part is printed"
                print(
                    f"t5kit: {place}: the answer was cut at --max-new-tokens {limit}; {kept}. Raise --max-new-tokens.",
                    file=sys.stderr,
                )
            more = {"is_complete": found.is_complete, "line": found.line, "score": found.score}
            out.write(json_line({"input": text, "value": found.value, **more} if details else found.value))


def _schema(entities: list[str], relations: list[str], schema: str | None) -> Any:
    """Return the one schema that the options give."""
    if bool(entities) + bool(relations) + (schema is not None) != 1:
        raise RequestError("Say what to extract in one way: --entity TYPE …, --relation NAME …, or --schema.")
    if entities:
        return {"entities": entities}
    return {"relations": relations} if relations else json_argument("--schema", str(schema))

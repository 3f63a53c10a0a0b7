"""`t5kit rank`: documents in the order of their worth for a query."""

from typing import Annotated, Any

import typer

from t5kit.cli import options
from t5kit.cli.each import asking
from t5kit.cli.inputs import records_of, texts_of
from t5kit.cli.outputs import json_line, one_line, open_output


def rank(
    query: Annotated[str, typer.Option("--query", "-q", help="What is looked for.", show_default=False)],
    model: options.ModelOption = options.DEFAULT_MODEL,
    documents: options.TextsArgument = None,
    method: Annotated[
        str, typer.Option(help="relevance (monoT5), likelihood (of the query) or embedding.")
    ] = "relevance",
    prompt: Annotated[
        str | None,
        typer.Option(help="What the model reads, with {query} and {document}.", show_default="that of the method"),
    ] = None,
    relevance_words: Annotated[
        tuple[str, str], typer.Option(help="What the model answers: relevant, and not.", metavar="YES NO")
    ] = ("true", "false"),
    top: Annotated[int | None, typer.Option(help="Print so many.", min=1, show_default="all")] = None,
    input: options.InputOption = None,
    format: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    field: options.FieldOption = None,
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
    """Print the documents, best first: score, a tab, the document; with --json its place in the input too.

    A document that cannot be ranked is named on standard error, is left out, and makes the exit code 1.
    """
    records = records_of(documents or [], input, format, columns=options.column_names(columns), encoding=encoding)
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline,
        max_input_tokens=max_input_tokens,
    )  # fmt: skip
    asked: dict[str, Any] = {
        "method": method, "prompt": prompt, "relevance_words": relevance_words, "truncate": truncate,
    }  # fmt: skip
    loaded.rank(query, [], **asked)  # refuses a wrong option even if no document comes
    ranked: list[tuple[float, int, str]] = []
    with asking("documents read") as verb:
        answered = verb.each(
            texts_of(records, field), lambda some: loaded.rank(query, some, **asked).scores, batch_size=batch_size
        )
        for number, (_, text, score) in enumerate(answered):
            if not isinstance(score, str):
                ranked.append((score, number, str(text)))
        ranked.sort(key=lambda each: (-each[0], each[1]))
        warned: set[str] = set()
        with open_output(output) as out:
            for score, number, text in ranked[:top]:
                if json:
                    out.write(json_line({"index": number, "score": score, "document": text}))
                else:
                    out.write(f"{score:.6f}\t{one_line(text, warned)}\n")

"""`t5kit classify`: which of a few labels a text has."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t5kit.cli import options
from t5kit.cli.each import asking
from t5kit.cli.inputs import encodings_told, named_field, records_of, texts_of
from t5kit.cli.outputs import json_line, one_line, open_output
from t5kit.errors import DataError, RequestError
from t5kit.sources import BadRecord, read_records
from t5kit.sources.records import format_of, text_field

if TYPE_CHECKING:
    from t5kit.api.calibration import Calibration


def classify(
    model: options.ModelOption = options.DEFAULT_MODEL,
    texts: options.TextsArgument = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="A label (repeat it).", show_default=False)
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--words", metavar="LABEL=WORDS", help="How the model writes a label (repeat it).", show_default=False
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the model reads; {text} is the text.")] = "{text}",
    method: Annotated[str, typer.Option(help="score (probabilities) or greedy (the label alone).")] = "score",
    length_normalized: Annotated[
        bool, typer.Option("--length-normalized", help="Compare log-probabilities a token.")
    ] = False,
    calibration: Annotated[
        str | None, typer.Option(help="contextual, or a file of --save-calibration.", show_default=False)
    ] = None,
    calibrate_on: Annotated[
        Path | None,
        typer.Option(help="Labelled examples to fit a calibration to: a file of text and label.", show_default=False),
    ] = None,
    save_calibration: Annotated[
        Path | None, typer.Option(help="Write the calibration to this JSON file.", show_default=False)
    ] = None,
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
    """Print the label of each text, one a line, in order; with --json its probabilities too.

    A text that cannot be classified leaves an empty line (with --json an "error") in its place and makes the exit code
    1. --calibrate-on FILE --save-calibration FILE alone, without texts, makes a calibration and ends.
    """
    label_words = _label_words(label or [], words or [])
    if calibration is not None and calibrate_on is not None:
        raise RequestError("--calibration and --calibrate-on both say how to calibrate; give one of the two.")
    if save_calibration is not None and calibrate_on is None and calibration != "contextual":
        raise RequestError("--save-calibration needs something to make one from: --calibrate-on or contextual.")
    has_texts = bool(texts) or input is not None or save_calibration is None
    records = (
        records_of(texts or [], input, format, columns=options.column_names(columns), encoding=encoding)
        if has_texts
        else iter(())
    )
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline,
        max_input_tokens=max_input_tokens,
    )  # fmt: skip
    asked: dict[str, Any] = {"prompt": prompt, "is_length_normalized": length_normalized}
    used: Calibration | str | None = calibration
    if calibrate_on is not None or calibration == "contextual":
        examples: tuple[list[str], list[str]] = ([], [])
        if calibrate_on is not None:
            loaded.classify([], label_words, **asked)  # wrong labels are not the examples' fault
            with encodings_told():
                examples = _examples(calibrate_on, field, options.column_names(columns), encoding, list(label_words))
        used = loaded.calibrate(label_words, texts=examples[0], targets=examples[1], truncate=truncate, **asked)
        print(f"t5kit: calibrated on {used.source}: temperature {used.temperature:.3f}.", file=sys.stderr)
        if save_calibration is not None:
            with open_output(save_calibration) as file:
                file.write(used.to_json())
    asked |= {"method": method, "calibration": used, "truncate": truncate}
    loaded.classify([], label_words, **asked)  # refuses a wrong option even if no text comes
    warned: set[str] = set()
    with asking("texts classified") as verb, open_output(output) as out:
        for _, text, result in verb.each(
            texts_of(records, field), lambda some: loaded.classify(some, label_words, **asked), batch_size=batch_size
        ):
            if isinstance(result, str):
                out.write(json_line({"error": result}) if json else "\n")
            elif json:
                out.write(json_line({"input": text, **dataclasses.asdict(result)}))
            else:
                out.write(one_line(result.label, warned) + "\n")


def _label_words(labels: list[str], pairs: list[str]) -> list[str] | dict[str, str]:
    """Return the labels, with the words that were given for some of them."""
    if not pairs:
        return labels
    words = {label: label for label in labels}
    if len(words) < len(labels):
        return labels  # the one that stands twice is named by the call
    for pair in pairs:
        name = next((label for label in words if pair.startswith(f"{label}=")), None)
        if name is None:
            raise RequestError(f"--words {pair!r} must be LABEL=WORDS, with one of the labels: {', '.join(words)}.")
        words[name] = pair[len(name) + 1 :]
    return words


def _examples(
    path: Path, field: str | None, columns: Sequence[str], encoding: str | None, labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the texts and targets of a file of labelled examples; a bad line stops it, since it would bias the fit.

    So does one that has none of the labels. columns: of a table; a file of another form names its fields itself.
    """
    texts, targets = [], []
    is_table = format_of(path) in ("csv", "tsv")
    for record in read_records(path, columns=columns if is_table else (), encoding=encoding):
        if isinstance(record, BadRecord):
            raise DataError(record.error)
        is_plain = "0" in record.fields
        text = named_field(record, field or ("0" if is_plain else "text"), "--field")
        target = text_field(record, "1" if is_plain else "label")
        for found in (text, target):
            if isinstance(found, BadRecord):
                raise DataError(found.error)
        if target not in labels:
            raise DataError(
                f"{record.place}: has the label {target!r:.80}, expected one of: {', '.join(labels)}. Correct it, or "
                "name it with --label."
            )
        texts.append(str(text))
        targets.append(str(target))
    if not texts:
        raise DataError(f"{path} holds no examples to calibrate on.")
    return texts, targets

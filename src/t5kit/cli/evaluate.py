"""`t5kit evaluate`: a model, or predictions that stand in a file, scored on data; two of them compared."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from t5kit.cli import options
from t5kit.cli.inputs import encodings_told, tell_of_encoding
from t5kit.cli.outputs import check_writable, json_line, open_output, progress
from t5kit.drawing.page import write_page
from t5kit.errors import RequestError
from t5kit.metrics import METRICS
from t5kit.sources.records import Format, format_of
from t5kit.sources.tables import NUM_SHOWN, read_table

if TYPE_CHECKING:
    from t5kit.api.arguments import GenerationArguments
    from t5kit.api.evaluation import EvaluationData
    from t5kit.evaluation.evaluator import Bootstrap, Scoring
    from t5kit.evaluation.examples import EvaluationSet
    from t5kit.evaluation.report import EvaluationReport
    from t5kit.tasks import Task

ENVIRONMENT_MODEL = "T5KIT_MODEL"
"""The model if none is named."""


def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="A model folder, or a Hugging Face Hub id.", show_default="T5KIT_MODEL")
    ] = None,
    model_option: Annotated[str | None, typer.Option("--model", "-m", help="The same.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Prompts and right answers: a file, glob or folder.", show_default=False),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help=f"Apart by commas: {', '.join(METRICS)}, perplexity.", show_default=False),
    ] = None,
    input: Annotated[
        str,
        typer.Option("--input", help='Column of the prompt, or a template: "summarize: {text}".', show_default=False),
    ] = "",
    target: Annotated[
        str, typer.Option("--target", help="Column or template of what is right.", show_default=False)
    ] = "",
    form: Annotated[
        str | None,
        typer.Option(
            help='A ready task makes prompts, references and metrics of the records: "glue/mrpc", "named_entities".',
            show_default=False,
        ),
    ] = None,
    format: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    repeated_prompts: Annotated[
        str,
        typer.Option(help="each: every record counts; group: those of one prompt count once, all targets accepted."),
    ] = "each",
    reference_separator: Annotated[
        str, typer.Option(help="Splits a target into texts that all count as right.", show_default=False)
    ] = "",
    choice: Annotated[
        list[str] | None,
        typer.Option(help="Answer by the likeliest of these texts (repeat it).", show_default=False),
    ] = None,
    length_normalized: Annotated[
        bool, typer.Option("--length-normalized", help="Compare choices by log-probability a token.")
    ] = False,
    max_examples: Annotated[int, typer.Option(help="So many, drawn by --seed.", min=0, show_default="all")] = 0,
    num_beams: Annotated[int | None, typer.Option(help="Beams; 1 is greedy.", show_default="1")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer.", show_default="128")] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="Exponent of the length penalty.", show_default="1.0")
    ] = None,
    length_penalty_formula: Annotated[
        str | None, typer.Option(help="power (n^a) or paper (((5+n)/6)^a).", show_default="power")
    ] = None,
    forbid_copy: options.ForbidCopyOption = False,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Write every answer, a JSON line each.", show_default=False)
    ] = None,
    predictions_only: Annotated[
        Path | None,
        typer.Option(
            "--predictions-only", help="Score the predictions of this file; no model is loaded.", show_default=False
        ),
    ] = None,
    compare_with: Annotated[
        str | None,
        typer.Option("--compare", help="Another model, or a file of predictions, as system B.", show_default=False),
    ] = None,
    report_page: Annotated[
        Path | None,
        typer.Option("--report", help="Write everything as one HTML page to this file.", show_default=False),
    ] = None,
    slice_by: Annotated[
        list[str] | None,
        typer.Option("--slice-by", help="Column whose values the page scores by (repeat it).", show_default=False),
    ] = None,
    num_bootstrap_samples: Annotated[
        int, typer.Option(help="Resamplings behind an interval; 0: no intervals.", min=0)
    ] = 1000,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the drawn examples and resamplings.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    output: options.OutputOption = None,
    truncate: options.TruncateOption = False,
    max_input_tokens: options.MaxInputTokensOption = 4096,
    engine: options.EngineOption = "auto",
    weights: options.WeightsOption = "auto",
    threads: options.ThreadsOption = None,
    device: options.DeviceOption = "auto",
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print scores with bootstrap intervals, of a model's answers or of predictions that stand in a file.

    Data is TSV of prompt and answer, or has the columns "input" and "target" unless --input and --target say otherwise.
    Records that cannot be used, and prompts that cannot be answered (they count as wrong), are named on standard error
    and make the exit code 1.
    """
    from t5kit.api.evaluation import bootstrap_of, examples_and_scoring
    from t5kit.checkpoint import resolve
    from t5kit.evaluation.comparison import compare
    from t5kit.evaluation.predictions_file import examples_of_predictions

    name = _one_system(model, model_option, predictions_only)
    if data is None and predictions_only is None:
        raise RequestError("--data is missing: a file with prompts and right answers.")
    names = None if metrics is None else [word.strip() for word in metrics.split(",") if word.strip()]
    if not names and (form is None or names is not None):
        raise RequestError(f"--metrics is missing; known are: {', '.join(METRICS)}, perplexity.")
    if format is not None and format not in get_args(Format):
        raise RequestError(f"--format {format!r} must be one of: {', '.join(get_args(Format))}.")
    bootstrap = bootstrap_of(num_bootstrap_samples, confidence, seed)
    _refuse_replacing(
        {"--data": data, "--predictions-only": predictions_only, "--compare": compare_with},
        {"--predictions": predictions, "--output": output, "--report": report_page},
    )
    if report_page is not None:
        check_writable(report_page, "--report")
    elif slice_by:
        raise RequestError("--slice-by is for the page of --report; name that too, or drop it.")
    is_without_model = predictions_only is not None and (compare_with is None or Path(compare_with).is_file())
    if is_without_model:
        _refuse_for_predictions(
            choice=choice, length_normalized=length_normalized, num_beams=num_beams, max_new_tokens=max_new_tokens,
            length_penalty=length_penalty, length_penalty_formula=length_penalty_formula,
            forbid_copy=forbid_copy, truncate=truncate,
        )  # fmt: skip
    if compare_with is not None and bootstrap is None:
        raise RequestError("--compare works by resampling; --num-bootstrap-samples must be above 0.")
    if compare_with is not None and format_of(Path(compare_with)) and not Path(compare_with).exists():
        raise RequestError(f"--compare {compare_with}: there is no such file. Name predictions, or a model.")
    names_of_columns = options.column_names(columns)
    records: EvaluationData
    if form is not None:
        records = _task(form, data, format, names_of_columns, encoding)  # type: ignore[arg-type]  # checked above
    elif data is not None:
        records = str(data)
    else:
        records = list(examples_of_predictions(Path(name), encoding=encoding))
        # Named, for a slice beside them may be called "input", "source" or "target", which are looked for before.
        input, target = input or "prompt", target or "references"
    with encodings_told():
        examples, scoring = examples_and_scoring(
            records,
            names, input=input, target=target, format=format,  # type: ignore[arg-type]  # checked above
            columns=names_of_columns, encoding=encoding, split="test",
            repeated_prompts=repeated_prompts, reference_separator=reference_separator,  # type: ignore[arg-type]
            choices=choice or (), is_length_normalized=length_normalized, max_examples=max_examples, seed=seed,
            slice_by=slice_by or (),
        )  # fmt: skip
    for finding in examples.findings:
        print(f"t5kit: found: {finding}", file=sys.stderr)
    work = _Work(
        examples=examples,
        scoring=scoring,
        bootstrap=bootstrap,
        truncate=truncate,
        encoding=encoding,
        arguments={
            "num_beams": num_beams, "max_new_tokens": max_new_tokens, "length_penalty": length_penalty,
            "length_penalty_formula": length_penalty_formula,  # type: ignore[typeddict-item]  # checked with the others
            "forbid_copy": forbid_copy or None,
        },
        loading={
            "engine": engine, "weights": weights, "threads": threads, "device": device, "offline": offline,
            "max_input_tokens": max_input_tokens,
        },
    )  # fmt: skip
    # B first where it costs little, so that what is wrong with it is told before A has worked for an hour.
    other = work.of_file(Path(compare_with)) if compare_with and Path(compare_with).is_file() else None
    if compare_with and other is None:
        resolve(compare_with, offline=offline or None)
    with open_output(output) as out:
        with open_output(predictions) if predictions is not None else contextlib.nullcontext() as answers:
            report = work.of_file(Path(name)) if predictions_only is not None else work.of_model(name, revision)
            if answers is not None:
                answers.write("".join(json_line(result.to_json()) for result in report.results))
        if compare_with and other is None:
            other = work.of_model(compare_with, None)
        comparison = (
            compare(report, other, bootstrap=bootstrap) if other is not None and bootstrap is not None else None
        )
        if json:
            facts: dict[str, Any] = report.to_json()
            out.write(json_line(facts if comparison is None else {**facts, "comparison": comparison.to_json()}))
        elif comparison is None:
            out.write(f"{report}\n")
        else:
            out.write(f"A: {name}\n{report}\n\nB: {compare_with}\n{comparison}\n")
    if report_page is not None:  # last, so that nothing of it can cost the scores
        page = report.to_html(
            name=_short(name), other=other, other_name=_short(compare_with or ""), comparison=comparison
        )
        write_page(report_page, page)
        print(f"t5kit: the report is {report_page}", file=sys.stderr)
    _say_what_is_bad(report)
    _say_what_failed(report, "A: " if other is not None else "")
    if other is not None:
        _say_what_failed(other, "B: ")
    if report.num_bad or report.num_unanswered or (other is not None and other.num_unanswered):
        raise typer.Exit(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """What every system is asked, and how models are loaded for it."""

    examples: "EvaluationSet"
    scoring: "Scoring"
    bootstrap: "Bootstrap | None"
    truncate: bool
    encoding: str | None
    arguments: "GenerationArguments"
    loading: dict[str, Any]

    def of_model(self, name: str, revision: str | None) -> "EvaluationReport":
        """Return the report on a model."""
        from t5kit.api.evaluation import evaluate_model

        with options.load_model(name, revision=revision, **self.loading) as model, progress("texts answered") as count:
            return evaluate_model(
                model,
                self.examples,
                self.scoring,
                truncate=self.truncate,
                bootstrap=self.bootstrap,
                progress=count.advance,
                options=self.arguments,
            )

    def of_file(self, path: Path) -> "EvaluationReport":
        """Return the report on a file of predictions; what in it could not be used is named on standard error."""
        from t5kit.evaluation.evaluator import evaluate_predictions
        from t5kit.evaluation.predictions_file import read_predictions

        matched = read_predictions(path, self.examples, encoding=self.encoding)
        for record in matched.bad:
            print(f"t5kit: {record.error}", file=sys.stderr)
        if matched.num_unused:
            print(f"t5kit: {path}: {matched.num_unused:,} prompts of it are not in the data.", file=sys.stderr)
        return evaluate_predictions(self.examples, matched.predictions, self.scoring, bootstrap=self.bootstrap)


def _task(
    form: str, data: Path | None, format: Format | None, columns: tuple[str, ...], encoding: str | None
) -> "Task":
    """Return the records of the data as a ready task's."""
    from t5kit.tasks import Task
    from t5kit.tasks.config import TaskConfig
    from t5kit.tasks.configured import make_form

    if data is None:
        raise RequestError("--form makes prompts of records; name a file of them with --data.")
    with encodings_told():
        table = read_table(data, format=format, columns=columns, encoding=encoding)
    return Task(form, make_form(TaskConfig(form=form)), {"test": table})


def _one_system(model: str | None, option: str | None, predictions_only: Path | None) -> str:
    """Return the model or the file that is system A."""
    given = [str(word) for word in (model, option, predictions_only) if word is not None]
    if len(given) > 1:
        raise RequestError(
            f"{' and '.join(map(repr, given))} are given; expected one model, or one file with --predictions-only. "
            "To set one against another use --compare."
        )
    if not given and ENVIRONMENT_MODEL in os.environ:
        return os.environ[ENVIRONMENT_MODEL]
    if not given:
        raise RequestError("There is nothing to evaluate: name a model, or a file with --predictions-only.")
    return given[0]


def _refuse_replacing(read: Mapping[str, str | Path | None], written: Mapping[str, Path | None]) -> None:
    """Raise RequestError where a file that is written is read too, or is written twice."""
    taken = {name: Path(path) for name, path in read.items() if path is not None}
    for option, path in written.items():
        if path is None or (path.exists() and not path.is_file()):  # /dev/null takes everything
            continue
        for name, other in taken.items():
            if path == other or (path.exists() and other.exists() and path.samefile(other)):
                raise RequestError(f"{option} {path} is the file of {name}, which it would replace. Name another one.")
        taken[option] = path


def _refuse_for_predictions(**options: object) -> None:
    """Raise RequestError for an option that asks something of a model, where none is asked."""
    given = [f"--{word.replace('_', '-')}" for word, value in options.items() if value not in (None, False, [])]
    if given:
        raise RequestError(
            f"{' and '.join(given)} ask something of a model, and --predictions-only scores what stands in a file. "
            "Drop the one or the other."
        )


def _short(name: str) -> str:
    """Return a folder's or file's own name, without where it lies; another name as it is."""
    return Path(name).name if Path(name).exists() else name


def _say_what_is_bad(report: "EvaluationReport") -> None:
    """Name the first bad records on standard error."""
    tell_of_encoding(report.bad)
    for record in report.bad:
        print(f"t5kit: {record.error}", file=sys.stderr)
    if report.num_bad > len(report.bad):
        print(f"t5kit: … and {report.num_bad - len(report.bad):,} more bad records.", file=sys.stderr)


def _say_what_failed(report: "EvaluationReport", system: str) -> None:
    """Name the first examples without an answer on standard error."""
    failed = [result for result in report.results if result.error is not None]
    for result in failed[:NUM_SHOWN]:
        print(f"t5kit: {system}{result.place}: {result.error}", file=sys.stderr)
    if len(failed) > NUM_SHOWN:
        print(f"t5kit: {system}… and {len(failed) - NUM_SHOWN:,} more without an answer.", file=sys.stderr)

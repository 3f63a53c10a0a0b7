"""`t5kit finetune`: a model adapted to a person's own files by one command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from t5kit.cli import options
from t5kit.cli.outputs import json_line
from t5kit.cli.train import plain_warnings
from t5kit.errors import RequestError
from t5kit.metrics import METRICS
from t5kit.sources.records import Format
from t5kit.training.config import PRECISIONS

if TYPE_CHECKING:
    from t5kit.api.fitting import FitPlan


def finetune(
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", "-d", help="Inputs and targets: a file, glob or folder (repeat it).", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the run; the model is in its model/.", show_default=False)
    ],
    model: options.ModelOption = options.DEFAULT_MODEL,
    input: Annotated[
        str,
        typer.Option("--input", help='Column of the input, or a template: "review: {text}".', show_default=False),
    ] = "",
    target: Annotated[
        str, typer.Option("--target", help='Column of the target, or a template: "{label}".', show_default=False)
    ] = "",
    dev: Annotated[
        list[Path] | None,
        typer.Option(help="Records to choose the best weights by.", show_default="a part of --data, held out"),
    ] = None,
    test: Annotated[
        list[Path] | None,
        typer.Option(help="Records that are only scored, at the end.", show_default=False),
    ] = None,
    format: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    metrics: Annotated[
        str | None,
        typer.Option(help=f"Apart by commas: {', '.join(METRICS)}.", show_default="those that fit the targets"),
    ] = None,
    num_epochs: Annotated[float | None, typer.Option(help="Passes over the data.", show_default="by its size")] = None,
    num_steps: Annotated[int | None, typer.Option(help="Updates, in place of passes.", show_default=False)] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Encoder tokens of a batch.", show_default="by the data's size")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.", show_default="by the method")] = None,
    max_input_tokens: Annotated[
        int | None, typer.Option(help="Longer inputs are cut.", show_default="the longest, at most 1024")
    ] = None,
    max_target_tokens: Annotated[
        int | None, typer.Option(help="Longer targets are cut.", show_default="the longest, at most 1024")
    ] = None,
    method: Annotated[
        str, typer.Option(help="full: all weights; lora; prompt: vectors before every input; head: the output head.")
    ] = "full",
    rank: Annotated[int | None, typer.Option(help="lora: of the additions.", show_default="16")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="lora: additions are multiplied by alpha / rank.", show_default="32")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="lora: of the additions' inputs.", show_default="0")] = None,
    targets: Annotated[
        str | None, typer.Option(help="lora: linear maps apart by commas, such as q,v.", show_default="all of them")
    ] = None,
    num_prompt_tokens: Annotated[int | None, typer.Option(help="prompt: vectors.", show_default="20")] = None,
    instructions: Annotated[
        Path | None,
        typer.Option(
            help="A file of input templates, one a line: the best on dev, untrained, is taken.", show_default=False
        ),
    ] = None,
    synonyms: Annotated[
        Path | None,
        typer.Option(help="A word list: words of a line, apart by commas, replace each other.", show_default=False),
    ] = None,
    noise_rate: Annotated[float, typer.Option(help="Share of letters mistyped in half of the inputs.")] = 0.0,
    back_translate: Annotated[
        list[str] | None,
        typer.Option(help="A model that translates (repeat it: one there, one back).", show_default=False),
    ] = None,
    there: Annotated[
        str | None,
        typer.Option(help="Its prompt for the way there.", show_default="translate English to German: {text}"),
    ] = None,
    back: Annotated[
        str | None,
        typer.Option(help="Its prompt for the way back.", show_default="translate German to English: {text}"),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Evaluations without a better one before it stops; 0: never.",
            show_default="three fifths of all, at least 3",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 or bfloat16.", show_default="bfloat16 where it is fast")
    ] = None,
    threads: options.ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.", min=0)] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Neither plan nor display; what is wrong is said.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Fine-tune a model on your own records; print the new model's folder.

    What is not said is chosen from the data, and told: lengths, batch, learning rate, passes, metric. A part of the
    data is held out to stop early and keep the best weights, unless --dev is given. A run that was stopped goes on by
    the same command. DIR/report.html has curves, scores, samples and what was found in the data.
    """
    from t5kit.api.finetuning import finetune as train_plan
    from t5kit.api.finetuning import plan_finetuning
    from t5kit.api.fitting_settings import FitSettings
    from t5kit.api.instructions import read_instructions
    from t5kit.api.paraphrasing import BackTranslation

    if format is not None and format not in get_args(Format):
        raise RequestError(f"--format {format!r} must be one of: {', '.join(get_args(Format))}.")
    if precision is not None and precision not in PRECISIONS:
        raise RequestError(f"--precision {precision!r} must be one of: {', '.join(PRECISIONS)}.")
    said: dict[str, object] = {"rank": rank, "alpha": alpha, "dropout": dropout, "num_prompt_tokens": num_prompt_tokens}
    said["targets"] = None if targets is None else tuple(word.strip() for word in targets.split(",") if word.strip())
    of_method: Any = {name: value for name, value in said.items() if value is not None}
    settings = FitSettings(
        method=cast("Any", method), **of_method,
        num_epochs=num_epochs, num_steps=num_steps, batch_tokens=batch_tokens, lr=lr, patience=patience, seed=seed,
        max_input_tokens=max_input_tokens, max_target_tokens=max_target_tokens, threads=threads,
        precision=cast("Any", precision), synonyms=synonyms, noise_rate=noise_rate,
    )  # fmt: skip
    paraphrase = None
    if back_translate:
        paraphrase = BackTranslation(
            back_translate,
            there or "translate English to German: {text}",
            back or "translate German to English: {text}",
            threads=threads,
            offline=offline or None,
        )
    elif there is not None or back is not None:
        raise RequestError("--there and --back are prompts of --back-translate; name its model too, or drop them.")
    with plain_warnings():
        plan = plan_finetuning(
            model, data, out, settings=settings, dev=dev, test=test, input=input, target=target,
            format=cast("Format | None", format), encoding=encoding, columns=options.column_names(columns),
            metrics=[word.strip() for word in (metrics or "").split(",") if word.strip()],
            instructions=read_instructions(instructions) if instructions is not None else (),
            paraphrase=paraphrase, revision=revision, offline=offline or None,
        )  # fmt: skip
        _tell_plan(plan, is_quiet=quiet and not dry_run)
        if dry_run:
            for split, report in plan.given.tasks[0].reports.items():
                if report.num_bad:  # a run says so itself
                    _say(f"found: {split}: {report}")
            return
        finetuned = train_plan(plan, out, shows=not quiet, tell=_say)
    for line in finetuned.lines():
        print(line if line.startswith(" ") else f"t5kit: {line}", file=sys.stderr)
    _say(f"report: {out / 'report.html'}")
    _say(f"use it: {finetuned.command()}")
    print(json_line(finetuned.facts()) if json else finetuned.result.model_path, end="" if json else "\n")
    if finetuned.failures:
        raise typer.Exit(1)


def _tell_plan(plan: "FitPlan", *, is_quiet: bool) -> None:
    """Say what was chosen; what was found in the data is said in any case."""
    for choice in () if is_quiet else plan.choices:
        _say(str(choice))
    for finding in plan.findings:
        _say(f"found: {finding}")


def _say(line: str) -> None:
    print(f"t5kit: {line}", file=sys.stderr)

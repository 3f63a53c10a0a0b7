"""`t5kit tune`: settings for fine-tuning searched by trying them."""

import sys
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from t5kit.cli import options
from t5kit.cli.outputs import json_line
from t5kit.cli.train import plain_warnings
from t5kit.errors import RequestError
from t5kit.sources.records import Format
from t5kit.training.config import PRECISIONS


def tune(
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", "-d", help="Inputs and targets: a file, glob or folder (repeat it).", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of the search; the best model is in its model/.", show_default=False),
    ],
    model: options.ModelOption = options.DEFAULT_MODEL,
    input: Annotated[
        str, typer.Option("--input", help='Column of the input, or a template: "review: {text}".', show_default=False)
    ] = "",
    target: Annotated[
        str, typer.Option("--target", help='Column of the target, or a template: "{label}".', show_default=False)
    ] = "",
    dev: Annotated[
        list[Path] | None, typer.Option(help="Records to choose by.", show_default="a part of --data, held out")
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="Records that the best model is scored on.", show_default=False)
    ] = None,
    format: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    metrics: Annotated[
        str | None, typer.Option(help="Apart by commas.", show_default="those that fit the targets")
    ] = None,
    num_trials: Annotated[int, typer.Option(help="Runs in all, those of earlier calls counted.", min=1)] = 20,
    max_minutes: Annotated[
        float | None, typer.Option(help="No run begins after so many.", show_default="no limit")
    ] = None,
    method: Annotated[str, typer.Option(help="full, lora, prompt or head.")] = "full",
    lr: Annotated[float | None, typer.Option(help="Said, it is not searched.", show_default="searched")] = None,
    num_epochs: Annotated[float | None, typer.Option(help="Likewise.", show_default="searched")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Likewise.", show_default="searched")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 or bfloat16.", show_default="bfloat16 where it is fast")
    ] = None,
    threads: options.ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.", min=0)] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Neither plan nor display; what is wrong is said.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Fine-tune with many settings and keep the best model; print its folder.

    Searched are learning rate, passes and batch, with LoRA its rank and dropout too, with prompts their number of
    vectors; the first run is what `t5kit finetune` would do. All runs are judged by the same dev records. A search that
    was stopped goes on by the same command, and with a higher --num-trials. OUT/tuning.html has its plots. Needs the
    extra "tune".
    """
    from t5kit.api.finetuning import plan_finetuning
    from t5kit.api.fitting import FitPlan
    from t5kit.api.fitting_settings import FitSettings
    from t5kit.api.tuning import finetune_command
    from t5kit.api.tuning import tune as search

    if format is not None and format not in get_args(Format):
        raise RequestError(f"--format {format!r} must be one of: {', '.join(get_args(Format))}.")
    if precision is not None and precision not in PRECISIONS:
        raise RequestError(f"--precision {precision!r} must be one of: {', '.join(PRECISIONS)}.")
    names = [word.strip() for word in (metrics or "").split(",") if word.strip()]
    column_names = options.column_names(columns)
    common = FitSettings(
        method=cast("Any", method), lr=lr, num_epochs=num_epochs, batch_tokens=batch_tokens, threads=threads, seed=seed,
        precision=cast("Any", precision),
    )  # fmt: skip

    def make_plan(settings: FitSettings, run_folder: Path) -> FitPlan:
        return plan_finetuning(
            model, data, run_folder, settings=settings, dev=dev, test=test, input=input, target=target,
            format=cast("Format | None", format), encoding=encoding, columns=column_names, metrics=names,
            revision=revision, offline=offline or None,
        )  # fmt: skip

    words: list[tuple[str, object]] = [
        ("input", input), ("target", target), *(("dev", path) for path in dev or ()),
        *(("test", path) for path in test or ()), ("format", format), ("columns", columns),
        ("encoding", encoding), ("metrics", metrics),
        ("method", method), ("lr", lr), ("num-epochs", num_epochs), ("batch-tokens", batch_tokens),
        ("precision", precision), ("threads", threads), ("seed", seed or None), ("revision", revision),
        ("offline", offline),
    ]  # fmt: skip
    command = finetune_command(model, data, Path(f"{out}-again"), words)
    with plain_warnings():
        tuned = search(
            make_plan, common, out, num_trials=num_trials, command=command, max_minutes=max_minutes, shows=not quiet,
            tell=_say,
        )  # fmt: skip
    for split, report in tuned.reports.items():
        _say(f"{split}: {', '.join(f'{name} {value:.2f}' for name, value in report.scores.items())}")
    _say(f"plots: {out / 'tuning.html'}")
    _say(f"the best settings again: {tuned.search.command}")
    print(json_line(tuned.facts()) if json else tuned.model_path, end="" if json else "\n")
    if tuned.failures:
        raise typer.Exit(1)


def _say(line: str) -> None:
    print(f"t5kit: {line}", file=sys.stderr)

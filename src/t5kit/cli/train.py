"""`t5kit train`: a recipe run from its beginning, or from where it stood, to a model folder."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t5kit.cli.outputs import json_line
from t5kit.errors import ConfigError

if TYPE_CHECKING:
    from t5kit.training.hooks import TrainingResult

_USUAL_FORMAT = warnings.formatwarning

RecipeArgument = Annotated[Path, typer.Argument(help="A recipe (TOML).", metavar="RECIPE.toml", show_default=False)]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Settings over the recipe's: key.path=value.", metavar="key.path=value", show_default=False),
]


def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(help="Where everything of the run is written.", show_default="runs/ and the recipe's name"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Fail if there is no run to go on with.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No display.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Train what a recipe says; print the final model's folder.

    A run that was stopped or killed goes on by the same command, as if it had never stopped.
    `t5kit inspect RECIPE.toml` shows the data before, `t5kit config explain` every setting.
    """
    from t5kit.api.training import run_hooks, train_recipe
    from t5kit.config.overrides import read_settings

    settings = read_settings(recipe, overrides or ())
    folder = run_folder or Path("runs") / recipe.stem
    if resume and not (folder / "resolved.toml").exists():
        raise ConfigError(f"{folder} holds no run to go on with. Leave --resume away to start one there.")
    with plain_warnings():
        result = train_recipe(settings, folder, hooks=run_hooks(shows=not quiet))
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes one speaks
    print(f"t5kit: {_summary(result)}", file=sys.stderr)
    print(json_line(_facts(result)) if json else result.model_path, end="" if json else "\n")


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Write warnings as one line each on standard error, without the place in our own code."""
    with warnings.catch_warnings():
        warnings.formatwarning = lambda message, *_: f"t5kit: {message}\n"
        try:
            yield
        finally:
            warnings.formatwarning = _USUAL_FORMAT


def _summary(result: "TrainingResult") -> str:
    end = "out of patience" if result.stopped_early else "out of data" if result.ran_out_of_data else "done"
    text = f"{end} after {result.num_steps:,} steps"
    if result.num_skipped:
        text += f" ({result.num_skipped:,} skipped)"
    if result.best:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in result.best.metrics.items() if name != "seconds")
        text += f"; best at step {result.best.step:,}: {scores}"
        if result.model_step != result.best.step:
            text += f"; the model is that of step {result.model_step:,}"
    return f"{text}."


def _facts(result: "TrainingResult") -> dict[str, object]:
    return {
        "num_steps": result.num_steps,
        "num_skipped": result.num_skipped,
        "stopped_early": result.stopped_early,
        "ran_out_of_data": result.ran_out_of_data,
        "best_step": result.best.step if result.best else None,
        "best_metrics": dict(result.best.metrics) if result.best else None,
        "model_step": result.model_step,
        "model_path": str(result.model_path),
    }

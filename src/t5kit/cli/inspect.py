"""`t5kit inspect`: what a model folder is, or what a recipe will do."""

from pathlib import Path
from typing import Annotated

import typer

from t5kit.cli import options
from t5kit.cli.outputs import json_line, terminal_width
from t5kit.errors import RequestError


def inspect(
    name: Annotated[
        str, typer.Argument(help="A model folder, a Hugging Face Hub id, or a recipe (.toml).", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="For a recipe: settings over its own, key.path=value.", metavar="key.path=value", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    examples: Annotated[int, typer.Option(help="For a recipe: examples shown of each task.", min=0)] = 2,
    batches: Annotated[int, typer.Option(help="For a recipe: batches looked at for the statistics.", min=1)] = 50,
    no_timing: Annotated[bool, typer.Option("--no-timing", help="For a recipe: measure no step.")] = False,
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print what was inferred about a model (family, tied, scaled, bias per layer, gated, sizes, memory) and why.

    Of a recipe, print what its run will see and cost: decoded examples with sentinels, lengths, padding, the mixture's
    shares, memory, and the time by a measured step. Lines of examples are cut to the width of a terminal; in a pipe or
    a file they are whole.
    """
    if name.endswith(".toml"):
        text_or_dict = _recipe(name, overrides or [], examples, batches, measures=not no_timing, is_json=json)
        print(text_or_dict, end="" if json else "\n")
        return
    if overrides:
        raise RequestError(
            f"{overrides[0]!r}: only a recipe takes settings, and {name!r} is none: a recipe's name ends in .toml."
        )
    from t5kit.checkpoint import describe, open_folder, resolve

    description = describe(open_folder(resolve(name, revision=revision, offline=offline or None)))
    print(json_line(description.to_dict()) if json else description.to_text(), end="" if json else "\n")


def _recipe(name: str, overrides: list[str], examples: int, batches: int, *, measures: bool, is_json: bool) -> str:
    from t5kit.api.recipe_inspection import inspect_recipe
    from t5kit.recipe import read_recipe

    config = read_recipe(Path(name), overrides)
    description = inspect_recipe(config, num_examples=examples, num_batches=batches, measures=measures)
    if is_json:
        return json_line(description.to_dict())
    return description.to_text(terminal_width())

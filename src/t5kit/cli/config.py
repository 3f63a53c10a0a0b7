"""`t5kit config`: every setting of a recipe, with type, default and meaning."""

from pathlib import Path
from typing import Annotated

import typer

from t5kit.cli.train import OverridesArgument, RecipeArgument

app = typer.Typer(help="What a recipe can say.", no_args_is_help=True)


@app.command("explain", short_help="Every setting with its type, default and meaning.")
def explain(
    path: Annotated[
        str, typer.Argument(help="A setting, or the beginning of some: training, data.tasks.", show_default="all")
    ] = "",
) -> None:
    """Print the settings of a recipe: path = default (type), and what it means."""
    from t5kit.config.explain import explain as explained
    from t5kit.recipe import RunConfig

    print(explained(RunConfig, path))


@app.command("resolve", short_help="A recipe with every default written out.")
def resolve(recipe: RecipeArgument, overrides: OverridesArgument = None) -> None:
    """Check a recipe and print it with every default written out, as TOML; training it gives the same run."""
    from t5kit.recipe import read_recipe

    print(read_recipe(Path(recipe), overrides or ()).to_toml(), end="")

"""`t5kit inspect`: what a folder is, and how that was inferred."""

from typing import Annotated

import typer

from t5kit.cli import options
from t5kit.cli.outputs import json_line


def inspect(
    name: Annotated[str, typer.Argument(help="A model folder, or a Hugging Face Hub id.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print what was inferred about a model (family, tied, scaled, bias per layer, gated, sizes, memory) and why."""
    from t5kit.checkpoint import describe, open_folder, resolve

    description = describe(open_folder(resolve(name, revision=revision, offline=offline or None)))
    print(json_line(description.to_dict()) if json else description.to_text(), end="" if json else "\n")

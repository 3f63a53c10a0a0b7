"""`t5kit explain`: why the model answers as it does."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t5kit.cli import options
from t5kit.cli.inputs import whole_input
from t5kit.cli.outputs import check_writable, json_line, open_output, progress
from t5kit.errors import RequestError

if TYPE_CHECKING:
    from t5kit.explanation.explanation import Explanation

NUM_SHOWN = 4
"""Input words printed for each output word."""


def explain(
    text: Annotated[str, typer.Argument(help='The input; "-" is standard input.', show_default=False)],
    model: options.ModelOption = options.DEFAULT_MODEL,
    target: Annotated[
        str | None, typer.Option(help="Explain this text instead of the model's answer.", show_default=False)
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to this file.", show_default=False)] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Draw one map to this file; see --draw.", show_default=False)
    ] = None,
    draw: Annotated[
        str | None, typer.Option(help="The map of --png.", show_default="attribution, or the first there is")
    ] = None,
    map: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="attribution, alignment or encoder_attention (repeat it).",
            show_default="all that can be had",
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Of attributions: pad, unknown or zero.")] = "pad",
    tolerance: Annotated[float, typer.Option(help="Error allowed in an output token's attributions.")] = 0.05,
    max_steps: Annotated[int, typer.Option(help="Most steps of attributions.")] = 512,
    num_beams: Annotated[int | None, typer.Option(help="Beams; 1 is greedy.", show_default="1")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens of the answer.", show_default="128")] = None,
    encoding: options.EncodingOption = None,
    json: options.JsonOption = False,
    output: options.OutputOption = None,
    truncate: options.TruncateOption = False,
    engine: options.EngineOption = "auto",
    weights: options.WeightsOption = "auto",
    threads: options.ThreadsOption = None,
    device: options.DeviceOption = "auto",
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print an answer, and which input words each of its words comes from: by attribution, else by attention.

    --html writes heat maps of everything as a page, --png draws one of them, --json prints all numbers. Attributions
    need PyTorch and take a while; where it is not installed they are left out, and that is said. The exit code is 1 if
    attributions do not come within --tolerance in --max-steps.
    """
    from t5kit.explanation.explanation import MAPS
    from t5kit.explanation.heat_map_png import check_can_draw

    for path, option in ((html, "--html"), (png, "--png")):
        if path is not None:
            check_writable(path, option)
    if draw is not None and png is None:
        raise RequestError("--draw is for the picture of --png; name that too, or drop it.")
    if draw is not None and draw not in (map or MAPS):
        raise RequestError(f"--draw {draw!r} is not among the maps asked for: {', '.join(map or MAPS)}.")
    if png is not None:
        if png.suffix.lower() != ".png":
            raise RequestError(f"--png {png} draws a PNG; give the file a name that ends in .png.")
        check_can_draw()
    if encoding is not None and text != "-":
        raise RequestError("--encoding is of standard input; give the text as -, or drop --encoding.")
    if text == "-":
        text = whole_input(encoding)
    arguments = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline
    )
    with loaded, progress("steps done") as count:
        found = loaded.explain(
            text,
            target,
            maps=map or None,  # type: ignore[arg-type]  # checked there
            baseline=baseline,  # type: ignore[arg-type]
            tolerance=tolerance,
            max_steps=max_steps,
            truncate=truncate,
            progress=count.advance,
            **{name: value for name, value in arguments.items() if value is not None},  # type: ignore[arg-type]
        )
    for note in found.notes:
        print(f"t5kit: {note}", file=sys.stderr)
    with open_output(output) as out:
        out.write(json_line(found.to_json()) if json else f"{summary(found)}\n")
    if html is not None:
        found.to_html(html)
    if png is not None:
        found.to_png(png, draw)  # type: ignore[arg-type]
    if found.attribution is not None and not found.attribution.is_complete:
        print(
            f"t5kit: after {found.attribution.num_steps} steps the attributions are off by up to "
            f"{found.attribution.errors.max():.3f} nats. Raise --max-steps, or --tolerance.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def summary(found: "Explanation") -> str:
    """Return the answer, and for each of its words the input words that weigh most."""
    lines = [found.answer, ""]
    name = next((name for name in found.maps() if name != "encoder_attention"), None)
    if name is not None:
        values = found.word_matrix(name)
        shown = "{:+.2f}" if name == "attribution" else "{:.2f}"
        width = max(len(word.text) for word in found.output_words)
        for word, row in zip(found.output_words, values, strict=True):
            best = sorted(range(len(row)), key=lambda place: -abs(row[place]))[:NUM_SHOWN]
            parts = [f"{found.input_words[place].text} {shown.format(row[place])}" for place in best]
            lines.append(f"{word.text.ljust(width)}  {'   '.join(parts)}")
        lines.append("")
    if found.attribution is not None:
        a = found.attribution
        lines.append(
            f"Nats added to each word's log-probability, beside the baseline {a.baseline!r}. The answer's is "
            f"{a.scores.sum():.2f}, the baseline's {a.baseline_scores.sum():.2f}; largest error of a token "
            f"{a.errors.max():.4f} after {a.num_steps} steps."
        )
    elif name is not None:
        lines.append("Shares of cross-attention, averaged over layers and heads.")
    else:
        lines.append("Encoder self-attention is in --html, --png and --json.")
    return "\n".join(lines)

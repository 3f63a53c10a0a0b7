"""A heat map as a PNG, by matplotlib, which `pip install 't5kit[explain]'` brings."""

import importlib.util
import re
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from t5kit.errors import DataError, DependencyError

MAX_INCHES = 40.0
MAX_LABEL = 24
NUMBERS_UP_TO = 400
"""Cells: in more of them numbers would only be noise."""
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Arabic", "Noto Sans")
"""Families asked for glyphs, one after the other, of those that are installed; DejaVu comes with matplotlib."""


def check_can_draw() -> None:
    """Raise DependencyError now if matplotlib is missing, and not after minutes of work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DependencyError.for_extra("matplotlib", "explain", "A PNG heat map")


def draw_heat_map(
    path: Path,
    values: npt.NDArray[np.float64],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    is_signed: bool,
) -> None:
    """Draw values [R, C] with their names; the picture grows with the cells.

    Warns (UserWarning) of letters that no installed font of `FONTS` has; they are empty boxes in the picture.
    Raises: DependencyError without matplotlib; DataError if the file cannot be written.
    """
    check_can_draw()
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    installed = set(font_manager.get_font_names())
    families = [name for name in FONTS if name in installed]
    num_rows, num_columns = values.shape
    width, height = 3.2 + 0.46 * num_columns, 1.9 + 0.34 * num_rows
    # A Figure of its own, and no pyplot: nothing global is touched, and no window system is looked for.
    # parse_math: a "$" of the text is a dollar, not the beginning of a formula.
    with matplotlib.rc_context({"font.family": families, "text.parse_math": False}):
        figure = Figure(figsize=(min(MAX_INCHES, max(5.0, width)), min(MAX_INCHES, height)), layout="constrained")
        axes = figure.add_subplot()
        most = float(np.abs(values).max(initial=0.0)) or 1.0
        drawn = axes.imshow(
            values,
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu" if is_signed else "Blues",
            vmin=-most if is_signed else 0.0,
            vmax=most,
        )
        axes.set_xticks(
            range(num_columns), [_short(name) for name in column_names], rotation=55, ha="right",
            rotation_mode="anchor",
        )  # fmt: skip
        axes.set_yticks(range(num_rows), [_short(name) for name in row_names])
        axes.set_title(title, loc="left", fontsize=11)
        if values.size <= NUMBERS_UP_TO:
            for (row, column), value in np.ndenumerate(values):
                size = abs(value) / most
                if size >= 0.05:
                    axes.text(
                        column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                        color="white" if size > 0.6 else "black",
                    )  # fmt: skip
        figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                figure.savefig(partial, format="png", dpi=144)
            partial.replace(path)
        except OSError as error:
            raise DataError(f"{path}: the picture cannot be written ({error.strerror or error}).") from error
        finally:
            partial.unlink(missing_ok=True)
    _tell_again(path, caught)


def _tell_again(path: Path, caught: Sequence[warnings.WarningMessage]) -> None:
    """Say in one warning what matplotlib says of each glyph ("Glyph 20320 (...) missing ..."), and the others too."""
    numbers: dict[str, None] = {}
    for warning in caught:
        if found := re.match(r"Glyph (\d+) ", str(warning.message)):
            numbers[found[1]] = None
        else:
            warnings.warn(warning.message, warning.category, stacklevel=3)
    if numbers:
        letters = "".join(chr(int(number)) for number in numbers)
        warnings.warn(
            f"{path}: no installed font has {len(letters)} of the letters ({letters[:20]}), so they are drawn as empty "
            "boxes. The HTML page shows them; for the picture install a font such as Noto Sans CJK.",
            UserWarning,
            stacklevel=3,
        )


def _short(name: str) -> str:
    return name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"

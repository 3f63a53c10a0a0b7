"""An explanation as one HTML page: heat maps as tables, with a row an input word and a column an output word."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from t5kit.drawing.axes import number_text
from t5kit.drawing.heat_map import heat_class, heat_image, heat_level, heat_table, largest_size
from t5kit.drawing.page import details, document, figure, key_figures, note, section, table

if TYPE_CHECKING:
    from t5kit.explanation.explanation import Explanation, Map

MAX_TABLE_WORDS = 60
"""Words beside words in a table; more are drawn as pictures alone."""
MAX_PICTURE_WORDS = 400
MAX_LAYER_CELLS = 6000
"""Of all layers of a map together; more are drawn as pictures."""

Matrix = npt.NDArray[np.float64]


def explanation_page(explanation: "Explanation") -> str:
    """Return the page as an HTML document."""
    sections = [
        section("Input and answer", _texts(explanation)),
        section("What each input word adds", _attribution(explanation)),
        section("Where the decoder looks", _alignment(explanation)),
        section("Whom input words look at", _encoder_attention(explanation)),
        section("Tokens", _tokens(explanation)),
    ]
    body = "".join(note(sentence) for sentence in explanation.notes) + "".join(sections)
    heading = explanation.answer.strip() or "(empty answer)"
    return document(f"Why: {heading[:80]}", heading, "An answer explained by t5kit.", body)


def _texts(explanation: "Explanation") -> str:
    words = [word.text for word in explanation.input_words]
    if explanation.attribution is None:
        shown = escape(" ".join(words))
    else:
        whole = explanation.word_matrix("attribution").sum(axis=0).tolist()
        most = largest_size([whole])
        shown = " ".join(
            f'<span class="{heat_class(level)}">{escape(word)}</span>' if level else escape(word)
            for word, level in zip(words, (heat_level(value, most) for value in whole), strict=True)
        )
        shown += "</p>" + '<p class="note">Blue words make the whole answer likelier, orange ones less likely.'
    return f'<p class="text">{shown}</p>'


def _attribution(explanation: "Explanation") -> str:
    found = explanation.attribution
    if found is None:
        return ""
    difference = float(found.scores.sum() - found.baseline_scores.sum())
    figures = key_figures(
        [
            ("log-probability of the answer", f"{found.scores.sum():.2f}"),
            (f"after the baseline ({found.baseline})", f"{found.baseline_scores.sum():.2f}"),
            ("difference, in nats", f"{difference:.2f}"),
            ("sum of all attributions", f"{found.values.sum():.2f}"),
            ("largest error of an output token", f"{found.errors.max():.4f}"),
            ("steps on the path", f"{found.num_steps:,}"),
        ]
    )
    told = "Every output token's attributions sum to its difference within the tolerance."
    if not found.is_complete:
        told = (
            "The attributions of some output tokens do not sum to their differences within the tolerance: more steps "
            "are needed (see the table of tokens)."
        )
    explained = note(
        "Integrated gradients: how much an input word adds to the log-probability of an output word, beside an input "
        f"that says nothing ({found.baseline}). A column of the table sums to what the whole input adds to that output "
        f"word. {told}"
    )
    words = explanation.word_matrix("attribution")
    values = np.concatenate([words.sum(axis=0, keepdims=True), words]).T
    names = ["whole answer", *(word.text for word in explanation.output_words)]
    cells = [[f"{value:+.2f}" if abs(value) >= 0.005 else "·" for value in row] for row in values.tolist()]
    rows = [word.text for word in explanation.input_words]
    caption = "Attribution in nats, input words down, output words across"
    # The whole answer is coloured by itself: it would outshine the words.
    drawn = values.copy()
    drawn[:, 0] *= _largest(values[:, 1:]) / (_largest(values[:, :1]) or 1.0)
    return explained + figures + heat_table(caption, "input \\ output", rows, names, drawn.tolist(), cells)


def _alignment(explanation: "Explanation") -> str:
    if explanation.alignment is None:
        return ""
    explained = note(
        f"Cross-attention while each output word is predicted, averaged over heads and layers ({explanation.engine}). "
        "A column sums to 100 %. Attention says where the model looks, not what it makes of it."
    )
    values = explanation.word_matrix("alignment").T
    names = [word.text for word in explanation.output_words]
    rows = [word.text for word in explanation.input_words]
    caption = "Cross-attention in percent, input words down, output words across"
    shown = heat_table(caption, "input \\ output", rows, names, values.tolist(), _percents(values))
    return (
        explained
        + shown
        + _layers(explanation, "alignment", "Cross-attention", "output words down, input words across")
    )


def _encoder_attention(explanation: "Explanation") -> str:
    if explanation.encoder_attention is None:
        return ""
    explained = note(
        "The encoder's self-attention, averaged over heads and layers, computed in float32. A row, the word that looks,"
        " sums to 100 %."
    )
    values = explanation.word_matrix("encoder_attention")
    names = [word.text for word in explanation.input_words]
    shown = ""
    if len(names) <= MAX_TABLE_WORDS:
        caption = "Encoder self-attention in percent, the word that looks down, the one looked at across"
        shown = heat_table(caption, "from \\ to", names, names, values.tolist(), _percents(values))
    elif len(names) > MAX_PICTURE_WORDS:
        return explained + note(f"{len(names):,} words are too many to draw; the JSON form has all numbers.")
    return explained + shown + _layers(explanation, "encoder_attention", "Self-attention", "from words down, to across")


def _layers(explanation: "Explanation", map: "Map", title: str, axes: str) -> str:
    """Return every layer by itself, which a reader opens: tables, or pictures where there would be too many cells."""
    weights = explanation.alignment if map == "alignment" else explanation.encoder_attention
    assert weights is not None
    rows = explanation.output_words if map == "alignment" else explanation.input_words
    parts = []
    for layer in range(len(weights)):
        values = explanation.word_matrix(map, layer=layer)
        name = f"{title}, layer {layer}"
        if values.size * len(weights) <= MAX_LAYER_CELLS:
            parts.append(_layer_table(explanation, map, name, values))
            continue
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        strongest = (
            f"{axes}; strongest from {rows[row].text} to {explanation.input_words[column].text}: "
            f"{100 * values[row, column]:.0f} %"
        )
        picture = heat_image(values.tolist(), title=name, description=strongest)
        parts.append(figure(name, picture, below=note(strongest)))
    return details(f"By layer ({len(weights)})", f'<div class="charts">{"".join(parts)}</div>')


def _layer_table(explanation: "Explanation", map: "Map", name: str, values: Matrix) -> str:
    """Return one layer as the table of all layers is: input words down, or from words down to words across."""
    inputs = [word.text for word in explanation.input_words]
    if map == "alignment":
        outputs = [word.text for word in explanation.output_words]
        return heat_table(name, "input \\ output", inputs, outputs, values.T.tolist(), _percents(values.T))
    return heat_table(name, "from \\ to", inputs, inputs, values.tolist(), _percents(values))


def _tokens(explanation: "Explanation") -> str:
    found = explanation.attribution
    names = ["output token", "id", *(["log-probability", "after the baseline", "error", "bound"] if found else [])]
    rows = []
    for place, (piece, token_id) in enumerate(zip(explanation.output_tokens, explanation.output_ids, strict=True)):
        numbers = []
        if found is not None:
            columns = (found.scores, found.baseline_scores, found.errors, found.bounds)
            numbers = [number_text(float(column[place])) for column in columns]
        rows.append((_visible(piece), str(token_id), *numbers))
    inputs = [
        (_visible(piece), str(token_id))
        for piece, token_id in zip(explanation.input_tokens, explanation.input_ids, strict=True)
    ]
    return table("Output tokens", names, rows, is_numeric=True) + details(
        "Input tokens", table("Input tokens", ("input token", "id"), inputs, is_numeric=True)
    )


def _visible(piece: str) -> str:
    return piece.replace(" ", "␣")


def _percents(values: Matrix) -> list[list[str]]:
    return [[f"{100 * value:.0f}" if value >= 0.005 else "·" for value in row] for row in values.tolist()]


def _largest(values: Matrix) -> float:
    return float(np.abs(values).max(initial=0.0))

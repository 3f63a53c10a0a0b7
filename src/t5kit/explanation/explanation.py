"""One answer with what explains it, as plain data: arrays over tokens, and words to read them by."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from t5kit.drawing.page import write_page
from t5kit.errors import RequestError
from t5kit.explanation.heat_map_png import draw_heat_map
from t5kit.explanation.html_page import explanation_page
from t5kit.text.words import Word

Map = Literal["attribution", "alignment", "encoder_attention"]
"""attribution: what each input token adds to each output token. alignment: where the decoder looks (cross-attention).
encoder_attention: whom input tokens look at among themselves."""
MAPS: tuple[Map, ...] = ("attribution", "alignment", "encoder_attention")

Floats = npt.NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attribution:
    """Integrated gradients of each output token's log-probability over the input's embeddings, in nats."""

    values: npt.NDArray[np.float64]
    """[T, S]: what input token s adds to the log-probability of output token t, beside the baseline."""
    scores: npt.NDArray[np.float64]
    """[T]: log-probabilities of the output tokens, each after those before it."""
    baseline_scores: npt.NDArray[np.float64]
    """[T]: the same where the input is the baseline."""
    baseline: str
    """What stands for an input that says nothing: pad, unknown or zero; EOS stays."""
    num_steps: int
    """Points of the path at which gradients were taken."""
    tolerance: float
    """The error asked for: nats, or a share of the difference of scores where that is above 1 nat."""

    @property
    def errors(self) -> npt.NDArray[np.float64]:
        """[T]: how far each row of values is from summing to its difference of scores (completeness)."""
        return np.abs(self.values.sum(axis=1) - (self.scores - self.baseline_scores))

    @property
    def bounds(self) -> npt.NDArray[np.float64]:
        """[T]: the errors that the tolerance allows."""
        return self.tolerance * np.maximum(1.0, np.abs(self.scores - self.baseline_scores))

    @property
    def is_complete(self) -> bool:
        """Whether every error is within its bound; else more steps are needed than were allowed."""
        return bool((self.errors <= self.bounds).all())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """What explains one answer; a map that was not asked for, or cannot be had, is None."""

    text: str
    answer: str
    engine: str
    """The runtime that alignment was taken from, and its weights."""
    input_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    """EOS included, if the answer has it."""
    input_tokens: tuple[str, ...]
    """[S]: each token's text; spaces belong to it."""
    output_tokens: tuple[str, ...]
    """[T]"""
    input_words: tuple[Word, ...]
    output_words: tuple[Word, ...]
    attribution: Attribution | None = None
    alignment: npt.NDArray[np.float32] | None = None
    """[layers, heads, T, S]: cross-attention weights while each output token is predicted; rows sum to one."""
    encoder_attention: npt.NDArray[np.float32] | None = None
    """[layers, heads, S, S]: the encoder's self-attention, queries before keys; rows sum to one."""
    notes: tuple[str, ...] = ()
    """What is missing, and why."""

    def matrix(self, map: Map, *, layer: int | None = None) -> npt.NDArray[np.float64]:
        """Return a map over tokens, [T, S] or [S, S]: attention averaged over heads, and over layers or of one.

        Raises: RequestError for a map that is unknown or not here, or a layer that there is not.
        """
        if map not in MAPS:
            raise RequestError(f"map = {map!r} must be one of: {', '.join(MAPS)}.")
        if map == "attribution":
            if self.attribution is None:
                raise RequestError(self._missing(map))
            if layer is not None:
                raise RequestError("attribution has no layers; drop layer.")
            return self.attribution.values
        weights_LHTS = self.alignment if map == "alignment" else self.encoder_attention
        if weights_LHTS is None:
            raise RequestError(self._missing(map))
        if layer is None:
            return weights_LHTS.mean(axis=(0, 1), dtype=np.float64)
        if not isinstance(layer, int) or not 0 <= layer < len(weights_LHTS):
            raise RequestError(f"layer = {layer!r} must be an integer from 0 to {len(weights_LHTS) - 1}.")
        return weights_LHTS[layer].mean(axis=0, dtype=np.float64)

    def word_matrix(self, map: Map, *, layer: int | None = None) -> npt.NDArray[np.float64]:
        """Return a map over words: what belongs to a word is summed.

        Rows of attention, which each sum to one, are averaged over a word's tokens. Attributions of the tokens of an
        output word add up, as their log-probabilities do.
        """
        values = self.matrix(map, layer=layer)
        rows = self.input_words if map == "encoder_attention" else self.output_words
        merged = np.add.reduceat(values, [word.start for word in self.input_words], axis=1)
        merged = np.add.reduceat(merged, [word.start for word in rows], axis=0)
        if map == "attribution":
            return merged
        return merged / np.array([[word.end - word.start] for word in rows])

    def maps(self) -> tuple[Map, ...]:
        """Return the maps that are here."""
        found = (self.attribution, self.alignment, self.encoder_attention)
        return tuple(name for name, value in zip(MAPS, found, strict=True) if value is not None)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data, attention averaged over heads: by layer, and over all."""
        found: dict[str, Any] = {
            "text": self.text,
            "answer": self.answer,
            "engine": self.engine,
            "input": {
                "ids": list(self.input_ids),
                "tokens": list(self.input_tokens),
                "words": _words(self.input_words),
            },
            "output": {
                "ids": list(self.output_ids),
                "tokens": list(self.output_tokens),
                "words": _words(self.output_words),
            },
        }
        if self.attribution is not None:
            a = self.attribution
            found["attribution"] = {
                "values": _rounded(a.values),
                "scores": _rounded(a.scores),
                "baseline": a.baseline,
                "baseline_scores": _rounded(a.baseline_scores),
                "errors": _rounded(a.errors),
                "num_steps": a.num_steps,
                "tolerance": a.tolerance,
                "is_complete": a.is_complete,
            }
        for name, weights in (("alignment", self.alignment), ("encoder_attention", self.encoder_attention)):
            if weights is not None:
                by_layer = [_rounded(layer.mean(axis=0, dtype=np.float64)) for layer in weights]
                found[name] = {"mean": _rounded(weights.mean(axis=(0, 1), dtype=np.float64)), "layers": by_layer}
        if self.notes:
            found["notes"] = list(self.notes)
        return found

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the explanation as one HTML page that fetches nothing, and write it if a path is given.

        Raises: DataError if it cannot be written.
        """
        page = explanation_page(self)
        if path is not None:
            write_page(Path(path), page, what="the explanation")
        return page

    def to_png(self, path: str | Path, map: Map | None = None, *, layer: int | None = None) -> None:
        """Draw one map over words as a picture. map: None for the first that is here.

        Raises: DependencyError without matplotlib (`[explain]`), DataError if it cannot be written, RequestError as
        `matrix`.
        """
        if map is None and not self.maps():
            raise RequestError(self._missing("map"))
        chosen = self.maps()[0] if map is None else map
        draw_heat_map(
            Path(path),
            self.word_matrix(chosen, layer=layer),
            row_names=[
                word.text for word in (self.input_words if chosen == "encoder_attention" else self.output_words)
            ],
            column_names=[word.text for word in self.input_words],
            title=_title(chosen, layer),
            is_signed=chosen == "attribution",
        )

    def _missing(self, map: str) -> str:
        here = ", ".join(self.maps()) or "none"
        return " ".join([f"This explanation has no {map}; it has: {here}.", *self.notes])


def _title(map: Map, layer: int | None) -> str:
    words = {
        "attribution": "What each input word adds to each output word (nats)",
        "alignment": "Cross-attention of output words over input words",
        "encoder_attention": "Encoder self-attention",
    }
    return words[map] if layer is None else f"{words[map]}, layer {layer}"


def _words(words: Sequence[Word]) -> list[dict[str, object]]:
    return [dataclasses.asdict(word) for word in words]


def _rounded(values: Floats) -> Any:
    """Return an array as lists, to six digits: float32 has no more, and a page of numbers stays readable."""
    return np.round(values.astype(np.float64), 6).tolist()

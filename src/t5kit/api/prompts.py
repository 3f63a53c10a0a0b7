"""Prompts around a text: templates with named fields, and texts cut so that what stands behind them stays."""

import dataclasses
import math
import string
from collections.abc import Mapping

from t5kit.errors import RequestError
from t5kit.text import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """A text with fields in braces; {{ and }} stand for braces.

    >>> Prompt("Query: {query} Document: {document}", ("query", "document")).render({"query": "a", "document": "b"})
    'Query: a Document: b'
    """

    template: str
    fields: tuple[str, ...]
    """What must stand in it, each at least once, and nothing else."""
    word: str = "prompt"
    """The argument's name in messages."""

    def __post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise RequestError(f"{self.word} must be text, got {type(self.template).__name__}.")
        wanted = " and ".join(f"{{{field}}}" for field in self.fields)
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise RequestError(
                f"{self.word} = {self.template!r:.200} is no template ({error}). {{{{ and }}}} stand for braces."
            ) from error
        found = [field for _, field, _, _ in parts if field is not None]
        is_plain = all(not format and not conversion for _, _, format, conversion in parts)
        if set(found) != set(self.fields) or not is_plain:
            raise RequestError(f"{self.word} = {self.template!r:.200} must hold {wanted}, and no other field.")

    def render(self, values: Mapping[str, str]) -> str:
        """Return the text with each field replaced by its value as it stands."""
        pieces = []
        for literal, field, _, _ in string.Formatter().parse(self.template):
            pieces.append(literal)
            if field is not None:
                pieces.append(values[field])
        return "".join(pieces)

    def cut(
        self, values: Mapping[str, str], *, cut_field: str, tokenizer: Tokenizer, max_tokens: int
    ) -> Mapping[str, str]:
        """Return the values, the end of `cut_field` left out where the rendered text would be longer than `max_tokens`,
        EOS included.

        What stands around the field stays: an instruction behind a long document is not lost.
        Raises: RequestError if not even an empty field fits.
        """
        excess = len(tokenizer.encode(self.render(values))) - max_tokens
        if excess <= 0:
            return values
        ids = tokenizer.encode(values[cut_field], add_eos=False)
        num_kept = len(ids)
        while excess > 0 and num_kept > 0:
            # Borders of pieces move where a text is cut, and a prompt may be written in characters where this field's
            # ids are pieces: take away the same share of both, and look again.
            share = excess / (excess + max_tokens)
            num_kept = max(0, num_kept - max(1, min(excess, math.floor(share * num_kept))))
            values = {**values, cut_field: tokenizer.decode(ids[:num_kept])}
            excess = len(tokenizer.encode(self.render(values))) - max_tokens
        if excess > 0:
            raise RequestError(
                f"{self.word} alone has {max_tokens + excess:,} tokens without its {cut_field}, more than "
                f"max_input_tokens = {max_tokens:,}. Raise the limit, or shorten it."
            )
        return values

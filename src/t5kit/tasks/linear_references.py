"""JSON schemas with their `$ref`s followed: what pydantic writes for models inside models, put where it is meant."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from t5kit.errors import RequestError

ANNOTATIONS: Final = (
    "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
)  # fmt: skip
"""Keywords that say nothing about what a value may be."""
_DEFINITIONS: Final = ("$defs", "definitions")
_MAX_PARTS: Final = 10_000
_MAX_DEPTH: Final = 64


def without_references(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema with each local `$ref` replaced by what it names, and without definitions.

    An `allOf` (or `anyOf`, `oneOf`) of one schema, which pydantic writes around some `$ref`s, is that schema, and a
    `type` that lists one is that one.
    Raises: RequestError for a reference to itself, to nothing or to elsewhere, and for more than 10,000 parts in all.
    """
    written: dict[str, Any] = _Expansion(schema).expanded(schema, ())
    return written


class _Expansion:
    """Counts the parts written, since references to references can make endlessly many of few lines."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._num_parts = 0

    def expanded(self, schema: Any, open_references: tuple[str, ...], depth: int = 0) -> Any:
        """open_references: those that are being followed, outermost first."""
        if not isinstance(schema, Mapping):
            return schema
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS or depth > _MAX_DEPTH:
            raise RequestError(
                f"schema has more than {_MAX_PARTS:,} parts, or parts more than {_MAX_DEPTH} deep, once its references "
                "are followed. Leave out what need not be asked for."
            )
        reference = schema.get("$ref")
        beside = {word: part for word, part in schema.items() if word not in (*ANNOTATIONS, *_DEFINITIONS)}
        if isinstance(reference, str):
            if reference in open_references:
                raise RequestError(
                    f"schema refers to {reference!r:.80} inside {reference!r:.80}: it has no end, and a line has one. "
                    "Write out as many levels as are needed."
                )
            meant = self.expanded(self._named(reference), (*open_references, reference), depth + 1)
            return self._joined(meant, beside, "$ref", open_references, depth)
        for word in ("allOf", "anyOf", "oneOf"):
            ways = schema.get(word)
            if isinstance(ways, list | tuple) and len(ways) == 1 and isinstance(ways[0], Mapping):
                meant = self.expanded(ways[0], open_references, depth + 1)
                return self._joined(meant, beside, word, open_references, depth)
        written: dict[str, Any] = {}
        for word, part in schema.items():
            if word in _DEFINITIONS:
                continue
            if word == "properties" and isinstance(part, Mapping):
                part = {name: self.expanded(inner, open_references, depth + 1) for name, inner in part.items()}
            elif word == "items":
                part = self.expanded(part, open_references, depth + 1)
            elif word in ("anyOf", "oneOf", "allOf") and isinstance(part, list | tuple):
                part = [self.expanded(way, open_references, depth + 1) for way in part]
            elif word == "type" and isinstance(part, list | tuple) and len(part) == 1:
                (part,) = part
            written[word] = part
        return written

    def _joined(
        self, meant: Any, beside: dict[str, Any], word: str, open_references: tuple[str, ...], depth: int
    ) -> dict[str, Any]:
        """Return what a reference means with what stands beside it."""
        del beside[word]
        beside = self.expanded(beside, open_references, depth + 1)
        if not isinstance(meant, Mapping) or set(meant) & set(beside):
            raise RequestError(
                f"schema has {', '.join(sorted(map(repr, beside)))} beside a {word} that says it too. Say it once."
            )
        return {**meant, **beside}

    def _named(self, reference: str) -> Any:
        """Return the part of the whole schema that a reference names."""
        part: Any = self._root
        if reference != "#" and not reference.startswith("#/"):
            raise RequestError(
                f"schema refers to {reference!r:.80}, which is not in it; only #/$defs/… and the like are followed."
            )
        for step in reference.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")  # as RFC 6901 writes a name into an address
            if not isinstance(part, Mapping) or name not in part:
                raise RequestError(f"schema refers to {reference!r:.80}, and has no {name!r:.60} there.")
            part = part[name]
        return part

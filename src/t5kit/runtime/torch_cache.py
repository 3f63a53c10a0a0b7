"""Keys and values of many sequences in few large tensors, so that attention is one product for all of them.

A *pool* keeps one *arena* for each size class; an arena is one tensor with a row for each sequence in it, without
holes, so that the sequences of a batch usually are all its rows, or a run of them, and attention reads them in place.

Dimension letters: L layers, R rows, H heads, C capacity in tokens, E head width; the 2 is keys and values.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(slots=True, eq=False)
class CacheEntry:
    """Where one sequence's keys and values are. Owned by the pool but for `num_tokens`, which the runtime sets."""

    arena: "KeyValueArena"
    row: int
    num_tokens: int = 0
    """Valid tokens; what lies behind them in the row means nothing."""


class KeyValueArena:
    """The rows of one size class."""

    def __init__(self, shape: "CacheShape", capacity: int) -> None:
        self.capacity = capacity
        """Tokens a row can hold."""
        self.entries: list[CacheEntry] = []
        """Row -> the sequence in it."""
        self._shape = shape
        self.kv = shape.allocate(0, capacity)
        """[L, 2, R, H, C, E], R >= len(entries). In rows with an entry every value is finite."""

    def append(self, entries: Sequence[CacheEntry]) -> None:
        """Give each entry a row at the end, zero behind the entry's tokens; those are to be written by the caller."""
        first_row = len(self.entries)
        num_rows = first_row + len(entries)
        if num_rows > self.kv.shape[2]:
            self._resize(max(num_rows, self.kv.shape[2] * 3 // 2))
        for entry in entries:
            entry.arena, entry.row = self, len(self.entries)
            self.entries.append(entry)
        # Numerics: attention reads whole rows and masks what means nothing with -inf, but 0 * NaN would stay NaN.
        for num_tokens, run in itertools.groupby(entries, key=lambda entry: entry.num_tokens):
            last_row = first_row + sum(1 for _ in run)
            self.kv[:, :, first_row:last_row, :, num_tokens:] = 0
            first_row = last_row

    def remove(self, entries: Sequence[CacheEntry]) -> None:
        """Take entries out; the last rows move into the holes."""
        for entry in sorted(entries, key=lambda entry: -entry.row):
            last = self.entries.pop()
            if last is not entry:
                self.kv[:, :, entry.row, :, : last.num_tokens] = self.kv[:, :, last.row, :, : last.num_tokens]
                last.row = entry.row
                self.entries[entry.row] = last
        if len(self.entries) * 4 <= self.kv.shape[2]:
            self._resize(len(self.entries))

    def read(self, entries: Sequence[CacheEntry]) -> Tensor:
        """Return a copy of the entries' tokens, [L, 2, n, H, longest of them, E]."""
        num_tokens = max(entry.num_tokens for entry in entries)
        return self.kv[:, :, :, :, :num_tokens].index_select(2, self._rows(entries))

    def write(self, entries: Sequence[CacheEntry], tokens: Tensor) -> None:
        """Put what `read` gave into the entries' rows."""
        self.kv[:, :, :, :, : tokens.shape[4]].index_copy_(2, self._rows(entries), tokens)

    def _rows(self, entries: Sequence[CacheEntry]) -> Tensor:
        return torch.tensor([entry.row for entry in entries], device=self.kv.device)

    def _resize(self, num_rows: int) -> None:
        kept = self.kv[:, :, : len(self.entries)]
        self.kv = self._shape.allocate(num_rows, self.capacity)
        self.kv[:, :, : len(self.entries)] = kept


@dataclasses.dataclass(frozen=True, slots=True)
class CacheShape:
    """What all arenas of a pool have in common."""

    num_layers: int
    num_heads: int
    head_width: int
    dtype: torch.dtype
    device: torch.device

    def allocate(self, num_rows: int, capacity: int) -> Tensor:
        """Return [L, 2, R, H, C, E], not set to anything."""
        sizes = (self.num_layers, 2, num_rows, self.num_heads, capacity, self.head_width)
        return torch.empty(sizes, dtype=self.dtype, device=self.device)


class KeyValuePool:
    """All arenas of one kind (self-attention or cross-attention)."""

    def __init__(self, shape: CacheShape, size_class: Callable[[int], int]) -> None:
        self.version = 0
        """Changes whenever an entry may have moved."""
        self._shape, self._size_class = shape, size_class
        self._arenas: dict[int, KeyValueArena] = {}

    def open(self, lengths: Sequence[int]) -> list[CacheEntry]:
        """Return an entry for each length in tokens, which the caller has to write.

        Those of one arena stand there in this order.
        """
        self.version += 1
        entries = [CacheEntry(self._arena(self._size_class(length)), -1, length) for length in lengths]
        for arena, places in _by_arena(entries):
            arena.append([entries[i] for i in places])
        return entries

    def close(self, entries: Sequence[CacheEntry]) -> None:
        """Free entries."""
        self.version += 1
        for arena, places in _by_arena(entries):
            arena.remove([entries[i] for i in places])
            if not arena.entries:
                del self._arenas[arena.capacity]

    def move(self, entries: Sequence[CacheEntry], capacity: int) -> None:
        """Move entries, with what they hold, into the larger arena for `capacity` tokens, if they are not there."""
        target = self._arena(self._size_class(capacity))
        for arena, places in _by_arena(entries):
            if arena is not target:
                moving = [entries[i] for i in places]
                tokens = arena.read(moving)
                self.close(moving)
                target.append(moving)
                target.write(moving, tokens)

    def copy(self, sources: Sequence[CacheEntry], targets: Sequence[CacheEntry]) -> None:
        """Make each target hold what its source holds, all at once as if read before any is written."""
        lengths = [source.num_tokens for source in sources]
        copies = [(arena, places, arena.read([sources[i] for i in places])) for arena, places in _by_arena(sources)]
        for arena, places, tokens in copies:
            members = [targets[i] for i in places]
            strangers = [member for member in members if member.arena is not arena]
            if strangers:
                self.close(strangers)
                for stranger in strangers:
                    stranger.num_tokens = 0  # what it held is overwritten: its new row has to be finite all along
                self._arena(arena.capacity).append(strangers)
            members[0].arena.write(members, tokens)
            for i in places:
                targets[i].num_tokens = lengths[i]  # now: rows may move for the next group, with all that they hold

    def clear(self) -> None:
        """Free everything."""
        self.version += 1
        self._arenas.clear()

    def _arena(self, size: int) -> KeyValueArena:
        if size not in self._arenas:
            self._arenas[size] = KeyValueArena(self._shape, size)
        return self._arenas[size]


def _by_arena(entries: Sequence[CacheEntry]) -> list[tuple[KeyValueArena, list[int]]]:
    """Return the arenas the entries are in, each with the places in `entries` of those that are in it."""
    arenas: dict[int, tuple[KeyValueArena, list[int]]] = {}
    for place, entry in enumerate(entries):
        arenas.setdefault(entry.arena.capacity, (entry.arena, []))[1].append(place)
    return list(arenas.values())


def power_of_two_class(num_tokens: int) -> int:
    """Return 16, 32, 64, 128 ...: for sequences that grow, which move each time they outgrow their class."""
    return max(16, 1 << max(0, num_tokens - 1).bit_length())


def quarter_class(num_tokens: int) -> int:
    """Return 32, 64, 96, 128, 160, 192, 224, 256, 320 ...: four a doubling, for sequences that do not grow.

    At most a fifth of a row above 128 tokens is unused, and a batch's lengths fall into few classes.
    """
    step = max(32, (1 << max(0, num_tokens - 1).bit_length()) // 8)
    return -(-num_tokens // step) * step

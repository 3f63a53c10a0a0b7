"""Examples -> rows: several short examples share a row of the encoder and of the decoder."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5kit.tasks.example import Example


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Where examples went, by their numbers: rows (some may be empty), and what found no room, in order."""

    rows: tuple[tuple[int, ...], ...]
    left_over: tuple[int, ...]


def pack(
    examples: Sequence[Example], *, num_rows: int, encoder_length: int, target_length: int, num_first: int = 0
) -> PackedRows:
    """Return a packing of examples into at most num_rows rows: each example once, in one row or left over.

    Row by row, the example is taken that fits, uses most of the scarcer side, and leaves both sides of the row in the
    proportion in which the examples need them. The first num_first examples open a row each as long as there are any,
    so that what was left over once is not left over for ever. Every example must fit into an empty row.
    Source: the idea is the dot-product heuristic of Panigrahy et al. 2011 for vector bin packing.
    Speed: where both sides are scarce, 0.5 and 1.9 % padding against 7 and 10 % of best fit decreasing, and 35 to 110
    examples left over of 4,000 (log-normal lengths, 540 rows); see bench/data_path.py.
    """
    if not examples:
        return PackedRows(((),) * num_rows, ())
    lengths_N2 = np.array([(len(e.encoder_ids), len(e.target_ids)) for e in examples], np.int64)
    share_N2 = lengths_N2 / (encoder_length, target_length)
    order_N = np.argsort(-share_N2.sum(axis=1), kind="stable")  # of equals the longest first, the same on every machine
    waiting = _Waiting(lengths_N2[order_N], share_N2[order_N], order_N, share_N2.sum(axis=0) / num_rows)
    openers = list(range(num_first))
    capacity = np.array([encoder_length, target_length])
    rows: list[tuple[int, ...]] = []
    while len(rows) < num_rows and waiting.count:
        row: list[int] = []
        free_2 = capacity.copy()
        while openers and not row:
            if (place := waiting.place_of(openers.pop(0))) is not None:
                free_2 -= waiting.take(place, row)
        while (place := waiting.best(free_2, capacity)) is not None:
            free_2 -= waiting.take(place, row)
        rows.append(tuple(row))
    empty = ((),) * (num_rows - len(rows))
    return PackedRows((*rows, *empty), tuple(sorted(waiting.numbers_N[: waiting.count].tolist())))


class _Waiting:
    """The examples not yet placed, in the first `count` places of each array. State of one call of `pack`."""

    def __init__(
        self, lengths_N2: np.ndarray, share_N2: np.ndarray, numbers_N: np.ndarray, demand_2: np.ndarray
    ) -> None:
        # Speed: one contiguous array a side; masks and sums over [N, 2] take twice the time.
        self.encoder_N, self.target_N = lengths_N2[:, 0].copy(), lengths_N2[:, 1].copy()
        self.use_N = share_N2 @ demand_2
        self.balance_N = share_N2[:, 0] * demand_2[1] - share_N2[:, 1] * demand_2[0]
        self.numbers_N = numbers_N.copy()
        self.demand_2 = demand_2
        self.count = len(numbers_N)

    def best(self, free_2: np.ndarray, capacity_2: np.ndarray) -> int | None:
        """Return the place of the example to add to a row with free_2 positions, or None where none fits."""
        n = self.count
        fits_N = (self.encoder_N[:n] <= free_2[0]) & (self.target_N[:n] <= free_2[1])
        if not fits_N.any():
            return None
        free_share = free_2 / capacity_2
        off_balance = free_share[0] * self.demand_2[1] - free_share[1] * self.demand_2[0]
        score_N = self.use_N[:n] - 0.5 * np.abs(off_balance - self.balance_N[:n])
        return int(np.argmax(np.where(fits_N, score_N, -np.inf)))

    def place_of(self, number: int) -> int | None:
        """Return where an example waits, or None where it is placed already."""
        (places,) = np.nonzero(self.numbers_N[: self.count] == number)
        return int(places[0]) if len(places) else None

    def take(self, place: int, row: list[int]) -> np.ndarray:
        """Move the example at a place into a row; return its two lengths."""
        row.append(int(self.numbers_N[place]))
        taken_2 = np.array([self.encoder_N[place], self.target_N[place]])
        last = self.count - 1
        for values in (self.encoder_N, self.target_N, self.use_N, self.balance_N, self.numbers_N):
            values[place:last] = values[place + 1 : last + 1]
        self.count = last
        return taken_2

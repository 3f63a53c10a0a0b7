"""A set of permitted outputs as a tree of ids: what may come next after what stands."""

from collections.abc import Sequence

import numpy as np


class Trie:
    """The outputs that an answer may be, each a sequence of ids that ends in EOS.

    >>> trie = Trie([(5, 6, 1), (5, 7, 1), (8, 1)])
    >>> trie.next_ids([]), trie.next_ids([5]), trie.next_ids([9])
    (array([5, 8], dtype=int32), array([6, 7], dtype=int32), array([], dtype=int32))
    """

    def __init__(self, outputs: Sequence[Sequence[int]]) -> None:
        self._root = _Node()
        for output in outputs:
            node = self._root
            for token in output:
                node = node.children.setdefault(int(token), _Node())

    def next_ids(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the ids that continue `tokens` [n] towards an output, ascending [a] int32; empty if none does."""
        node = self._root
        for token in tokens:
            child = node.children.get(int(token))
            if child is None:
                return np.empty(0, np.int32)
            node = child
        return node.ids()


class _Node:
    __slots__ = ("_ids", "children")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self._ids: np.ndarray | None = None

    def ids(self) -> np.ndarray:
        # Speed: the root of a set of 100,000 labels is asked for at every answer's first token.
        if self._ids is None:
            self._ids = np.array(sorted(self.children), np.int32)
        return self._ids

"""Who holds how much of what is bounded: a client may hold as much as it leaves free.

That is the dynamic threshold of Choudhury and Hahne (1998) with alpha = 1. One client alone has half of the places; k
that take all they can end with 1 / (k + 1) each, and as much is free for a newcomer.
"""

import collections


class Places:
    """So many places, and who holds them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: collections.Counter[str] = collections.Counter()
        """Of clients that hold any."""
        self.num_held = 0

    def held_by(self, client: str) -> int:
        """Return how many places a client holds."""
        return self._held[client]

    def most_for(self, client: str) -> int:
        """Return how many places a client may hold now: half of what the others leave.

        >>> places = Places(1000)
        >>> places.most_for("alice")
        500
        >>> places.take("alice", 500)
        >>> places.most_for("bob")
        250
        """
        return (self.limit - self.num_held + self._held[client]) // 2

    def most_ever(self, *, is_whole: bool) -> int:
        """Return how many places a client can ask for; is_whole: by one piece of work, which cannot be split."""
        return self.limit if is_whole else self.limit // 2

    def has_room(self, client: str, count: int, *, is_whole: bool) -> bool:
        """Return whether a client may take `count` places more.

        Whoever holds none may have all that is free for one piece of work.
        """
        if is_whole and not self._held[client]:
            return self.num_held + count <= self.limit
        return self._held[client] + count <= self.most_for(client)

    def take(self, client: str, count: int) -> None:
        """Note that a client holds `count` places more."""
        self._held[client] += count
        self.num_held += count

    def give_back(self, client: str, count: int) -> None:
        """Note that a client holds `count` places less."""
        self._held[client] -= count
        self.num_held -= count
        if not self._held[client]:
            del self._held[client]

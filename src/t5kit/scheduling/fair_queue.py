"""Whose turn it is: self-clocked fair queueing (Golestani 1994) over flows of unequal weight.

A flow is what is to be treated fairly, such as one client's requests of one priority. Each item has a cost; a flow of
weight w may spend w times what a flow of weight 1 may, while both have something waiting, and what a flow did not use
is not saved up. No item waits forever: its tag is fixed when it comes, and every later tag of its competitors grows.
"""

import dataclasses
import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class _Ticket:
    finish: float
    """Virtual time at which the item would be through if every flow were served at its weight's rate."""
    number: int
    """In order of coming: equal tags are first come, first served."""
    item_id: int = dataclasses.field(compare=False)


@dataclasses.dataclass(slots=True)
class _Flow:
    end: float = 0.0
    """The finish of its last item."""
    num_items: int = 0


class FairQueue(Generic[Item]):
    """Items that wait, given out in fair order; each is known by an id."""

    def __init__(self) -> None:
        self._items: dict[int, tuple[Hashable, Item]] = {}
        """Id -> its flow, and itself."""
        self._tickets: list[_Ticket] = []
        """A heap; those of removed items are passed over."""
        self._flows: dict[Hashable, _Flow] = {}
        """Those that have something waiting."""
        self._virtual_time = 0.0
        self._num_pushed = 0

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item_id: int) -> bool:
        return item_id in self._items

    def push(self, item_id: int, item: Item, *, flow: Hashable, cost: float, weight: float = 1.0) -> None:
        """Let an item wait; cost > 0 and weight > 0, and the id must not be waiting already."""
        assert item_id not in self._items and cost > 0 and weight > 0
        known = self._flows.setdefault(flow, _Flow())
        known.end = max(self._virtual_time, known.end) + cost / weight
        known.num_items += 1
        self._items[item_id] = (flow, item)
        heapq.heappush(self._tickets, _Ticket(known.end, self._num_pushed, item_id))
        self._num_pushed += 1

    def peek(self) -> Item:
        """Return the item whose turn it is; the queue must hold one."""
        while self._tickets[0].item_id not in self._items:
            heapq.heappop(self._tickets)
        return self._items[self._tickets[0].item_id][1]

    def pop(self) -> Item:
        """Take out the item whose turn it is; the queue must hold one."""
        self.peek()
        ticket = heapq.heappop(self._tickets)
        self._virtual_time = ticket.finish
        return self._take(ticket.item_id)

    def remove(self, item_id: int) -> Item | None:
        """Take out an item out of turn; None if it does not wait. What its flow waited for it is not given back, unless
        it was the flow's last."""
        if item_id not in self._items:
            return None
        item = self._take(item_id)
        if len(self._tickets) > 2 * len(self._items) + 64:
            self._tickets = [ticket for ticket in self._tickets if ticket.item_id in self._items]
            heapq.heapify(self._tickets)
        return item

    def _take(self, item_id: int) -> Item:
        """Take out an item, and forget a flow that has none left: it would begin at the virtual time again."""
        flow, item = self._items.pop(item_id)
        self._flows[flow].num_items -= 1
        if not self._flows[flow].num_items:
            del self._flows[flow]
        if not self._items:
            self._tickets.clear()
            self._virtual_time = 0.0
        return item

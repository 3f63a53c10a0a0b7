"""Whose turn it is: self-clocked fair queueing (Golestani 1994) over flows of unequal weight.

A flow is what is to be treated fairly, such as one client's requests of one priority. Each item has a cost; a flow of
weight w may spend w times what a flow of weight 1 may, while both have something waiting, and what a flow did not use
is not saved up. No item waits forever: its tag is fixed when it comes, and every later tag of its competitors grows.
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item]):
    item: Item
    finish: float
    """Virtual time at which it would be through if every flow were served at its weight's rate."""
    number: int
    """In order of coming: equal tags are first come, first served."""


@dataclasses.dataclass(slots=True)
class _Flow(Generic[Item]):
    end: float = 0.0
    """The finish of its last item."""
    items: collections.OrderedDict[int, _Waiting[Item]] = dataclasses.field(default_factory=collections.OrderedDict)
    """By id, first come, first served."""

    @property
    def head(self) -> _Waiting[Item]:
        """The first one; there must be one."""
        return next(iter(self.items.values()))


def _none(flow: Hashable) -> bool:
    return False


class FairQueue(Generic[Item]):
    """Items that wait, given out in fair order; each is known by an id.

    is_passed: flows whose turn it is not, whatever their tags.
    """

    def __init__(self) -> None:
        self._flow_of: dict[int, Hashable] = {}
        """Of each item."""
        self._flows: dict[Hashable, _Flow[Item]] = {}
        """Those that have something waiting."""
        self._virtual_time = 0.0
        self._num_pushed = 0

    def __len__(self) -> int:
        return len(self._flow_of)

    def __contains__(self, item_id: int) -> bool:
        return item_id in self._flow_of

    def push(self, item_id: int, item: Item, *, flow: Hashable, cost: float, weight: float = 1.0) -> None:
        """Let an item wait; cost > 0 and weight > 0, and the id must not be waiting already."""
        assert item_id not in self._flow_of and cost > 0 and weight > 0
        known = self._flows.setdefault(flow, _Flow())
        known.end = max(self._virtual_time, known.end) + cost / weight
        known.items[item_id] = _Waiting(item, known.end, self._num_pushed)
        self._flow_of[item_id] = flow
        self._num_pushed += 1

    def peek(self, is_passed: Callable[[Any], bool] = _none) -> Item | None:
        """Return the item whose turn it is; None where nothing waits but what is passed."""
        flow = self._next_flow(is_passed)
        return None if flow is None else flow.head.item

    def pop(self, is_passed: Callable[[Any], bool] = _none) -> Item:
        """Take out the item whose turn it is; there must be one."""
        flow = self._next_flow(is_passed)
        assert flow is not None
        # What was passed has earlier tags: the time does not go back to them when they are served.
        self._virtual_time = max(self._virtual_time, flow.head.finish)
        return self._take(next(iter(flow.items)))

    def remove(self, item_id: int) -> Item | None:
        """Take out an item out of turn; None if it does not wait. What its flow waited for it is not given back, unless
        it was the flow's last."""
        return self._take(item_id) if item_id in self._flow_of else None

    def _next_flow(self, is_passed: Callable[[Any], bool]) -> _Flow[Item] | None:
        flows = (flow for name, flow in self._flows.items() if not is_passed(name))
        return min(flows, key=lambda flow: (flow.head.finish, flow.head.number), default=None)

    def _take(self, item_id: int) -> Item:
        """Take out an item, and forget a flow that has none left: it would begin at the virtual time again."""
        name = self._flow_of.pop(item_id)
        found = self._flows[name].items.pop(item_id)
        if not self._flows[name].items:
            del self._flows[name]
        if not self._flow_of:
            self._virtual_time = 0.0
        return found.item

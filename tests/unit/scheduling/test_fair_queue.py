"""Whose turn it is: shares by weight, no flow starved, nothing kept of what is gone."""

from t5kit.scheduling.fair_queue import FairQueue


def test_one_flow_is_first_come_first_served() -> None:
    queue: FairQueue[str] = FairQueue()
    for number, cost in enumerate((5, 1, 3)):
        queue.push(number, f"item {number}", flow="a", cost=cost)
    assert [queue.pop() for _ in range(3)] == ["item 0", "item 1", "item 2"]


def test_a_newcomer_does_not_wait_for_all_that_another_flow_has_queued() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.push(number, "many", flow="a", cost=10)
    queue.pop()
    queue.push(100, "one", flow="b", cost=10)
    assert [queue.pop() for _ in range(2)].count("one") == 1


def test_short_items_of_one_flow_pass_long_ones_of_another() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.push(number, "long", flow="a", cost=1000)
        queue.push(10 + number, "short", flow="b", cost=10)
    assert [queue.pop() for _ in range(5)] == ["short"] * 4 + ["long"]


def test_flows_are_served_in_proportion_to_their_weights() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(300):
        for flow, weight in (("heavy", 16.0), ("light", 1.0)):
            queue.push(number + (1000 if flow == "heavy" else 0), flow, flow=flow, cost=1, weight=weight)
    first = [queue.pop() for _ in range(170)]
    assert first.count("heavy") == 160


def test_time_that_a_flow_did_not_use_is_not_saved_up() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(50):
        queue.push(number, "a", flow="a", cost=1)
    for _ in range(40):
        queue.pop()
    for number in range(50, 100):
        queue.push(number, "b", flow="b", cost=1)
    assert [queue.pop() for _ in range(10)].count("a") == 5


def test_removed_items_are_not_given_and_leave_nothing_behind() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(10_000):
        queue.push(number, number, flow=number, cost=1)
    for number in range(9_999):
        assert queue.remove(number) == number
    assert queue.remove(0) is None
    assert len(queue._flow_of) == len(queue._flows) == 1
    assert (len(queue), 9_999 in queue, queue.pop()) == (1, True, 9_999)
    assert not queue._flow_of and not queue._flows


def test_the_next_item_can_be_seen_before_it_is_taken() -> None:
    queue: FairQueue[str] = FairQueue()
    for number, cost in enumerate((3, 1, 2)):
        queue.push(number, f"item {number}", flow=number, cost=cost)
    queue.remove(1)
    assert (queue.peek(), len(queue)) == ("item 2", 2)
    assert [queue.pop(), queue.peek(), queue.pop()] == ["item 2", "item 0", "item 0"]


def test_flows_that_are_passed_keep_their_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.push(number, "early", flow="a", cost=1)
        queue.push(10 + number, "late", flow="b", cost=100)

    def is_a(flow: object) -> bool:
        return flow == "a"

    assert (queue.peek(), queue.peek(is_a)) == ("early", "late")
    assert [queue.pop(is_a), queue.pop(is_a)] == ["late", "late"]
    assert [queue.pop() for _ in range(3)] == ["early"] * 3
    assert queue.peek(lambda flow: True) is None and queue.peek() == "late"
    queue.push(20, "new", flow="c", cost=150)
    assert [queue.pop(), queue.pop()] == ["late", "new"], (
        "it begins at the time that was reached, not at what was passed"
    )

"""A client's share: as much as it leaves free, and always something for a newcomer."""

import numpy as np
import pytest

from t5kit.serving.places import Places


def filled(places: Places, clients: int) -> list[int]:
    """Let clients take one place each by turns as long as any may; return what each holds."""
    names = [f"client {number}" for number in range(clients)]
    while True:
        takers = [name for name in names if places.has_room(name, 1, is_whole=True)]
        if not takers:
            return [places.held_by(name) for name in names]
        places.take(takers[0], 1)


def test_a_lone_client_has_half() -> None:
    assert filled(Places(1024), 1) == [512]
    assert [filled(Places(limit), 1) for limit in range(1, 9)] == [[1], [1], [1], [2], [2], [3], [3], [4]]


@pytest.mark.parametrize("num_flooding", [1, 2, 5, 9])
def test_something_is_free_for_a_newcomer_however_many_take_all_they_can(num_flooding: int) -> None:
    places = Places(1024)
    assert filled(places, num_flooding) == [1024 >> number for number in range(1, num_flooding + 1)]
    num_free = places.limit - places.num_held
    assert places.has_room("new", 1, is_whole=True)
    assert places.has_room("new", num_free, is_whole=True), "one piece of work may have all that is free"
    assert places.has_room("new", num_free // 2, is_whole=False)
    assert not places.has_room("new", num_free // 2 + 1, is_whole=False)


def test_clients_that_come_and_go_end_with_equal_shares() -> None:
    places, generator = Places(1000), np.random.Generator(np.random.Philox(1))
    names = [f"client {number}" for number in range(4)]
    for _ in range(20_000):
        name = names[generator.integers(4)]
        if generator.random() < 0.5 and places.held_by(name):
            places.give_back(name, 1)
        else:
            for each in names:
                while places.has_room(each, 1, is_whole=True):
                    places.take(each, 1)
    held = [places.held_by(name) for name in names]
    assert all(199 <= each <= 201 for each in held), held


def test_what_can_never_be_held_is_known_beforehand() -> None:
    places = Places(100)
    assert (places.most_ever(is_whole=True), places.most_ever(is_whole=False)) == (100, 50)
    assert places.has_room("alice", 100, is_whole=True) and not places.has_room("alice", 101, is_whole=True)
    assert places.has_room("alice", 50, is_whole=False) and not places.has_room("alice", 51, is_whole=False)


def test_nothing_is_kept_of_clients_that_hold_nothing() -> None:
    places = Places(10_000)
    for number in range(1000):
        places.take(f"client {number}", 3)
    for number in range(1000):
        places.give_back(f"client {number}", 3)
    assert places.num_held == 0 and not places._held

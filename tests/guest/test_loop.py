"""Turns are shared, timers fire once, and idling costs nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from stereos_guest.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Counter:
    def __init__(self, wants: int = 0) -> None:
        self.seen: list[int] = []
        self.wants = wants

    def handle(self, events: int) -> bool:
        self.seen.append(events)
        return len(self.seen) < self.wants


def test_who_wants_another_turn_gets_it_but_not_before_the_others(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    greedy, modest = Counter(wants=10), Counter()
    loop.add(pairs[0][0].fileno(), greedy)
    loop.add(pairs[1][0].fileno(), modest)
    loop.turn(0)
    assert (len(greedy.seen), len(modest.seen)) == (1, 1)
    for _ in range(20):
        loop.turn(0)
    assert (len(greedy.seen), len(modest.seen)) == (10, 1)
    for pair in pairs:
        pair[0].close()
        pair[1].close()


def test_a_removed_source_is_not_called_again(loop: Loop) -> None:
    near, far = socket.socketpair()
    source = Counter(wants=5)
    loop.add(near.fileno(), source)
    loop.turn(0)
    loop.remove(near.fileno())
    loop.turn(0)
    assert len(source.seen) == 1
    near.close()
    far.close()


def test_a_timer_fires_once_and_in_time(loop: Loop) -> None:
    fired: list[float] = []
    began = time.monotonic()
    loop.later(0.05, lambda: fired.append(time.monotonic() - began))
    while not fired:
        loop.turn(5)
    loop.turn(0)
    assert len(fired) == 1
    assert 0.05 <= fired[0] < 2


def test_a_timer_may_set_the_next_one(loop: Loop) -> None:
    fired: list[int] = []

    def again() -> None:
        fired.append(1)
        if len(fired) < 3:
            loop.later(0, again)

    loop.later(0, again)
    loop.run()
    assert len(fired) == 3

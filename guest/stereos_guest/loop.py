"""One thread that waits for many descriptors: a thin loop over epoll(7), edge-triggered.

Edge-triggered because a virtio port without a host reports POLLHUP for as long as that lasts, and a level-triggered
wait would spin. So a source must read until there is nothing left, or say that it wants another turn.
"""

from __future__ import annotations

from select import EPOLLET, EPOLLIN, EPOLLOUT, epoll
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Source(Protocol):
        """Something that a descriptor belongs to."""

        def handle(self, events: int) -> bool:
            """React to epoll `events` (0: only another turn). True asks for another turn: there is more to do."""


class Loop:
    """Calls the sources whose descriptors changed, and timers. Sources take turns, so a busy one starves nobody."""

    def __init__(self) -> None:
        self._epoll = epoll()
        self._sources: dict[int, Source] = {}
        self._again: set[int] = set()
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def add(self, descriptor: int, source: Source) -> None:
        """Watch `descriptor`, which must not block. What is there already counts as an event."""
        self._epoll.register(descriptor, EPOLLIN | EPOLLOUT | EPOLLET)
        self._sources[descriptor] = source

    def remove(self, descriptor: int) -> None:
        """Stop watching `descriptor`. Call it before closing it."""
        self._sources.pop(descriptor, None)
        self._again.discard(descriptor)
        self._epoll.unregister(descriptor)

    def soon(self, descriptor: int) -> None:
        """Give the source of `descriptor` a turn, though nothing happened to its descriptor."""
        if descriptor in self._sources:
            self._again.add(descriptor)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now."""
        self._timers.append((monotonic() + seconds, callback))

    def turn(self, timeout: float | None = None) -> None:
        """Wait, at most `timeout` seconds, for something to do, and do it."""
        now = monotonic()
        if self._again:
            timeout = 0.0
        elif self._timers:
            next_timer = max(0.0, min(when for when, _ in self._timers) - now)
            timeout = next_timer if timeout is None else min(timeout, next_timer)
        polled = self._epoll.poll(timeout)
        events = dict.fromkeys(self._again, 0)
        events.update(polled)
        self._again.clear()
        for descriptor, mask in events.items():
            source = self._sources.get(descriptor)
            if source and source.handle(mask) and self._sources.get(descriptor) is source:
                self._again.add(descriptor)
        now = monotonic()
        due = [callback for when, callback in self._timers if when <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for callback in due:
            callback()

    def run(self) -> None:
        """Take turns until there is nothing left that could ever happen."""
        while self._sources or self._timers:
            self.turn()

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._epoll.close()

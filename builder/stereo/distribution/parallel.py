"""Work on many blobs side by side, which ends at once when one fails or somebody stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from stereo.registry.remote import Advance
from stereo.report import Report

PULSE = 0.2
"""Seconds that a wait for threads lasts at most before it begins again. A signal that reaches the process just when
its main thread falls asleep, or in another thread, is heard only when that wakes up."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _StoppedError(Exception):
    """Nobody wants the rest of this."""


def side_by_side(
    doing: str,
    total: int,
    items: Sequence[Item],
    work: Callable[[Item, Advance], Result],
    report: Report,
    *,
    jobs: int,
) -> list[Result]:
    """What `work` returns for each of `items`, in their order. `total` is in bytes.

    `work` gets what tells of its bytes; from there it is ended, by an exception, when the whole ends early. What one
    of them raises is raised here.
    """
    stop = threading.Event()
    waiting: SimpleQueue[tuple[int, Item]] = SimpleQueue()
    ended: SimpleQueue[tuple[int, Result] | BaseException] = SimpleQueue()
    for numbered in enumerate(items):
        waiting.put(numbered)
    with report.progress(doing, total) as progress:

        def advance(count: int) -> None:
            if stop.is_set():
                raise _StoppedError
            progress.advance(count)

        def serve() -> None:
            with suppress(Empty):
                while not stop.is_set():
                    number, item = waiting.get_nowait()
                    try:
                        ended.put((number, work(item, advance)))
                    except BaseException as error:  # raised again, below
                        ended.put(error)

        # Daemons: on Ctrl-C nobody waits for a server that does not answer.
        threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(jobs, len(items)))]
        for thread in threads:
            thread.start()
        done: dict[int, Result] = {}
        try:
            while len(done) < len(items):
                try:
                    found = ended.get(timeout=PULSE)
                except Empty:
                    continue
                if isinstance(found, BaseException):
                    raise found
                done[found[0]] = found[1]
        except Exception:
            stop.set()
            for thread in threads:
                thread.join()
            raise
        except BaseException:
            stop.set()
            raise
        return [done[number] for number in range(len(items))]

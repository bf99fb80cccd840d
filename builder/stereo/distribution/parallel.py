"""Work on many blobs side by side, which ends at once when one fails or somebody stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from stereo.registry.remote import Advance
from stereo.report import Report

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
    with (
        report.progress(doing, total) as progress,
        ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="blob") as pool,
    ):

        def advance(count: int) -> None:
            if stop.is_set():
                raise _StoppedError
            progress.advance(count)

        try:
            futures = [pool.submit(work, item, advance) for item in items]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

"""Folders of running builds. Each is held by a lock that dies with its owner, so the next build can clear it away."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stereo.build import sandbox
from stereo.paths import Cache
from stereo.report import Report


@contextmanager
def workspace(cache: Cache, name: str, report: Report) -> Iterator[Path]:
    """An empty folder that is ours alone, removed in the end. A second user of the same name waits for the first."""
    cache.work.mkdir(parents=True, exist_ok=True)
    with _held(cache.work / f"{name}.lock", report, wait=True):
        clear_dead(cache, report)
        folder = cache.work / name
        sandbox.remove(folder)  # of an owner that died
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            sandbox.remove(folder)


def clear_dead(cache: Cache, report: Report) -> int:
    """Remove the folders whose owners are gone. Returns how many there were."""
    cleared = 0
    for lock in sorted(cache.work.glob("*.lock")) if cache.work.is_dir() else ():
        with suppress(BlockingIOError), _held(lock, report, wait=False):
            folder = lock.with_suffix("")
            if folder.exists():
                sandbox.remove(folder)
                cleared += 1
    return cleared


@contextmanager
def _held(lock: Path, report: Report, *, wait: bool) -> Iterator[None]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            report.note(f"Waiting for another build ({lock.stem})")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

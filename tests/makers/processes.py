"""What a killed build could leave behind: processes and mounts. Read from proc(5)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SOON = 1.0
"""Seconds that the kernel may take to end what a dead process had started."""


@dataclass(frozen=True)
class Process:
    """A process; `started` tells it from a later one with the same number."""

    pid: int
    parent: int
    started: int
    name: str
    state: str


def processes() -> dict[int, Process]:
    """All that run now. Zombies are left out: they hold nothing."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            before, _, after = (folder / "stat").read_text().rpartition(")")
            fields = after.split()
            pid, name = before.split(" (", 1)
            one = Process(int(pid), int(fields[1]), int(fields[19]), name, fields[0])
            if one.state not in "ZX":
                found[one.pid] = one
    return found


def descendants(pid: int) -> list[Process]:
    """The children of a process, their children, and so on."""
    running = processes()
    below = {pid}
    while more := {one.pid for one in running.values() if one.parent in below} - below:
        below |= more
    return [running[each] for each in below - {pid} if each in running]


def alive(those: list[Process]) -> list[Process]:
    """Which of `those` still run."""
    now = processes()
    return [one for one in those if one.pid in now and now[one.pid].started == one.started]


def end(those: list[Process]) -> None:
    """Kill what should have ended by itself, so that a test that fails leaves nothing behind either."""
    for one in alive(those):
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)


def mentioning(path: Path) -> Iterator[str]:
    """Processes with a path of this folder in their command line, working directory or open files."""
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            links = [(folder / "cwd").readlink(), *(one.readlink() for one in (folder / "fd").iterdir())]
            if any(str(path) in str(each) for each in (words, *links)):
                yield f"{folder.name} {words}"


def mounts_below(path: Path) -> list[str]:
    """Mounts of ours at or from a folder."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line]


def settled(what: Callable[[], object], *, seconds: float) -> bool:
    """Whether `what` becomes empty within so many seconds."""
    end = time.monotonic() + seconds
    while what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def assert_ended(started: list[Process]) -> None:
    """Fail if one of `started` still runs. It is killed then: a test that fails leaves nothing behind either."""
    if settled(lambda: alive(started), seconds=SOON):
        return
    left = alive(started)
    for one in left:
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
    raise AssertionError(f"still running: {left}")

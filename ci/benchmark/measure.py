"""Runs a program and measures it: wall time, and the most memory that this very process had."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stereo.errors import StereoError
from stereo.process import die_with_parent, end_group, quote

_LOOK_EVERY = 50  # milliseconds


@dataclass(frozen=True)
class Timed:
    """Wall time in seconds; `peak` is the largest resident size in bytes of the process itself, children left out."""

    seconds: float
    peak: int


def timed(argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], log: Path) -> Timed:
    """Run a program to its end; what it says goes to the end of `log`. Raises StereoError if it fails.

    The ru_maxrss of wait4(2) would be no measure: Linux takes the largest of the process and of all children that it
    waited for. So the high-water mark of proc(5) is read while it runs; it follows the process through execve(2).
    """
    command = [str(word) for word in argv]
    with log.open("ab") as out:
        out.write(f"$ {quote(command)}\n".encode())
        out.flush()
        began = time.monotonic()
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            peak = _watch(child.pid)
            seconds = time.monotonic() - began
            status = child.wait()
        except BaseException:
            end_group(child)
            raise
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise StereoError(f"{Path(command[0]).name} ended with status {status}:\n{tail}", where=str(log))
    return Timed(seconds, peak)


def _watch(pid: int) -> int:
    """Return the high-water mark of a child in bytes, once it has ended."""
    peak = 0
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        while not ended.poll(_LOOK_EVERY):
            peak = max(peak, _high_water(pid))
    finally:
        os.close(descriptor)
    return peak


def _high_water(pid: int) -> int:
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0  # it has just ended

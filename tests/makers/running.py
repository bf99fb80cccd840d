"""A command that goes on while a test looks at it, sends it signals, or kills it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from makers.command import Stereo
from makers.processes import Process, descendants


@dataclass(frozen=True)
class Running:
    """A started command; `log` is where its stderr goes."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """Its stderr so far."""
        return self.log.read_text()

    def until(self, words: str, *, seconds: float = 900) -> None:
        """Wait until it says these words; fail if it ends before."""
        end = time.monotonic() + seconds
        while words not in self.said():
            assert self.process.poll() is None, f"ended before “{words}”:\n{self.said()}"
            assert time.monotonic() < end, f"no “{words}” after {seconds} s:\n{self.said()}"
            time.sleep(0.01)

    def signal(self, number: int, *, group: bool) -> list[Process]:
        """Send a signal to it, or to its process group, and wait for its end. Returns what it had started."""
        started = descendants(self.process.pid)
        os.killpg(self.process.pid, number) if group else os.kill(self.process.pid, number)
        self.process.wait(timeout=60)
        return started


@contextmanager
def running(
    stereo: Stereo, *words: str | Path, cwd: Path, env: Mapping[str, str], umask: int = -1
) -> Iterator[Running]:
    """A verb of the real command line that does not outlive the test."""
    with tempfile.NamedTemporaryFile(prefix="stereo-log-") as log:
        process = subprocess.Popen(
            stereo.argv(*words),
            cwd=cwd,
            env=stereo.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            umask=umask,
            start_new_session=True,
        )
        try:
            yield Running(process, Path(log.name))
        finally:
            process.kill()
            process.wait()

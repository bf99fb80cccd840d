"""Starts the supervisor of a sandbox, from the command line's side: a process of its own that outlives us.

It is started before we know what for, so that its interpreter loads while we read the jcard; closing our end without a
job ends it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import stereo
import stereos_guest
from stereo import process
from stereo.errors import StereoError
from stereo.sandbox.job import Job

_CLEAN_UP_SECONDS = 30.0
_LARGEST_EVENT = 1 << 20


SUPERVISOR = (sys.executable, "-P", "-s", "-m", "stereo.sandbox")


class Launch:
    """A supervisor that is being born. Leaving the `with` block gives it up, unless it said that it is ready."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._stream = self._socket.makefile("rb")
        packages = os.pathsep.join(str(Path(package.__path__[0]).parent) for package in (stereo, stereos_guest))
        with theirs:
            # Not by `process.run`: this child is meant to stay when we are gone, in a session of its own.
            self._child = subprocess.Popen(
                [*SUPERVISOR, str(theirs.fileno())],
                env=process.closed_environment({"PYTHONPATH": packages}),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # until it has a log file; what it says before is a fault of ours
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                umask=0o077,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._give_up()
        self._stream.close()
        self._socket.close()
        if self._child.stderr:
            self._child.stderr.close()
        self._child.returncode = self._child.poll() or 0  # it is nobody's to wait for

    def send(self, job: Job) -> None:
        """Tell it what to run."""
        with suppress(BrokenPipeError):  # then it has said, or not, what `events` tells
            self._socket.sendall(json.dumps(job.encode()).encode() + b"\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """What it says, until it is ready or ends. Raises StereoError when it died without a word."""
        last: dict[str, Any] = {}
        while line := self._stream.readline(_LARGEST_EVENT):
            last = json.loads(line)
            yield last
        if not last:
            words = self._child.stderr.read(4000).decode(errors="replace").strip() if self._child.stderr else ""
            raise StereoError(f"the supervisor ended without a word: {words or 'it was killed'}")

    def _give_up(self) -> None:
        """Have it undo what it did, and wait for that: it reads the end of our side as the wish to stop."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_CLEAN_UP_SECONDS)
            while self._socket.recv(1 << 16):
                pass

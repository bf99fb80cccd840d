"""The stream of a program that the host started: its input, output, signals, time limit and true end."""

from __future__ import annotations

import posix
from fcntl import F_SETPIPE_SZ, fcntl

from stereos_guest import execution, frames
from stereos_guest.execution import Command, Process
from stereos_guest.protocol import ProtocolError
from stereos_guest.streams import Stream, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stereos_guest.loop import Loop
    from stereos_guest.session import Session

_GRACE = 5.0  # seconds from the SIGTERM of a timeout to the end of everything


class ProcessStream(Stream):
    """The bytes of a program. It ends when the program has, and all is sent that it had written by then."""

    def __init__(self, number: int, session: Session, loop: Loop) -> None:
        super().__init__(number, session, loop)
        self._process = Process()
        self._status = 0
        self._timed_out = False
        self._timers: list[Callable[[], None]] = []  # emptied at the end; what the loop still holds then is no stream

    def start(self, command: Command, cgroup: str, *, timeout: float | None = None, bulk: bool = False) -> None:
        """Start it; `bulk` if much will go through its pipes. Raises OSError."""
        self._process = execution.start(command, cgroup)
        if self._process.stdin >= 0:
            self._input, self._process.stdin = self._process.stdin, -1
            self._loop.add(self._input, Watch(self._flush))
        for name, descriptor in self._process.outputs:
            self._add_output(name, descriptor)
        if bulk:
            for descriptor in (self._input, self._outputs[0].descriptor):
                if descriptor >= 0:
                    widen(descriptor)
        self._process.outputs = []
        self._loop.add(self._process.handle, Watch(self._reap))
        if timeout is not None:
            self._later(timeout, self._time_out)

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        timers = self._timers
        timers[:] = [callback]
        self._loop.later(seconds, lambda: timers[0]() if timers else None)

    def _time_out(self) -> None:
        self._timed_out = True
        self._process.signal(execution.SIGTERM, everybody=True)
        self._later(_GRACE, self._kill)

    def _kill(self) -> None:
        if not self._over:
            self._process.kill()

    def _fail(self, error: str) -> None:
        self._error = self._error or error
        self._kill()
        self._drop_outputs()
        self._close_input()
        self._wake()

    def _reap(self) -> None:
        if not posix.waitid(posix.P_PID, self._process.pid, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT):
            return
        if self._timed_out:
            self._process.kill()  # those who did not go with it; while it is not reaped, its group is surely its own
        _, self._status = posix.waitpid(self._process.pid, 0)
        self._over = True
        self._timers.clear()
        self._error = self._error or self._process.why_not_started()
        self._close(self._process.handle)
        posix.close(self._process.failure)
        if self._process.terminal >= 0:
            posix.close(self._process.terminal)
        self._process.forget_cgroup()
        self._close_input()
        for output in self._outputs:
            output.ready = True
        self._wake()

    def _end_input(self) -> None:
        if self._process.terminal >= 0 and not self._over:
            try:
                posix.write(self._input, b"\x04")  # what ends the input of who reads lines from a terminal
            except OSError:
                pass
        self._close_input()

    def _resize(self, rows: int, columns: int) -> None:
        if not self._over:
            self._process.resize(rows, columns)

    def _signal(self, name: Any) -> None:
        number = execution.signal_number(name) if isinstance(name, str) else None
        if number is None:
            raise ProtocolError("a signal that there is not")
        if not self._over:
            self._process.signal(number)

    def _exit(self) -> dict[str, Any]:
        code, signal = execution.ending(self._status)
        ended = {"code": code, "signal": signal, "timed_out": self._timed_out}
        return {**ended, "error": self._error} if self._error else ended


def widen(descriptor: int) -> None:
    """Give a pipe as much room as one side's credit, so that both ends run long without each other."""
    try:
        fcntl(descriptor, F_SETPIPE_SZ, frames.INITIAL_WINDOW)
    except OSError:
        pass  # a bound on pipes; the usual size only is slower

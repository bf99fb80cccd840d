"""Asks systemd by systemctl(1), which as root needs no bus: bounded in time and size."""

from __future__ import annotations

import posix
from select import POLLIN, poll
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PROGRAM = "/usr/bin/systemctl"
_SECONDS = 60.0  # an emulated machine that is busy
_MOST_OUTPUT = 1 << 20
_PROPERTIES = "Id,LoadState,ActiveState,SubState,NRestarts,Job,ExecMainStartTimestamp"


class SystemctlError(Exception):
    """systemd did not do it; the text is what systemctl said."""


class Systemctl:
    """Runs systemctl; what is to be started or stopped is queued, never waited for."""

    def __init__(self, program: str = _PROGRAM) -> None:
        self._program = program

    def queue(self, verb: str, units: Sequence[str]) -> None:
        """Have `units` started, stopped, restarted. Raises SystemctlError."""
        if units:
            self.call(verb, "--no-block", "--", *units)

    def reload(self) -> None:
        """Have systemd read changed unit files again. Raises SystemctlError."""
        self.call("daemon-reload")

    def show(self, units: Sequence[str]) -> dict[str, dict[str, str]]:
        """What systemd says of each of these units; of one that is not there too. Raises SystemctlError."""
        if not units:
            return {}
        text = self.call("show", f"--property={_PROPERTIES}", "--timestamp=unix", "--", *units)
        found = {}
        for block in text.split("\n\n"):
            rows = dict(line.partition("=")[::2] for line in block.splitlines())
            found[rows.get("Id", "")] = rows
        return found

    def call(self, *arguments: str) -> str:
        """What systemctl prints. Raises SystemctlError."""
        try:
            status, text = _run([self._program, "--no-pager", "--no-ask-password", *arguments])
        except OSError as error:
            raise SystemctlError(f"{self._program}: {error.strerror}") from None
        if status:
            raise SystemctlError(" ".join(text.split())[:500] or f"systemctl {arguments[0]} failed")
        return text


def _run(argv: list[str]) -> tuple[int, str]:
    """Exit status and output of a program. Raises OSError."""
    reader, writer = posix.pipe2(posix.O_CLOEXEC)
    nothing = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    try:
        pid = posix.posix_spawn(
            argv[0],
            argv,
            {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            file_actions=[
                (posix.POSIX_SPAWN_DUP2, nothing, 0),
                (posix.POSIX_SPAWN_DUP2, writer, 1),
                (posix.POSIX_SPAWN_DUP2, writer, 2),
            ],
        )
    except OSError:
        posix.close(reader)
        raise
    finally:
        posix.close(writer)
        posix.close(nothing)
    output, in_time = _output(reader)
    if not in_time:
        posix.kill(pid, 9)
    _, status = posix.waitpid(pid, 0)
    if not in_time:
        return 1, f"{argv[0]} took more than {_SECONDS:g} s"
    return posix.waitstatus_to_exitcode(status), output.decode(errors="replace")


def _output(reader: int) -> tuple[bytes, bool]:
    """What comes until the end, and whether that came in time."""
    until = monotonic() + _SECONDS
    output = bytearray()
    waiting = poll()
    waiting.register(reader, POLLIN)
    try:
        while waiting.poll(max(0.0, until - monotonic()) * 1000):
            data = posix.read(reader, 1 << 16)
            if not data:
                return bytes(output), True
            if len(output) < _MOST_OUTPUT:
                output += data
        return bytes(output), False
    finally:
        posix.close(reader)

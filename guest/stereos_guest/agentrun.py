"""Runs one agent inside its unit: hands it its secrets, passes signals on, and keeps how it really ended.

It is the first process of the unit's PID namespace, where the kernel drops signals that nobody handles and orphans must
be reaped: an agent would do neither. It runs as the agent's user, so nothing here may matter to anybody else.

    agent-run GRACE WORKDIR SECRETS -- PROGRAM [ARGUMENT...]

GRACE is seconds between the SIGTERM that it gets and the SIGKILL that it gives; SECRETS are the names, joined by
commas, of the credentials that become variables. systemd opened files for it (OpenFile= in the unit): the first gets a
line `started` and a line `exit CODE`, `signal NUMBER` or `error TEXT`; the second, if there is one, has the agent's own
variables, each ending in a null.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, unlike `signal`
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_RECORD, _VARIABLES = 3, 4  # from SD_LISTEN_FDS_START on, as the unit names them
_CANNOT_START = 127
_MAX_SECRET = 128 * 1024
_MAX_REASON = 4096
_MAX_VARIABLES = 64 << 20
_PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT")


class CannotStartError(Exception):
    """The agent does not run, and this text says why."""


def environment(inherited: Mapping[bytes, bytes], secrets: Sequence[str]) -> dict[bytes, bytes]:
    """What the unit sets for the agent, and its secrets, without their last newlines. Raises CannotStartError."""
    found = {name: value for name, value in inherited.items() if not name.startswith((b"LISTEN_", b"NOTIFY_"))}
    folder = inherited.get(b"CREDENTIALS_DIRECTORY", b"")
    for name in secrets:
        try:
            descriptor = posix.open(folder + b"/" + name.encode(), posix.O_RDONLY | posix.O_CLOEXEC)
            value = _read_all(descriptor, _MAX_SECRET)
        except OSError as error:
            raise CannotStartError(f"secret {name}: {error.strerror}") from None
        if b"\0" in value or len(value) + len(name) + 2 > _MAX_SECRET:
            raise CannotStartError(f"secret {name}: no variable can hold it")
        found[name.encode()] = value.rstrip(b"\r\n")
    return found


def _own_variables() -> dict[bytes, bytes]:
    rows = _read_all(_VARIABLES, _MAX_VARIABLES).split(b"\0")
    return {name: value for name, _, value in (row.partition(b"=") for row in rows) if name}


def _read_all(descriptor: int, most: int) -> bytes:
    data = b""
    try:
        while len(data) <= most and (more := posix.read(descriptor, 1 << 16)):
            data += more
    finally:
        posix.close(descriptor)
    return data


class _Runner:
    """The agent's process, once it is there, and what is to become of it."""

    def __init__(self, grace: float) -> None:
        self._grace = max(grace, 0.001)  # setitimer(2) takes 0 for never
        self._child = 0
        self._pending: list[int] = []
        for name in _PASSED_ON:
            _signal.signal(getattr(_signal, name), self._pass_on)
        _signal.signal(_signal.SIGALRM, self._end)

    def _pass_on(self, number: int, frame: Any) -> None:
        if number == _signal.SIGTERM:
            _signal.setitimer(_signal.ITIMER_REAL, self._grace)
        if self._child:
            self._kill(self._child, number)
        else:
            self._pending.append(number)

    def _end(self, number: int, frame: Any) -> None:
        # As the first process of a namespace, -1 is everybody in it but us; elsewhere it would be far too many.
        self._kill(-1 if posix.getpid() == 1 else -self._child, _signal.SIGKILL)

    def _kill(self, pid: int, number: int) -> None:
        try:
            posix.kill(pid, number)
        except OSError:
            pass  # it has just ended

    def run(self, argv: list[str], variables: dict[bytes, bytes], workdir: str) -> int:
        """Start it and wait for its end; its status is that of wait(2). Raises CannotStartError."""
        reader, writer = posix.pipe2(posix.O_CLOEXEC)
        child = posix.fork()
        if child == 0:
            _become(argv, variables, workdir, writer)
        self._child = child
        posix.close(writer)
        for number in self._pending:
            self._kill(child, number)
        reason = _read_all(reader, _MAX_REASON)
        if not reason:
            _note("started")
        while True:
            pid, status = posix.wait()
            if pid == child:
                break
        if reason:
            raise CannotStartError(reason.decode(errors="replace"))
        return status


def _become(argv: list[str], variables: dict[bytes, bytes], workdir: str, writer: int) -> None:
    """In the child: turn into the agent, or say why not."""
    try:
        posix.setsid()
        for name in (*_PASSED_ON, "SIGALRM", "SIGPIPE", "SIGXFSZ"):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
        try:
            posix.chdir(workdir)
        except OSError as error:
            posix.write(writer, f"working directory {workdir}: {error.strerror}"[:500].encode())
            posix._exit(_CANNOT_START)
        _execute(argv, variables, writer)
    finally:
        posix._exit(_CANNOT_START)


def _execute(argv: list[str], variables: dict[bytes, bytes], writer: int) -> None:
    reason = "No such file or directory"
    path = variables.get(b"PATH", b"/usr/bin:/bin")
    program = argv[0].encode()
    for place in [b""] if b"/" in program else path.split(b":"):
        try:
            posix.execve(place + b"/" + program if place else program, argv, variables)
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = error.strerror or reason
    posix.write(writer, f"{argv[0]}: {reason}"[:500].encode())


def _note(text: str) -> None:
    try:
        posix.write(_RECORD, text.replace("\n", " ").encode(errors="replace") + b"\n")
    except OSError:
        pass  # started by hand, and not by a unit


def main(arguments: list[str]) -> int:
    """Run what the command line says; the exit code is the agent's, or as a shell tells of a signal."""
    try:
        posix.set_inheritable(_RECORD, False)
    except OSError:
        pass
    grace, workdir, secrets, _, *argv = arguments
    runner = _Runner(float(grace))
    try:
        variables = environment(posix.environ, [name for name in secrets.split(",") if name])
        if posix.environ.get(b"LISTEN_FDS") == b"2":
            variables |= _own_variables()
        status = runner.run(argv, variables, workdir)
    except CannotStartError as error:
        _note(f"error {error}")
        posix.write(2, f"cannot start: {error}\n".encode(errors="replace"))
        return _CANNOT_START
    if posix.WIFSIGNALED(status):
        _note(f"signal {posix.WTERMSIG(status)}")
        return 128 + posix.WTERMSIG(status)
    _note(f"exit {posix.WEXITSTATUS(status)}")
    return posix.WEXITSTATUS(status)

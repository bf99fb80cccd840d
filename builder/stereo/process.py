"""The one place that starts other programs: argv lists, a closed environment, output kept, time measured.

The child dies with us (PR_SET_PDEATHSIG) and leads its own process group, so that Ctrl-C, a failure or a kill of ours
leaves nothing running.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stereo.errors import StereoError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_TAIL_LINES = 25


@dataclass(frozen=True)
class Finished:
    """A program that ended with status 0. `seconds` is wall time."""

    argv: tuple[str, ...]
    stdout: str
    stderr: str
    seconds: float


class CommandFailed(StereoError):  # noqa: N818 - reads as what happened
    """A program ended with another status than 0, or could not be started."""

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        tail = "\n".join(output.rstrip().splitlines()[-_TAIL_LINES:])
        ended = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        super().__init__(
            f"{Path(argv[0]).name} {ended}" + (f":\n{tail}" if tail else ""), hint=f"command: {quote(argv)}"
        )
        self.status = status
        self.output = output

    @property
    def out_of_space(self) -> bool:
        """Whether the program complained of a full disk, in the words of the C locale that we run all in."""
        return os.strerror(errno.ENOSPC) in self.output or os.strerror(errno.EDQUOT) in self.output


def quote(argv: Sequence[str]) -> str:
    """The command as a person would type it."""
    return shlex.join(argv)


def closed_environment(extra: Mapping[str, str] | None = None, *, path: str | None = None) -> dict[str, str]:
    """An environment that is the same for everyone: nothing of the caller's leaks in but PATH."""
    return {
        "PATH": path or os.environ.get("PATH", os.defpath),
        "HOME": "/",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        **(extra or {}),
    }


def die_with_parent() -> None:
    """`preexec_fn` for a child that must not outlive us, where the kernel sees to it: prctl(2), PR_SET_PDEATHSIG."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect after the block instead of in it.

    While Python forks with a `preexec_fn` it runs hooks whose exceptions it only prints: a Ctrl-C in that moment would
    be lost, and one a moment later would leave a child that nobody holds. Only the main thread handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda caught_number, _: caught.append(caught_number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if caught:
            signal.raise_signal(caught[0])


def signal_group(leader: int, number: int) -> None:
    """Send a signal to the process group of `leader`; nothing happens if nobody is left in it."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        if sys.platform != "darwin":  # which says so of those that have ended and were not waited for
            raise


def end_group(process: subprocess.Popen[str] | subprocess.Popen[bytes], *, grace: float = 5.0) -> None:
    """Ask the process group of `process` to end, wait `grace` seconds, then kill it. Returns when it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal_group(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    process.wait()
    signal_group(process.pid, signal.SIGKILL)  # whoever is left of the group after its leader


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    umask: int = 0o022,
    timeout: float | None = None,
    input_text: str | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run a program to its end and return what it said.

    `env` is the whole environment (default: `closed_environment()`). `timeout` is in seconds. With `on_line` stderr is
    joined to stdout and every line is passed on as it comes. Raises `CommandFailed`, also when the time is over.
    """
    command = [str(word) for word in argv]
    log.debug("run %s", quote(command))
    began = time.monotonic()
    process: subprocess.Popen[str] | None = None
    try:
        with interrupts_deferred():
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env) if env is not None else closed_environment(),
                stdin=subprocess.PIPE if input_text is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if on_line else subprocess.PIPE,
                text=True,
                errors="replace",
                umask=umask,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        if on_line:
            lines = []
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                on_line(line.rstrip("\n"))
            process.wait(timeout=timeout)
            out, err = "".join(lines), ""
        else:
            out, err = process.communicate(input=input_text, timeout=timeout)
    except BaseException as error:
        if process is None and isinstance(error, OSError):
            raise CommandFailed(command, 127, str(error)) from error
        if process is not None:
            end_group(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise CommandFailed(command, -signal.SIGKILL, f"no end after {timeout} s") from error
        raise
    seconds = time.monotonic() - began
    log.debug("%s: status %d after %.2f s", Path(command[0]).name, process.returncode, seconds)
    if process.returncode != 0:
        raise CommandFailed(command, process.returncode, err or out)
    return Finished(tuple(command), out, err, seconds)

"""Programs of the system that the daemon has work for: mount, systemctl, nft. None of them makes it wait."""

from __future__ import annotations

import posix

from stereos_guest import execution
from stereos_guest.execution import Account, Command, Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stereos_guest.loop import Loop

    # Arguments, what to call with the error (empty: none) once it ended, and the folder to run in.
    Run = Callable[[Sequence[str], Callable[[str], None], str], None]

_ROOT = Account("root", 0, 0, [0], "/root", "/bin/sh")
_ENVIRONMENT = {"PATH": execution.STANDARD_PATH, "LC_ALL": "C.UTF-8"}
_MOST_WORDS = 500  # bytes of what a program says about its failure
_SECONDS = 90.0


class Helpers:
    """Starts programs as root, in the cgroup of the daemon. See `Run`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __call__(self, argv: Sequence[str], done: Callable[[str], None], folder: str = "/") -> None:
        try:
            process = execution.start(Command(argv, _ROOT, _ENVIRONMENT, cwd=folder))
        except OSError as error:
            done(f"cannot start {argv[0]}: {error.strerror}")
            return
        _Helper(self._loop, argv[0], process, done)


class _Helper:
    """One running program; a `loop.Source` on its pidfd_open(2)."""

    def __init__(self, loop: Loop, name: str, process: Process, done: Callable[[str], None]) -> None:
        self._loop, self._name, self._process = loop, name.rpartition("/")[2], process
        self._done: Callable[[str], None] | None = done
        loop.add(process.handle, self)
        loop.later(_SECONDS, self._kill)

    def handle(self, events: int) -> bool:
        pid, status = posix.waitpid(self._process.pid, posix.WNOHANG)
        if not pid or not self._done:
            return False
        said = self._process.why_not_started() or self._said()
        self._loop.remove(self._process.handle)
        for descriptor in execution.descriptors_of(self._process):
            posix.close(descriptor)
        done, self._done = self._done, None
        code, signal = execution.ending(status)
        if code == 0:
            done("")
        else:
            ended = f"was ended by SIG{signal}" if signal else f"failed with status {code}"
            done(said or f"{self._name} {ended}")
        return False

    def _said(self) -> str:
        """What it wrote to stderr, of which a pipe holds more than we tell."""
        for name, descriptor in self._process.outputs:
            if name == "stderr":
                try:
                    return posix.read(descriptor, _MOST_WORDS).decode(errors="replace").strip().replace("\n", "; ")
                except OSError:
                    return ""
        return ""

    def _kill(self) -> None:
        if self._done:
            self._process.kill()

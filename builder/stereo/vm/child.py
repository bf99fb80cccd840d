"""One of the programs that a machine is made of: QEMU, and what serves its network and shares.

It dies with us even if we are killed, leads its own process group, and what it complained of is kept for an error.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from stereo import process
from stereo.errors import StereoError

_COMPLAINT_BYTES = 2000


class Child:
    """A started program; `name` is what a person calls it."""

    def __init__(self, name: str, started: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = started
        self._complaints = b""
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, descriptors: Iterable[int]
    ) -> Child:
        """Start `argv` with these `descriptors` open. Raises StereoError. Call it on the main thread."""
        try:
            started = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=env,
                cwd=cwd,
                pass_fds=tuple(descriptors),
                start_new_session=True,
                preexec_fn=process.die_with_parent,
                umask=0o077,
            )
        except OSError as error:
            raise StereoError(f"{name} cannot be started: {error.strerror}", where=argv[0]) from error
        return cls(name, started)

    async def _listen(self) -> None:
        assert self._process.stderr
        while chunk := await self._process.stderr.read(4096):
            self._complaints = (self._complaints + chunk)[-_COMPLAINT_BYTES:]

    def complaints(self) -> str:
        """What it wrote to its standard error, the last of it."""
        return self._complaints.decode(errors="replace").strip()

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Its exit status, once it has ended and all its complaints were heard."""
        status = await self._process.wait()
        with suppress(TimeoutError):  # whoever else holds the pipe open, we do not wait for long
            await asyncio.wait_for(asyncio.shield(self._listening), 1)
        return status

    async def ended_within(self, seconds: float) -> bool:
        """Whether it ends in so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        return self.status is not None

    async def kill(self) -> None:
        """End it and what it started. Returns when it is gone."""
        if self.status is None:
            process.signal_group(self._process.pid, signal.SIGKILL)
        await self.wait()

    def failure(self) -> StereoError:
        """Its end, told as an error."""
        status = self.status or 0
        ended = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        return StereoError(f"{self.name} {ended}: {self.complaints() or 'no message'}")

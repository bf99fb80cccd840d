"""`python -m stereo.sandbox DESCRIPTOR`: a supervisor, which reads its job from the inherited socket DESCRIPTOR."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from stereo.sandbox.birth import Parent
from stereo.sandbox.bounded import BoundedFile
from stereo.sandbox.job import Job
from stereo.sandbox.machines import backend_of
from stereo.sandbox.state import Folder
from stereo.sandbox.supervisor import Supervisor
from stereo.vm.machine import Backend


class _Log(logging.Handler):
    """Writes to the sandbox's log, without the values of secrets. The file is opened with the first line."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self.redact: Callable[[str], str] = str
        self._path = path
        self._file: BoundedFile | None = None
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
        assert self.formatter
        self.formatter.converter = time.gmtime

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._file is None:
                self._file = BoundedFile(self._path)
                os.dup2(self._file.descriptor, 2)  # what helpers complain of belongs there too
            self._file.write(f"{self.redact(self.format(record))}\n".encode())
        except OSError:
            self.handleError(record)


def read_job(sock: socket.socket) -> Job | None:
    """The job, or None if the other side left without one."""
    data = bytearray()
    while not data.endswith(b"\n"):
        chunk = sock.recv(1 << 16)
        if not chunk:
            return None
        data += chunk
    return Job.decode(json.loads(data))


async def _supervise(job: Job, sock: socket.socket, backend: Callable[[Job], Backend]) -> None:
    parent = await Parent.on(sock, job)
    folder = Folder(job.name, Path(job.root))
    supervisor = Supervisor(job, folder, backend(job), parent)
    log = _Log(folder.log)
    log.redact = lambda text: supervisor.job.redact(text)  # which may have got other secrets since
    logging.getLogger().addHandler(log)
    logging.getLogger("stereo").setLevel(logging.INFO)
    await supervisor.run()
    await parent.flushed()
    await supervisor.service.finish()


def main(backend: Callable[[Job], Backend] = backend_of) -> int:
    """Run the job that comes in on the inherited socket."""
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        job = read_job(sock)
        if job is None:
            return 0
        os.umask(0o077)
        # It holds secrets, and what it starts maps the guest's memory: no crash may write either to a disk.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        asyncio.run(_supervise(job, sock, backend))
    return 0


if __name__ == "__main__":
    sys.exit(main())

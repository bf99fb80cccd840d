"""Where QEMU runs: a network namespace with nothing but a loopback, a file system with nothing but its own programs.

An ordinary user makes them in a user namespace and stays itself there; root makes them and gives up being root.
`enclosure_main` does it, in the process that becomes QEMU; here is what it is told, and how what it made comes back.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stereo import process
from stereo.errors import StereoError
from stereo.vm import enclosure_main
from stereo.vm.child import Child
from stereo.vm.machine import DNS_PORT, PROXY_PORT, Gated, Network, Transport
from stereo.vm.programs import host_folders

_GATE_SECONDS = 30.0
_FIRST_UID, _UIDS = (
    61184,
    4336,
)  # systemd's range for users that exist while something runs; nobody else gives them away


@dataclass(frozen=True)
class Job:
    """What one enclosure is. Paths are absolute; everything is to be seen at its own place, but for `files`."""

    root: str
    """An empty folder: where the new root is put together, unseen from outside."""
    visible: tuple[str, ...]
    """Folders with programs, libraries and data."""
    files: dict[str, str | int] = field(default_factory=dict)
    """What has to be read by a path, /NAME: a path outside, or an inherited descriptor."""
    devices: tuple[str, ...] = ()
    uid: int | None = None
    """Whom root becomes; None for an ordinary user."""
    gate: int | None = None
    """An inherited socket that gets the sockets for `listen`."""
    listen: tuple[tuple[Transport, int], ...] = ()
    parent: int = field(default_factory=os.getpid)

    def prefix(self) -> list[str]:
        """The words to put before QEMU's own."""
        return [sys.executable, "-I", "-S", enclosure_main.__file__, json.dumps(asdict(self))]


def uid_for(place: Path) -> int | None:
    """Whom root becomes for the machine whose files are at `place`; None if we are not root."""
    if os.geteuid() != 0:
        return None
    return _FIRST_UID + zlib.crc32(os.fsencode(place)) % _UIDS


def ports_of(network: Network | None) -> tuple[tuple[Transport, int], ...]:
    """Where the guest of such a network expects somebody to listen."""
    if not isinstance(network, Gated):
        return ()
    own: list[tuple[Transport, int]] = [("tcp", PROXY_PORT), ("udp", DNS_PORT), ("tcp", DNS_PORT)]
    return (*own, *(("tcp", port) for port in sorted(set(network.ports) - {PROXY_PORT, DNS_PORT})))


def check() -> None:
    """Try one with a program that does nothing. Raises StereoError that tells what this system refuses."""
    with tempfile.TemporaryDirectory(prefix="stereo-enclosure-") as folder:
        job = Job(root=folder, visible=host_folders(), uid=uid_for(Path(folder)))
        process.run([*job.prefix(), "/usr/bin/true"], timeout=30)


def refusal(child: Child) -> StereoError | None:
    """Why there is no enclosure, if that is what ended the child."""
    if child.status != enclosure_main.REFUSED:
        return None
    return StereoError(child.complaints(), hint="machines need namespaces; `stereo doctor` says what forbids them")


async def receive_gate(
    channel: socket.socket, ports: Sequence[tuple[Transport, int]]
) -> dict[tuple[Transport, int], socket.socket]:
    """The sockets that `enclosure_main` made. Raises StereoError if it failed; it said why on its stderr."""
    channel.settimeout(_GATE_SECONDS)
    try:
        _, numbers, _, _ = await asyncio.to_thread(socket.recv_fds, channel, 1, len(ports))
    except OSError as error:
        raise StereoError(f"no sockets from the enclosure of QEMU: {error}") from error
    received = [socket.socket(fileno=number) for number in numbers]
    for sock in received:
        sock.set_inheritable(False)  # as of all that Python opens; recv_fds drops its flags
    if len(received) != len(ports):
        for sock in received:
            sock.close()
        raise StereoError("no sockets from the enclosure of QEMU")
    return dict(zip(ports, received, strict=True))

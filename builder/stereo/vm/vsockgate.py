"""The gate of a machine that has no network card: unix sockets, to which its hypervisor leads the guest's vsock.

What makes `Gated` hold here is what there is not: without a card, and with no other port of the host's vsock answered,
nobody in the guest reaches anything but these sockets. There is no UDP: the guest's gateway asks for names by TCP.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from stereo.errors import StereoError
from stereo.vm.enclosure import ports_of as ports_of_network
from stereo.vm.machine import Network, Transport

Sockets = Mapping[tuple[Transport, int], socket.socket]

_BACKLOG = 128


def listen(network: Network | None, folder: Path) -> tuple[dict[tuple[Transport, int], socket.socket], dict[int, Path]]:
    """Sockets for `Machine.gate`, and where they are in `folder`, by the host's vsock port that leads to each.

    `folder` must be the caller's alone, and its path short; see unix(7). Without a `Gated` network there are none.
    Raises StereoError.
    """
    gate: dict[tuple[Transport, int], socket.socket] = {}
    paths = {port: folder / f"gate-{port}" for protocol, port in ports_of_network(network) if protocol == "tcp"}
    try:
        for port, path in paths.items():
            sock = gate["tcp", port] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(os.fspath(path))
            sock.listen(_BACKLOG)
    except OSError as error:
        for sock in gate.values():
            sock.close()
        raise StereoError(f"no socket for the egress gate: {error.strerror or error}", where=str(folder)) from error
    return gate, paths


def ports_of(gate: Sockets) -> tuple[int, ...]:
    """The host's vsock ports that lead to a gate; none if the guest reaches it by a network card."""
    return tuple(sorted(port for (_, port), sock in gate.items() if sock.family == socket.AF_UNIX))

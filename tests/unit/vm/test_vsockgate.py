"""The sockets of a gate that a machine without a network card reaches, and the real gate behind them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from makers.gate import Site, drain, site
from stereo.egress.client import Gate, read_log
from stereo.errors import StereoError
from stereo.model.egress import Rules
from stereo.vm import vsockgate
from stereo.vm.machine import Bridged, Gated, Nat, Network


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as made:
        yield made


def test_each_port_has_a_socket_of_its_own(tmp_path: Path) -> None:
    gate, paths = vsockgate.listen(Gated((8080, 53, 8080)), tmp_path)
    assert [*gate] == [("tcp", 3128), ("tcp", 53), ("tcp", 8080)]
    assert {*paths} == {3128, 53, 8080}
    assert vsockgate.ports_of(gate) == (53, 3128, 8080)
    for (_, port), listening in gate.items():
        with listening, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(paths[port]))
            listening.accept()[0].close()


@pytest.mark.parametrize("network", [None, Nat(), Bridged("br0")])
def test_where_nothing_is_gated_there_are_none(tmp_path: Path, network: Network | None) -> None:
    assert vsockgate.listen(network, tmp_path) == ({}, {})
    assert [*tmp_path.iterdir()] == []


def test_a_gate_that_is_reached_by_a_card_has_no_vsock_ports() -> None:
    with socket.socket() as one:
        assert vsockgate.ports_of({("tcp", 3128): one}) == ()


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(StereoError, match="no socket for the egress gate"):
        vsockgate.listen(Gated(), folder)


def ask(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return drain(client)


def test_the_real_gate_serves_them(tmp_path: Path, web: Site) -> None:
    gate, paths = vsockgate.listen(Gated((web.port,)), tmp_path)
    name = "host.stereo.internal"
    open_, shut = (
        f"GET http://{name}:{port}/1 HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
        for port in (web.port, 9)
    )
    direct = f"GET /2 HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)

    async def scenario() -> list[bytes]:
        sockets = {(str(protocol), port): sock for (protocol, port), sock in gate.items()}
        async with Gate.start(sockets, Rules.parse([f"{name}:{web.port}"]), tmp_path / "log"):
            asked = [(3128, open_), (3128, shut), (web.port, direct), (53, struct.pack("!H", len(query)) + query)]
            return [await asyncio.to_thread(ask, paths[port], data) for port, data in asked]

    through, refused, relayed, told = asyncio.run(scenario())
    for sock in gate.values():
        sock.close()
    assert b"hello" in through
    assert refused.startswith(b"HTTP/1.1 403")
    assert b"hello" in relayed
    assert told.endswith(bytes([10, 0, 2, 2]))
    assert {"allowed", "refused", "closed"} == {row["verdict"] for row in read_log(tmp_path / "log")}

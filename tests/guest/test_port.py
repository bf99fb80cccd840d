"""The port to the host: found, announced on, kept through hosts that come, go, flood and break off.

A socket pair stands in for the port. What only a virtio port does (POLLHUP while no host is there, and its end when one
comes) is played by handing `Port` the events that the kernel would.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stereos_guest import protocol
from stereos_guest.hosts import Hosts
from stereos_guest.loop import Loop
from stereos_guest.port import Port, PortWatch, find
from stereos_guest.session import Session

if TYPE_CHECKING:
    from stereos_guest.session import Handler

COMES = select.EPOLLOUT
LEAVES = select.EPOLLHUP | select.EPOLLIN
ARRIVES = select.EPOLLIN | select.EPOLLOUT
HELLO = b"hello\n"
PING, PONG = protocol.encode("ping"), protocol.pong()


def make_port(near: socket.socket, handlers: Mapping[str, Handler], on_lost: Callable[[], None]) -> Port:
    loop = Loop()
    return Port(near.fileno(), loop, Hosts(loop, handlers), lambda: HELLO, on_lost)


class Bench:
    """A port with its far end in hand."""

    def __init__(self) -> None:
        near, self.host = socket.socketpair()
        self.host.settimeout(5)
        near.setblocking(False)
        self.near = near
        self.lost = 0
        self.port = make_port(near, {"ping": lambda message, session: protocol.pong()}, self._lose)

    def _lose(self) -> None:
        self.lost += 1

    def heard(self) -> bytes:
        self.host.setblocking(False)
        heard = b""
        try:
            while data := self.host.recv(1 << 16):
                heard += data
        except BlockingIOError:
            pass
        return heard


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.near.close()
    bench.host.close()


def make_port_tree(root: Path, **names: str) -> None:
    (root / "dev").mkdir()
    for entry, name in names.items():
        (root / "sys/class/virtio-ports" / entry).mkdir(parents=True)
        (root / "sys/class/virtio-ports" / entry / "name").write_text(name + "\n")


def test_the_port_is_found_by_its_name(tmp_path: Path) -> None:
    make_port_tree(tmp_path, vport0p0="console", vport1p1=protocol.PORT_NAME, vport1p2=protocol.PORT_NAME + ".other")
    assert find(root=str(tmp_path)) == f"{tmp_path}/dev/vport1p1"


def test_without_ports_none_is_found(tmp_path: Path) -> None:
    assert find(root=str(tmp_path)) is None
    (tmp_path / "sys/class/virtio-ports/nameless").mkdir(parents=True)
    assert find(root=str(tmp_path)) is None


def test_a_host_that_comes_is_told_the_state_first(bench: Bench) -> None:
    bench.host.send(PING)
    bench.port.handle(ARRIVES)
    assert bench.heard() == HELLO + PONG


def test_nothing_is_said_while_no_host_is_there(bench: Bench) -> None:
    bench.port.handle(LEAVES)
    assert bench.heard() == b""
    assert not bench.port.connected


def test_every_host_that_comes_is_told(bench: Bench) -> None:
    for events in (LEAVES, COMES, LEAVES, COMES):
        bench.port.handle(events)
    assert bench.heard() == HELLO * 2


def test_the_host_is_told_once_however_many_events_there_are(bench: Bench) -> None:
    for _ in range(5):
        bench.port.handle(COMES)
    assert bench.heard() == HELLO


def test_half_a_line_of_a_former_host_does_not_spoil_the_next_one(bench: Bench) -> None:
    bench.port.handle(COMES)
    bench.host.send(b'{"type":"pi')
    bench.port.handle(ARRIVES | select.EPOLLHUP)
    bench.heard()
    bench.host.send(PING)
    bench.port.handle(ARRIVES)
    assert bench.heard() == HELLO + PONG


def test_a_request_sent_just_before_leaving_is_still_done(bench: Bench) -> None:
    done: list[str] = []

    def note(message: protocol.Message, session: Session) -> bytes:
        done.append(message.type)
        return protocol.ack(message.type)

    port = make_port(bench.near, {"ping": note}, bench._lose)
    bench.host.send(PING)
    port.handle(LEAVES)
    assert done == ["ping"]


def test_a_line_cut_by_a_leaving_host_is_ended_for_the_next(bench: Bench) -> None:
    def long(message: protocol.Message, session: Session) -> bytes:
        return b"x" * 300_000 + b"\n"

    bench.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    port = make_port(bench.near, {"ping": long}, bench._lose)
    bench.host.send(PING)
    port.handle(ARRIVES)
    port.handle(LEAVES)
    assert bench.heard().endswith(b"xxx")
    port.handle(COMES)
    assert bench.heard() == b"\n" + HELLO


def test_a_host_that_does_not_listen_is_not_read_on(bench: Bench) -> None:
    flood = PING * 4000
    bench.port.handle(COMES)
    bench.host.setblocking(False)
    sent = 0
    for _ in range(1000):
        try:
            sent += bench.host.send(flood)
        except BlockingIOError:
            break
        bench.port.handle(ARRIVES)
    else:
        pytest.fail("the port swallowed everything")


def test_a_flood_does_not_keep_the_port_from_letting_go(bench: Bench) -> None:
    bench.near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    bench.host.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    bench.host.setblocking(False)
    try:
        while True:
            bench.host.send((b" " * 1023 + b"\n") * 64)
    except BlockingIOError:
        pass
    turns = 0
    while bench.port.handle(ARRIVES):
        turns += 1
    assert turns >= 1


def test_an_unplugged_port_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> bytes:
        raise OSError(19, "No such device")

    monkeypatch.setattr("posix.read", gone)
    bench.port.handle(LEAVES)
    assert bench.lost == 1


def test_a_port_without_a_host_costs_no_turns_of_the_loop() -> None:
    loop = Loop()
    near, host = socket.socketpair()
    near.setblocking(False)
    port = Port(near.fileno(), loop, Hosts(loop, {}), lambda: HELLO, lambda: None)
    loop.add(near.fileno(), port)
    host.close()
    calls = 0
    handle = port.handle

    def counted(events: int) -> bool:
        nonlocal calls
        calls += 1
        return handle(events)

    port.handle = counted  # type: ignore[method-assign]
    for _ in range(20):
        loop.turn(0.01)
    assert calls <= 2
    loop.close()
    near.close()


def test_the_port_is_taken_once_it_appears(tmp_path: Path) -> None:
    loop = Loop()
    watch = PortWatch(loop, Hosts(loop, {}), lambda: HELLO, str(tmp_path))
    watch.search()
    assert watch.port is None
    master, slave = os.openpty()
    make_port_tree(tmp_path, vport1p1=protocol.PORT_NAME)
    (tmp_path / "dev/vport1p1").symlink_to(os.ttyname(slave))
    for _ in range(100):
        loop.turn(0.1)
        if watch.port and watch.port.connected:
            break
    assert os.read(master, 100).startswith(b"hello")
    loop.close()
    os.close(master)
    os.close(slave)

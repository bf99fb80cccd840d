"""The gateway between real sockets: TCP on loopback as in the guest, unix sockets in the place of the host's vsock."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stereos_guest import gateway
from stereos_guest.loop import Loop

SECONDS = 20.0
MEGABYTE = os.urandom(1 << 20)


class Host:
    """What the host serves, by port; where it serves nothing, nobody answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listening: dict[int, socket.socket] = {}

    def serve(self, port: int) -> None:
        sock = self.listening[port] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(self.folder / str(port)))
        sock.listen(64)
        sock.settimeout(SECONDS)

    def take(self, port: int) -> socket.socket:
        """The next connection that the gateway leads to a port."""
        sock, _ = self.listening[port].accept()
        sock.settimeout(SECONDS)
        return sock

    def to_host(self, port: int) -> socket.socket:
        """In the place of `gateway.to_host`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(str(self.folder / str(port)))
        except OSError:
            sock.close()
            raise
        return sock


def free_port() -> int:
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        return int(tcp.getsockname()[1])


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    one = Host(tmp_path)
    monkeypatch.setattr(gateway, "to_host", one.to_host)
    yield one
    for sock in one.listening.values():
        sock.close()


@pytest.fixture
def ports(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """One that is served, which is also where names are asked for; and one that nobody serves."""
    served, silent = free_port(), free_port()
    monkeypatch.setattr(gateway, "DNS", served)
    host.serve(served)
    one = gateway.Gateway(Loop())
    one.listen("127.0.0.1", [served, silent])
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            one.loop.turn(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    yield served, silent
    over.set()
    thread.join()
    for source in {*one.loop._sources.values()}:
        if isinstance(source, gateway._Pair | gateway._Query):
            source.close()
    for source in {*one.loop._sources.values()}:
        (source._listening if isinstance(source, gateway._Door) else source.listening).close()  # type: ignore[attr-defined]
    one.loop.close()


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def drained(sock: socket.socket) -> bytes:
    found = bytearray()
    while piece := sock.recv(1 << 16):
        found += piece
    return bytes(found)


def test_bytes_go_both_ways_whole_though_nobody_reads_for_a_while(host: Host, ports: tuple[int, int]) -> None:
    with dial(ports[0]) as near, host.take(ports[0]) as far:
        writers = [threading.Thread(target=sock.sendall, args=(MEGABYTE * 8,)) for sock in (near, far)]
        for writer in writers:
            writer.start()
        received = {}

        def read(sock: socket.socket) -> None:
            found = bytearray()
            while len(found) < len(MEGABYTE) * 8:
                found += sock.recv(1 << 16)
            received[sock] = bytes(found)

        readers = [threading.Thread(target=read, args=(sock,)) for sock in (near, far)]
        for thread in readers:
            thread.start()
        for thread in (*writers, *readers):
            thread.join(SECONDS * 3)
        assert {data == MEGABYTE * 8 for data in received.values()} == {True}


def test_each_direction_ends_by_itself(host: Host, ports: tuple[int, int]) -> None:
    with dial(ports[0]) as near, host.take(ports[0]) as far:
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        assert drained(far) == b"question"
        far.sendall(b"answer")
        far.close()
        assert drained(near) == b"answer"


def test_what_the_host_ends_first_is_passed_on_whole(host: Host, ports: tuple[int, int]) -> None:
    with dial(ports[0]) as near, host.take(ports[0]) as far:
        far.sendall(MEGABYTE)
        far.close()
        assert drained(near) == MEGABYTE


def test_what_was_cut_off_does_not_look_whole(host: Host, ports: tuple[int, int]) -> None:
    with dial(ports[0]) as near, host.take(ports[0]) as far:
        near.sendall(b"never read")
        far.sendall(b"half an ans")
        assert near.recv(100)
        time.sleep(0.05)
        far.close()  # with something unread: that resets it, see unix(7)
        with pytest.raises(ConnectionResetError):
            near.recv(100)


def test_where_the_host_serves_nothing_the_connection_ends_and_others_go_on(host: Host, ports: tuple[int, int]) -> None:
    with dial(ports[0]) as near, host.take(ports[0]) as far:
        with dial(ports[1]) as refused, suppress(ConnectionResetError):
            assert refused.recv(1) == b""
        near.sendall(b"x")
        assert far.recv(1) == b"x"


def test_a_host_that_is_late_is_tried_again_and_in_the_end_given_up(
    host: Host, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 3
    tries: list[int] = []

    class Late(socket.socket):
        def getsockopt(self, *_: int) -> int:  # type: ignore[override]
            return errno.ETIMEDOUT

    def to_host(port: int) -> socket.socket:
        tries.append(port)
        if len(tries) <= late:
            return Late(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        return host.to_host(port)

    monkeypatch.setattr(gateway, "to_host", to_host)
    with dial(ports[0]) as near, host.take(ports[0]) as far:
        far.sendall(b"here")
        assert near.recv(4) == b"here"
    assert tries == [ports[0]] * (late + 1)
    late = 1000
    with pytest.raises(ConnectionResetError), dial(ports[0]) as near:
        near.recv(1)
    assert len(tries) == 4 + gateway._MOST_TRIES


def test_of_too_many_connections_the_last_are_turned_away(
    host: Host, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_MOST_PAIRS", 1)
    with dial(ports[0]) as near, host.take(ports[0]) as far:
        near.sendall(b"x")
        assert far.recv(1) == b"x"
        with dial(ports[0]) as refused, suppress(ConnectionResetError):
            assert refused.recv(1) == b""
        near.sendall(b"y")
        assert far.recv(1) == b"y"


# --- names ---


def query(port: int, words: bytes) -> socket.socket:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.settimeout(SECONDS)
    asking.sendto(words, ("127.0.0.1", port))
    return asking


def test_a_query_by_udp_goes_by_tcp_and_its_answer_comes_back(host: Host, ports: tuple[int, int]) -> None:
    with query(ports[0], b"who is it") as asking, host.take(ports[0]) as far:
        assert far.recv(100) == b"\0\x09who is it"
        answer = struct.pack("!H", 700) + b"a" * 700
        for cut in (answer[:1], answer[1:400], answer[400:]):
            far.sendall(cut)
            time.sleep(0.01)
        assert asking.recv(2000) == b"a" * 700


def test_each_who_asks_gets_its_own_answer(host: Host, ports: tuple[int, int]) -> None:
    asked = [query(ports[0], b"%d" % number) for number in range(20)]
    for _ in asked:
        with host.take(ports[0]) as far:
            far.sendall(
                struct.pack("!H", 3) + b"re " + far.recv(100)[2:]
            )  # longer than it says, which is not passed on
    for asking in asked:
        with asking:
            assert asking.recv(100) == b"re "


def test_a_query_that_the_host_does_not_answer_has_none(host: Host, ports: tuple[int, int]) -> None:
    with query(ports[0], b"one") as first, query(ports[0], b"x" * 4097):
        host.take(ports[0]).close()
        with query(ports[0], b"two") as second, host.take(ports[0]) as far:
            assert far.recv(100) == b"\0\3two", "what is too long was not passed on"
            far.sendall(b"\0\2ok")
            assert second.recv(10) == b"ok"
        first.settimeout(0.1)
        with pytest.raises(TimeoutError):
            first.recv(10)


def test_a_query_that_hangs_is_given_up(host: Host, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_QUERY_SECONDS", 0.0)
    monkeypatch.setattr(gateway, "_SWEEP_SECONDS", 0.1)
    with query(ports[0], b"one"), host.take(ports[0]) as far:
        assert far.recv(100) == b"\0\3one"
        assert far.recv(100) == b""

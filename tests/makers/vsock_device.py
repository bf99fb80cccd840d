"""A vsock device for QEMU's vhost-user-vsock-pci, so that a guest has vsock where the host has no /dev/vhost-vsock.

    python -m makers.vsock_device --frontend PATH [--connect PORT[@CID]=PATH]... [--listen PORT=PATH]...

`frontend` is where QEMU connects to (`-chardev socket,path=PATH`), its guest's memory shared (memfd, share=on). With
`connect`, each connection to a unix socket becomes one to that port of the guest, from the host or, for tests, from
who claims to have another CID. With `listen`, each connection of the guest's to that port of the host becomes one to a
unix socket. Every other is reset. Streams alone; see the virtio specification 1.2, section 5.10.

It ends when QEMU does. Beside a test or program of asyncio's, `serve` does the same.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from makers.vhost_user import Backend, Broken

HOST, GUEST = 2, 3
_RX, _TX = 0, 1
_HEADER = struct.Struct("<QQIIIHHIII")  # CIDs, ports, length, type, operation, flags, buffer size, bytes forwarded
_STREAM = 1
_REQUEST, _RESPONSE, _RST, _SHUTDOWN, _RW, _CREDIT_UPDATE, _CREDIT_REQUEST = range(1, 8)
_NO_RECEIVE, _NO_SEND = 1, 2
_BUFFER = 256 << 10  # bytes that we take of a connection before its reader does
_CHUNK = 64 << 10
_FIRST_PORT, _PORTS = 1 << 20, 1 << 30  # the host's end of connections to the guest
_MOST_WAITING = 1024  # packets that the guest does not take, before we take no more of it
_BACKLOG = 64
_U32 = 0xFFFFFFFF

Key = tuple[int, int, int]
"""Of a connection: the CID and port of the far end, the port of the guest."""


@dataclass
class _Packet:
    """One that waits for a buffer of the guest's."""

    key: Key
    operation: int
    flags: int = 0
    data: bytes | memoryview = b""


class _Connection:
    """One vsock connection, and the socket that it is carried on to. It reads only what the guest has room for."""

    def __init__(self, device: Device, key: Key, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._device, self.key, self._sock = device, key, sock
        self._loop = asyncio.get_running_loop()
        self.open = False
        self.forwarded = 0  # bytes of the guest's that its reader has taken
        self._told = 0
        self._received = 0
        self._sent = 0
        self._peer_buffer = self._peer_forwarded = 0
        self._unwritten = bytearray()
        self._shut = 0  # what the guest does no more
        self._ended = False  # whether the socket has nothing more to say
        self._reading = self._writing = False

    def credit(self, buffer: int, forwarded: int) -> None:
        """What each packet of the guest's tells."""
        self._peer_buffer, self._peer_forwarded = buffer, forwarded

    @property
    def _room(self) -> int:
        return self._peer_buffer - ((self._sent - self._peer_forwarded) & _U32)

    def hear(self, operation: int, flags: int, data: bytes) -> None:
        """A packet of the guest's."""
        if operation == _RESPONSE and not self.open:
            self.open = True
        elif operation == _RST:
            self.close()
        elif not self.open:
            self.reset()
        elif operation == _RW:
            self._received += len(data)
            if self._received - self.forwarded > _BUFFER:
                self.reset()  # it was told how much it may send
                return
            self._unwritten += data
            self._write()
        elif operation == _SHUTDOWN:
            self._shut |= flags & (_NO_RECEIVE | _NO_SEND)
            self._write()
        elif operation == _CREDIT_REQUEST:
            self._device.send(_Packet(self.key, _CREDIT_UPDATE))
        elif operation != _CREDIT_UPDATE:
            self.reset()

    def turn(self) -> None:
        """Read while there is somebody to read for."""
        wanted = self.open and not self._ended and self._room > 0 and not self._device.crowded
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._sock.fileno(), self._device.guarded, self._read)
            else:
                self._loop.remove_reader(self._sock.fileno())

    def reset(self) -> None:
        self._device.send(_Packet(self.key, _RST))
        self.close()

    def close(self) -> None:
        """Nothing comes of it any more."""
        if self._device.connections.pop(self.key, None):
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(min(_CHUNK, self._room))
        except BlockingIOError:
            return
        except OSError:
            self.reset()
            return
        if data:
            self._sent = (self._sent + len(data)) & _U32
            self._device.send(_Packet(self.key, _RW, data=memoryview(data)))
        else:
            self._ended = True
            poll = select.poll()
            poll.register(self._sock, 0)
            gone = any(events & select.POLLHUP for _, events in poll.poll(0))  # both directions, not only this one
            self._device.send(_Packet(self.key, _SHUTDOWN, _NO_SEND | (_NO_RECEIVE if gone else 0)))
        self.turn()

    def _write(self) -> None:
        try:
            while self._unwritten:
                written = self._sock.send(self._unwritten)
                del self._unwritten[:written]
                self.forwarded += written
        except BlockingIOError:
            pass
        except OSError:
            self.reset()
            return
        if bool(self._unwritten) != self._writing:
            self._writing = bool(self._unwritten)
            if self._writing:
                self._loop.add_writer(self._sock.fileno(), self._device.guarded, self._write)
            else:
                self._loop.remove_writer(self._sock.fileno())
        if self.forwarded - self._told >= _BUFFER // 2:
            self._device.send(_Packet(self.key, _CREDIT_UPDATE))
        if not self._unwritten:
            self._part()

    def _part(self) -> None:
        """The guest has said all, and it has been passed on."""
        if self._shut == _NO_SEND | _NO_RECEIVE or (self._shut & _NO_SEND and self._ended):
            with suppress(OSError):
                while self._sock.recv(_CHUNK):  # what is left unread would turn the end into a reset, see unix(7)
                    pass
            self.reset()
        elif self._shut & _NO_SEND:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def tell(self) -> tuple[int, int]:
        """The guest's credit, as it is told now."""
        self._told = self.forwarded
        return _BUFFER, self.forwarded & _U32


class Device:
    """The device of one QEMU, and its connections."""

    def __init__(self, frontend: socket.socket, listen: Mapping[int, Path], guest_cid: int = GUEST) -> None:
        self.connections: dict[Key, _Connection] = {}
        self._listen = listen
        self._cid = guest_cid
        self._waiting: deque[_Packet] = deque()
        self._ports = itertools.count()
        self.backend = Backend(frontend, 2, struct.pack("<Q", guest_cid), self._kicked, self._close_all)

    @property
    def crowded(self) -> bool:
        """Whether the guest does not take what is sent."""
        return bool(self._waiting)

    def connect(self, sock: socket.socket, port: int, cid: int = HOST) -> None:
        """Carry a socket on to the guest's port. It is closed when the guest does not take it."""
        if not self.backend.queues[_RX].works:
            sock.close()
            return
        key = (cid, _FIRST_PORT + next(self._ports) % _PORTS, port)
        self.connections[key] = _Connection(self, key, sock)
        self.send(_Packet(key, _REQUEST))

    def send(self, packet: _Packet) -> None:
        """Send it as soon as the guest has a buffer."""
        self._waiting.append(packet)
        self._fill()

    def guarded(self, do: object) -> None:
        """Run what handles an event; what breaks the device ends it."""
        try:
            assert callable(do)
            do()
        except Exception as error:
            self.backend.fail(error)

    def _kicked(self, queue: int) -> None:
        self._fill()
        self._drain()
        for connection in tuple(self.connections.values()):
            connection.turn()

    def _close_all(self) -> None:
        self._waiting.clear()
        for connection in tuple(self.connections.values()):
            connection.close()

    def _fill(self) -> None:
        """Put waiting packets into the guest's buffers."""
        queue = self.backend.queues[_RX]
        if not queue.works:
            return
        some = False
        while self._waiting and (buffer := queue.take()):
            if buffer.room <= _HEADER.size:
                raise Broken("a buffer without room for a packet")
            packet = self._waiting[0]
            piece = packet.data[: buffer.room - _HEADER.size]
            packet.data = packet.data[len(piece) :]
            if not packet.data:
                self._waiting.popleft()
            buffer.write(self._header(packet, len(piece)) + bytes(piece))
            queue.give(buffer, _HEADER.size + len(piece))
            some = True
        if some:
            queue.tell()

    def _header(self, packet: _Packet, length: int) -> bytes:
        cid, port, guest_port = packet.key
        connection = self.connections.get(packet.key)
        credit = connection.tell() if connection else (0, 0)
        kind = (_STREAM, packet.operation, packet.flags)
        return _HEADER.pack(cid, self._cid, port, guest_port, length, *kind, *credit)

    def _drain(self) -> None:
        """Take the guest's packets, as long as it takes ours."""
        queue = self.backend.queues[_TX]
        some = False
        while queue.works and len(self._waiting) < _MOST_WAITING and (buffer := queue.take()):
            packet = buffer.read()
            queue.give(buffer, 0)
            some = True
            self._hear(packet)
        if some and queue.works:
            queue.tell()

    def _hear(self, packet: bytes) -> None:
        if len(packet) < _HEADER.size:
            raise Broken("a packet without a header")
        source, cid, guest_port, port, length, kind, operation, flags, buffer, forwarded = _HEADER.unpack_from(packet)
        if source != self._cid:
            return
        key = (cid, port, guest_port)
        connection = self.connections.get(key)
        if connection and kind == _STREAM:
            connection.credit(buffer, forwarded)
            connection.hear(operation, flags, packet[_HEADER.size : _HEADER.size + length])
            if key in self.connections:
                connection.turn()
        elif (kind, cid, operation) == (_STREAM, HOST, _REQUEST) and port in self._listen:
            self._accept(key, buffer, forwarded)
        elif operation != _RST:
            self.send(_Packet(key, _RST))

    def _accept(self, key: Key, buffer: int, forwarded: int) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(os.fspath(self._listen[key[1]]))
        except OSError:  # nobody there, or too many
            sock.close()
            self.send(_Packet(key, _RST))
            return
        connection = self.connections[key] = _Connection(self, key, sock)
        connection.open = True
        connection.credit(buffer, forwarded)
        self.send(_Packet(key, _RESPONSE))
        connection.turn()


async def serve(
    frontend: socket.socket,
    *,
    connect: Mapping[Path, tuple[int, int]] | None = None,
    listen: Mapping[int, Path] | None = None,
    guest_cid: int = GUEST,
) -> None:
    """Be the device of the QEMU at the other end of `frontend` until it hangs up.

    `connect` has sockets to make, with the guest's port and the CID that their connections come from; `listen` has
    ports of the host, with the sockets that listen for them. Raises OSError, Broken.
    """
    loop = asyncio.get_running_loop()
    device = Device(frontend, listen or {}, guest_cid)
    doors: list[socket.socket] = []

    def come_in(door: socket.socket, port: int, cid: int) -> None:
        with suppress(BlockingIOError):
            while True:
                device.connect(door.accept()[0], port, cid)

    try:
        for path, (port, cid) in (connect or {}).items():
            door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            doors.append(door)
            door.bind(os.fspath(path))
            door.listen(_BACKLOG)
            door.setblocking(False)
            loop.add_reader(door.fileno(), come_in, door, port, cid)
        await device.backend.serve()
    finally:
        for door in doors:
            loop.remove_reader(door.fileno())
            door.close()
        for path in connect or {}:
            path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="makers.vsock_device")
    parser.add_argument("--frontend", type=Path, required=True)
    parser.add_argument("--connect", action="append", default=[])
    parser.add_argument("--listen", action="append", default=[])
    options = parser.parse_args()
    connect = {}
    for text in options.connect:
        place, _, path = text.partition("=")
        port, _, cid = place.partition("@")
        connect[Path(path)] = (int(port), int(cid or HOST))
    listen = {int(port): Path(path) for port, _, path in (text.partition("=") for text in options.listen)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(os.fspath(options.frontend))
        door.listen(1)
        frontend = door.accept()[0]
    with frontend:
        asyncio.run(serve(frontend, connect=connect, listen=listen))


if __name__ == "__main__":
    main()

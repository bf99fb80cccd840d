"""The back-end side of vhost-user: a virtio device in a process beside QEMU, working on the guest's memory itself.

What it needs, no more: split virtqueues without indirect descriptors and without event indices, a configuration space
that the guest only reads, no migration. See docs/interop/vhost-user.rst of QEMU, and the virtio specification 1.2,
section 2.7. Where the guest's memory model were weaker than the host's, stores would need barriers that Python lacks;
under TCG, and on x86-64, they do not.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

_VERSION, _REPLY, _NEED_REPLY = 1, 1 << 2, 1 << 3
_HEADER = struct.Struct("<III")  # request, flags, size
_MOST_FDS = 8
_LARGEST_MESSAGE = 4096  # bytes

(_GET_FEATURES, _SET_FEATURES, _SET_OWNER, _RESET_OWNER, _SET_MEM_TABLE) = range(1, 6)
(_SET_VRING_NUM, _SET_VRING_ADDR, _SET_VRING_BASE, _GET_VRING_BASE, _SET_VRING_KICK, _SET_VRING_CALL) = range(8, 14)
(_SET_VRING_ERR, _GET_PROTOCOL_FEATURES, _SET_PROTOCOL_FEATURES, _GET_QUEUE_NUM, _SET_VRING_ENABLE) = range(14, 19)
_GET_CONFIG = 24

_F_VERSION_1, _F_PROTOCOL_FEATURES = 1 << 32, 1 << 30
_PROTOCOL_MQ, _PROTOCOL_REPLY_ACK, _PROTOCOL_CONFIG = 1 << 0, 1 << 3, 1 << 9
_CONFIG_HEADER = struct.Struct("<III")  # offset, size, flags

_REGION = struct.Struct("<QQQQ")  # guest address, size, address in QEMU, offset in the file
_DESCRIPTOR = struct.Struct("<QIHH")  # guest address, length, flags, next
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_PIECES = 1024  # of one buffer, more than any queue of ours has


class Broken(Exception):  # noqa: N818 - reads as what happened
    """What QEMU or the guest's driver said cannot be followed."""


@dataclass(frozen=True)
class _Region:
    guest: int
    size: int
    user: int
    memory: mmap.mmap


@dataclass
class Memory:
    """The guest's memory, as far as QEMU has lent it."""

    regions: list[_Region] = field(default_factory=list)

    def lend(self, payload: bytes, fds: Sequence[int]) -> None:
        """Replace it by what the message says."""
        self.close()
        (count,) = struct.unpack_from("<I", payload)
        if count != len(fds):
            raise Broken(f"{count} regions of memory with {len(fds)} descriptors")
        for number, fd in enumerate(fds):
            guest, size, user, offset = _REGION.unpack_from(payload, 8 + number * _REGION.size)
            self.regions.append(_Region(guest, size, user, mmap.mmap(fd, size, offset=offset)))

    def close(self) -> None:
        for region in self.regions:
            region.memory.close()
        self.regions.clear()

    def at(self, address: int, length: int) -> tuple[mmap.mmap, int]:
        """The memory at an address of the guest's, and where in it."""
        for region in self.regions:
            if region.guest <= address and address + length <= region.guest + region.size:
                return region.memory, address - region.guest
        raise Broken(f"no memory at {address:#x}")

    def at_user(self, address: int, length: int) -> tuple[mmap.mmap, int]:
        """The same for an address of QEMU's."""
        for region in self.regions:
            if region.user <= address and address + length <= region.user + region.size:
                return region.memory, address - region.user
        raise Broken(f"no memory at QEMU's {address:#x}")


@dataclass
class Buffer:
    """A buffer that the driver has made available: pieces of memory to read from, and others to write to."""

    head: int
    readable: list[tuple[mmap.mmap, int, int]] = field(default_factory=list)
    writable: list[tuple[mmap.mmap, int, int]] = field(default_factory=list)

    @property
    def room(self) -> int:
        return sum(length for _, _, length in self.writable)

    def read(self) -> bytes:
        return b"".join(memory[at : at + length] for memory, at, length in self.readable)

    def write(self, data: bytes) -> None:
        for memory, at, length in self.writable:
            piece, data = data[:length], data[length:]
            memory[at : at + len(piece)] = piece


class Queue:
    """A split virtqueue."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.size = 0
        self.addresses = (0, 0, 0)  # descriptors, used, available, where QEMU has them
        self.next = 0
        self.enabled = False
        self.kick = -1
        self.call = -1

    @property
    def works(self) -> bool:
        return self.enabled and self.size > 0 and self.kick >= 0

    def take(self) -> Buffer | None:
        """The next buffer that the driver offers."""
        available, base = self._memory.at_user(self.addresses[2], 4 + 2 * self.size)
        if struct.unpack_from("<H", available, base + 2)[0] == self.next:
            return None
        (head,) = struct.unpack_from("<H", available, base + 4 + 2 * (self.next % self.size))
        self.next = (self.next + 1) & 0xFFFF
        return self._chain(head)

    def give(self, buffer: Buffer, written: int) -> None:
        """Return a buffer. Follow it by `tell`."""
        used, base = self._memory.at_user(self.addresses[1], 4 + 8 * self.size)
        (index,) = struct.unpack_from("<H", used, base + 2)
        struct.pack_into("<II", used, base + 4 + 8 * (index % self.size), buffer.head, written)
        struct.pack_into("<H", used, base + 2, (index + 1) & 0xFFFF)

    def tell(self) -> None:
        """Interrupt the guest, who may say that it need not be; see section 2.7.7.2 on why that is a race otherwise."""
        if self.call >= 0:
            os.eventfd_write(self.call, 1)

    def _chain(self, head: int) -> Buffer:
        table, base = self._memory.at_user(self.addresses[0], _DESCRIPTOR.size * self.size)
        buffer, number = Buffer(head), head
        for _ in range(min(self.size, _PIECES)):
            if number >= self.size:
                raise Broken("a descriptor that the queue does not have")
            address, length, flags, following = _DESCRIPTOR.unpack_from(table, base + _DESCRIPTOR.size * number)
            if flags & _INDIRECT:
                raise Broken("an indirect descriptor, which was not negotiated")
            memory, at = self._memory.at(address, length)
            (buffer.writable if flags & _WRITE else buffer.readable).append((memory, at, length))
            if not flags & _NEXT:
                return buffer
            number = following
        raise Broken("a chain of descriptors without an end")


class Backend:
    """Follows one QEMU: hands over its queues to `kicked` when the guest has put something into one.

    `stopped` is called when a queue is not to be used any more. Everything happens in the running event loop.
    """

    def __init__(
        self,
        frontend: socket.socket,
        queues: int,
        config: bytes,
        kicked: Callable[[int], None],
        stopped: Callable[[], None],
    ) -> None:
        self.memory = Memory()
        self.queues = [Queue(self.memory) for _ in range(queues)]
        self._frontend = frontend
        self._config = config
        self._kicked, self._stopped = kicked, stopped
        self._loop = asyncio.get_running_loop()
        self._protocol = 0
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def serve(self) -> None:
        """Until QEMU hangs up. Raises Broken."""
        self._frontend.setblocking(True)  # a message comes whole, in one sendmsg(2)
        self._loop.add_reader(self._frontend.fileno(), self._guarded, self._hear)
        try:
            await self._ended
        finally:
            self._loop.remove_reader(self._frontend.fileno())
            for queue in self.queues:
                self._stop(queue)
                self._replace(queue, "call", -1)
            self.memory.close()

    def fail(self, error: BaseException) -> None:
        """Nothing works any more."""
        if not self._ended.done():
            self._ended.set_exception(error)

    def _guarded(self, do: Callable[..., None], *words: object) -> None:
        try:
            do(*words)
        except Exception as error:
            self.fail(error)

    def _hear(self) -> None:
        try:
            head, fds, _, _ = socket.recv_fds(self._frontend, _HEADER.size, _MOST_FDS, socket.MSG_WAITALL)
        except ConnectionError:
            head, fds = b"", []
        if not head:
            if not self._ended.done():
                self._ended.set_result(None)
            return
        for fd in fds:
            os.set_inheritable(fd, False)
        request, flags, size = _HEADER.unpack(head)
        if flags & 3 != _VERSION or size > _LARGEST_MESSAGE:
            raise Broken("no message of vhost-user")
        payload = self._frontend.recv(size, socket.MSG_WAITALL) if size else b""
        kept: set[int] = set()
        answer = self._obey(request, payload, fds, kept)
        for fd in set(fds) - kept:
            os.close(fd)
        if answer is None and flags & _NEED_REPLY and self._protocol & _PROTOCOL_REPLY_ACK:
            answer = bytes(8)
        if answer is not None:
            self._frontend.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(answer)) + answer)

    def _obey(self, request: int, payload: bytes, fds: Sequence[int], kept: set[int]) -> bytes | None:
        """What to answer. Descriptors that are not `kept` are closed."""
        if request == _GET_FEATURES:
            return struct.pack("<Q", _F_VERSION_1 | _F_PROTOCOL_FEATURES)
        if request == _GET_PROTOCOL_FEATURES:
            return struct.pack("<Q", _PROTOCOL_MQ | _PROTOCOL_REPLY_ACK | _PROTOCOL_CONFIG)
        if request == _SET_PROTOCOL_FEATURES:
            (self._protocol,) = struct.unpack("<Q", payload)
        elif request == _GET_QUEUE_NUM:
            return struct.pack("<Q", len(self.queues))
        elif request == _GET_CONFIG:
            offset, size, _ = _CONFIG_HEADER.unpack_from(payload)
            return payload[: _CONFIG_HEADER.size] + self._config[offset : offset + size].ljust(size, b"\0")
        elif request == _SET_MEM_TABLE:
            self.memory.lend(payload, fds)
        elif request in (_SET_VRING_KICK, _SET_VRING_CALL):
            (word,) = struct.unpack("<Q", payload)
            queue, fd = self.queues[word & 0xFF], fds[0] if fds else -1
            kept.update(fds[:1])
            self._replace(queue, "kick" if request == _SET_VRING_KICK else "call", fd)
        elif request == _SET_VRING_ADDR:
            number, _, descriptors, used, available, _ = struct.unpack("<IIQQQQ", payload)
            self.queues[number].addresses = (descriptors, used, available)
        elif request in (_SET_VRING_NUM, _SET_VRING_BASE, _SET_VRING_ENABLE, _GET_VRING_BASE):
            return self._state(request, *struct.unpack("<II", payload))
        elif request not in (_SET_FEATURES, _SET_OWNER, _RESET_OWNER, _SET_VRING_ERR):
            raise Broken(f"a request that was not negotiated: {request}")
        return None

    def _state(self, request: int, number: int, value: int) -> bytes | None:
        queue = self.queues[number]
        if request == _SET_VRING_NUM:
            queue.size = value
        elif request == _SET_VRING_BASE:
            queue.next = value
        elif request == _SET_VRING_ENABLE:
            queue.enabled = bool(value)
            self._loop.call_soon(self._guarded, self._kicked, number)
        else:
            self._stop(queue)
            return struct.pack("<II", number, queue.next)
        return None

    def _stop(self, queue: Queue) -> None:
        queue.enabled = False
        self._replace(queue, "kick", -1)
        self._stopped()

    def _replace(self, queue: Queue, which: str, fd: int) -> None:
        """Exchange one of a queue's descriptors, and listen to it if it is the driver's."""
        old = getattr(queue, which)
        if old >= 0:
            if which == "kick":
                self._loop.remove_reader(old)
            os.close(old)
        setattr(queue, which, fd)
        if fd >= 0 and which == "kick":
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._guarded, self._on_kick, queue)

    def _on_kick(self, queue: Queue) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(queue.kick)
        self._kicked(self.queues.index(queue))

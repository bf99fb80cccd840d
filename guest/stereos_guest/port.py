"""The virtio-serial port that leads to the host: found in sysfs, opened once, serving one host after another.

The port is not a connection. It stays open while hosts come and go; the kernel tells it by setting and clearing POLLHUP
(drivers/char/virtio_console.c, port_fops_poll), and reads give nothing while no host is there.

Both news travel beside the data, not in it. So of a host that follows another at once, the first request may be taken
for the former's and its answer dropped, and it may not be announced to; it asks again, beginning with a newline.
"""

from __future__ import annotations

import posix
from errno import EAGAIN, ENODEV
from select import EPOLLHUP

from stereos_guest import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stereos_guest.loop import Loop
    from stereos_guest.session import Session

_CHUNK = 1 << 16
_READS_PER_TURN = 8
_OUTBOX_FULL = 1 << 16  # with this much unsent, nothing more is read: the host must take its answers first
_SEARCH_SECONDS = 0.05
_SEARCH_SLOWLY_SECONDS = 2.0
_SEARCH_QUICKLY_TIMES = 200


def find(name: str = protocol.PORT_NAME, root: str = "") -> str | None:
    """The device file of the virtio port called `name`, if there is one. It needs neither udev nor its symlinks."""
    folder = root + "/sys/class/virtio-ports"
    try:
        entries = sorted(posix.listdir(folder))
    except OSError:
        return None
    for entry in entries:
        try:
            descriptor = posix.open(f"{folder}/{entry}/name", posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            continue
        try:
            if posix.read(descriptor, 256).rstrip(b"\n") == name.encode():
                return f"{root}/dev/{entry}"
        except OSError:
            continue
        finally:
            posix.close(descriptor)
    return None


class Port:
    """The open port. Each host that connects gets a session of its own, and first the announcement."""

    def __init__(
        self,
        descriptor: int,
        new_session: Callable[[], Session],
        announcement: Callable[[], bytes],
        on_lost: Callable[[], None],
    ) -> None:
        self._descriptor = descriptor
        self._new_session = new_session
        self._announcement = announcement
        self._on_lost = on_lost
        self._session: Session | None = None
        self._outbox = bytearray()
        self._mid_line = False  # the last byte that left was not a newline

    @property
    def connected(self) -> bool:
        """Whether a host is there."""
        return self._session is not None

    def push(self, line: bytes) -> None:
        """Send `line` to the host if there is one."""
        if self._session:
            self._outbox += line
            self._flush()

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        if events & ~EPOLLHUP and not events & EPOLLHUP and not self._session:
            self._connect()
        more = self._pump()
        if events & EPOLLHUP:
            # Only now: what the host asked for before it left is done, though nobody hears the answer.
            self._disconnect()
        return more

    def _connect(self) -> None:
        self._session = self._new_session()
        if self._mid_line:  # a former host left in the middle of a line; end it, so that this one can read on
            self._outbox += b"\n"
        self._outbox += self._announcement()

    def _disconnect(self) -> None:
        self._session = None
        self._outbox.clear()

    def _pump(self) -> bool:
        for _ in range(_READS_PER_TURN):
            if not self._flush() or len(self._outbox) > _OUTBOX_FULL:
                return False  # a change of the descriptor, as room for more, brings us back
            try:
                data = posix.read(self._descriptor, _CHUNK)
            except OSError as error:
                if error.errno != EAGAIN:
                    self._lose(error)
                return False
            if not data:
                self._disconnect()
                return False
            if not self._session:
                self._session = self._new_session()  # it came and went within one event
            for answer in self._session.receive(data):
                self._outbox += answer
        return True

    def _flush(self) -> bool:
        while self._outbox:
            try:
                written = posix.write(self._descriptor, memoryview(self._outbox)[:_CHUNK].tobytes())
            except OSError as error:
                if error.errno == EAGAIN:
                    break
                return self._lose(error)
            if written:
                self._mid_line = self._outbox[written - 1] != 0x0A
                del self._outbox[:written]
        return True

    def _lose(self, error: OSError) -> bool:
        self._disconnect()
        if error.errno == ENODEV:  # unplugged
            self._on_lost()
        return False


class PortWatch:
    """Looks for the port until it is there, opens it, and looks again when it was unplugged."""

    def __init__(
        self, loop: Loop, new_session: Callable[[], Session], announcement: Callable[[], bytes], root: str = ""
    ) -> None:
        self._loop = loop
        self._new_session = new_session
        self._announcement = announcement
        self._root = root
        self._searches = 0
        self._descriptor = -1
        self.port: Port | None = None

    def search(self) -> None:
        """Open the port, or try again later."""
        path = find(root=self._root)
        try:
            if path:
                self._open(path)
                return
        except OSError:  # busy or not there yet
            pass
        self._searches += 1
        quickly = self._searches < _SEARCH_QUICKLY_TIMES
        self._loop.later(_SEARCH_SECONDS if quickly else _SEARCH_SLOWLY_SECONDS, self.search)

    def _open(self, path: str) -> None:
        self._descriptor = posix.open(path, posix.O_RDWR | posix.O_NONBLOCK | posix.O_CLOEXEC | posix.O_NOCTTY)
        self.port = Port(self._descriptor, self._new_session, self._announcement, self._lost)
        self._loop.add(self._descriptor, self.port)

    def _lost(self) -> None:
        self._loop.remove(self._descriptor)
        posix.close(self._descriptor)
        self.port = None
        self._searches = 0
        self._loop.later(_SEARCH_SECONDS, self.search)

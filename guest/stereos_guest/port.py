"""The virtio-serial port that leads to the host: found in sysfs, opened once, serving one host after another.

The port is not a connection. It stays open while hosts come and go; the kernel tells it by setting and clearing POLLHUP
(drivers/char/virtio_console.c, port_fops_poll), and reads give nothing while no host is there.

Both news travel beside the data, not in it. So of a host that follows another at once, the first request may be taken
for the former's and its answer dropped, and it may not be announced to; it asks again, beginning with a newline.
"""

from __future__ import annotations

import posix
from errno import ENODEV
from select import EPOLLHUP

from stereos_guest import protocol
from stereos_guest.wire import ENDED, MORE, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stereos_guest.hosts import Hosts
    from stereos_guest.loop import Loop
    from stereos_guest.session import Session

_TURNS_AFTER_HANGUP = 64
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
        loop: Loop,
        hosts: Hosts,
        announcement: Callable[[], bytes],
        on_lost: Callable[[], None],
    ) -> None:
        self._wire = Wire(descriptor)
        self._loop = loop
        self._hosts = hosts
        self._announcement = announcement
        self._on_lost = on_lost
        self._session: Session | None = None

    @property
    def connected(self) -> bool:
        """Whether a host is there."""
        return self._session is not None

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        if not self._session and events:
            self._session = self._hosts.open(self._wake, survives_overlong=True, unasked=True)
            if not events & EPOLLHUP:  # else it came and went within one event
                self._announce(self._session)
        more = self._pump()
        if events & EPOLLHUP:
            # Only now: what the host asked for before it left is done, though nobody hears the answer.
            for _ in range(_TURNS_AFTER_HANGUP):
                if not more:
                    break
                more = self._pump()
            self._disconnect()
            return False
        return more

    def _wake(self) -> None:
        self._loop.soon(self._wire.descriptor)

    def _announce(self, session: Session) -> None:
        if self._wire.mid_line:  # a former host left in the middle of a line; end it, so that this one can read on
            session.send(b"\n")
        session.send(self._announcement())

    def _disconnect(self) -> None:
        if self._session:
            self._session.end()
            self._session = None
        self._wire.unsent = b""

    def _pump(self) -> bool:
        if not self._session:
            return False
        try:
            done = self._wire.pump(self._session)
        except OSError as error:
            self._disconnect()
            if error.errno == ENODEV:  # unplugged
                self._on_lost()
            return False
        if done == ENDED:
            self._disconnect()
        return done == MORE


class PortWatch:
    """Looks for the port until it is there, opens it, and looks again when it was unplugged."""

    def __init__(self, loop: Loop, hosts: Hosts, announcement: Callable[[], bytes], root: str = "") -> None:
        self._loop = loop
        self._hosts = hosts
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
        self.port = Port(self._descriptor, self._loop, self._hosts, self._announcement, self._lost)
        self._loop.add(self._descriptor, self.port)

    def _lost(self) -> None:
        self._loop.remove(self._descriptor)
        posix.close(self._descriptor)
        self.port = None
        self._searches = 0
        self._loop.later(_SEARCH_SECONDS, self.search)

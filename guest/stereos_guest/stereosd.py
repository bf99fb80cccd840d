"""stereosd: the daemon that speaks for the guest.

It announces `ready` on the port, and only then loads what answers requests (`requests`). Everything that it imports to
become ready is built into the interpreter or in this folder: see `jsontext` for why.
"""

from __future__ import annotations

import posix
from time import monotonic, sleep

from stereos_guest import bootclock, protocol
from stereos_guest.hosts import Hosts
from stereos_guest.loop import Loop
from stereos_guest.port import PortWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stereos_guest.session import Handler

HARDENED = "/run/stereos/hardened"
"""Made by stereos-harden.service when packet filter, kernel settings and module lock are in place."""

_POWER_OFF_SIGNAL = 34 + 4  # SIGRTMIN+4 under glibc; see systemd(1)


class Daemon:
    """The state that all conversations share.

    `power_off` ends the machine; without it, as in tests, the daemon declines to. `root` is put before every path.
    """

    def __init__(self, boot: dict[str, float], power_off: Callable[[], None] | None = None, root: str = "") -> None:
        self.boot = boot
        self.power_off = power_off
        self.root = root
        self.loop = Loop()
        self.handlers: dict[str, Handler] = {}  # filled by `attend`; no request is handled before
        self.hosts = Hosts(self.loop, self.handlers)
        self.state = protocol.BOOTING
        self.started = monotonic()
        self._reason = ""
        self._announced = False

    def become_ready(self) -> None:
        """Everything is in place."""
        self.state = protocol.READY
        self.boot.setdefault("ready", bootclock.uptime())

    def set_state(self, state: str, reason: str = "") -> None:
        """Tell the hosts and the service manager, if that is news."""
        if (state, reason) != (self.state, self._reason):
            self.state, self._reason = state, reason
            self.hosts.tell_lifecycle(self.lifecycle())
            notify(f"STATUS={state}".encode(), posix.environ.get(b"NOTIFY_SOCKET"))

    def lifecycle(self) -> bytes:
        """The push that tells how the machine is."""
        return protocol.lifecycle(self.state, self._reason, self.boot)

    def announcement(self) -> bytes:
        """What a host hears first on the port. The very first one also hears that the guest was booting."""
        if self._announced or self.state == protocol.BOOTING:
            return self.lifecycle()
        self._announced = True
        # A daemon before us may have died in the middle of a line.
        return b"\n" + protocol.lifecycle(protocol.BOOTING) + self.lifecycle()


def notify(state: bytes, address: bytes | None) -> None:
    """Tell the service manager; see sd_notify(3). Without an address there is none that listens."""
    if not address:
        return
    import _socket  # built in, unlike `socket`, which pulls in `enum` and `selectors`

    with_null = b"\0" + address[1:] if address.startswith(b"@") else address
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        channel.sendto(state, with_null)
    except OSError:
        pass  # nobody to tell; the service manager will see for itself
    finally:
        channel.close()


def power_off() -> None:
    """Have systemd stop every service and switch the machine off. It needs neither a bus nor a privilege but root's."""
    posix.kill(1, _POWER_OFF_SIGNAL)


def wait_for(path: str) -> None:
    """Return when `path` exists. How long that may take is the service manager's affair (TimeoutStartSec=)."""
    while True:
        try:
            posix.stat(path)
            return
        except FileNotFoundError:
            sleep(0.01)


def attend(daemon: Daemon) -> None:
    """Load what answers requests, and open every other way in. Nobody has to wait for it to hear `ready`."""
    from stereos_guest import doors
    from stereos_guest.requests import Requests

    doors.make_folders(daemon.root)
    token = doors.token(daemon.root)
    requests = Requests(daemon, token=token)
    daemon.handlers.update(requests.handlers)
    daemon.hosts.wake()
    requests.link.connect()
    doors.open_all(daemon, requests, token)


def main(root: str = "") -> int:
    """Serve until killed. `root` is put before every path, for tests; with it the machine is never switched off."""
    began = bootclock.uptime()
    daemon = Daemon(bootclock.marks(root + bootclock.BOOT_FILE), None if root else power_off, root)
    daemon.boot["stereosd_start"] = began
    watch = PortWatch(daemon.loop, daemon.hosts, daemon.announcement, root)
    wait_for(root + HARDENED)
    watch.search()
    daemon.become_ready()
    daemon.loop.turn(0)  # a host that waits hears it now, before anything else is done
    notify(b"READY=1\nSTATUS=ready", posix.environ.get(b"NOTIFY_SOCKET"))
    attend(daemon)
    daemon.loop.run()
    return 0

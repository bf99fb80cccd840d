"""stereosd: the daemon that speaks for the guest.

This first form answers `ping`, `get_health` and `shutdown`, and announces `ready`.

Everything that it imports to become ready is built into the interpreter or in this folder: see `jsontext` for why.
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

    from stereos_guest.session import Handler, Session

HARDENED = "/run/stereos/hardened"
"""Made by stereos-harden.service when packet filter, kernel settings and module lock are in place."""

_POWER_OFF_SIGNAL = 34 + 4  # SIGRTMIN+4 under glibc; see systemd(1)


class Daemon:
    """The state that all conversations share, and what is answered to each type of message.

    `power_off` begins the shutdown, after the answer to it has left; without it the daemon declines to shut down.
    """

    def __init__(self, boot: dict[str, float], power_off: Callable[[], None] | None = None) -> None:
        self.boot = boot
        self._power_off = power_off
        self.state = protocol.BOOTING
        self._started = monotonic()
        self._announced = False
        self.handlers: dict[str, Handler] = {
            protocol.PING: self._ping,
            protocol.GET_HEALTH: self._get_health,
            protocol.SET_CONFIG: self._not_yet,
            protocol.INJECT_SECRET: self._not_yet,
            protocol.INJECT_SSH_KEY: self._not_yet,
            protocol.MOUNT: self._not_yet,
            protocol.SHUTDOWN: self._shutdown,
        }

    def become_ready(self) -> None:
        """Everything is in place."""
        self.state = protocol.READY
        self.boot.setdefault("ready", bootclock.uptime())

    def announcement(self) -> bytes:
        """What a host hears first. The very first one also hears that the guest was booting."""
        now = protocol.lifecycle(self.state, boot=self.boot)
        if self._announced or self.state == protocol.BOOTING:
            return now
        self._announced = True
        return protocol.lifecycle(protocol.BOOTING) + now

    def _ping(self, message: protocol.Message, session: Session) -> bytes:
        return protocol.pong(message.id)

    def _get_health(self, message: protocol.Message, session: Session) -> bytes:
        return protocol.health(self.state, int(monotonic() - self._started), boot=self.boot, id=message.id)

    def _not_yet(self, message: protocol.Message, session: Session) -> bytes:
        message.body()
        raise protocol.ProtocolError(f"{message.type} is not supported by this version of stereosd")

    def _shutdown(self, message: protocol.Message, session: Session) -> bytes:
        # The payload is optional and, as in the original, not even looked at.
        if self._power_off is None:
            raise protocol.ProtocolError("this stereosd is not in charge of a machine")
        if self.state != protocol.SHUTTING_DOWN:
            self.state = protocol.SHUTTING_DOWN
            self._power_off()
        return protocol.ack(message.type, id=message.id)


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


def main(root: str = "") -> int:
    """Serve until killed. `root` is put before every path, for tests; with it the machine is never switched off."""
    began = bootclock.uptime()
    loop = Loop()
    in_charge = None if root else lambda: loop.later(0, power_off)
    daemon = Daemon(bootclock.marks(root + bootclock.BOOT_FILE), in_charge)
    daemon.boot["stereosd_start"] = began
    watch = PortWatch(loop, Hosts(loop, daemon.handlers), daemon.announcement, root)
    wait_for(root + HARDENED)
    watch.search()
    daemon.become_ready()
    loop.turn(0)  # a host that waits hears it now, before anything else is done
    notify(b"READY=1\nSTATUS=Ready", posix.environ.get(b"NOTIFY_SOCKET"))
    loop.run()
    return 0

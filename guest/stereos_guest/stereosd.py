"""stereosd: the daemon that speaks for the guest.

This first form answers `ping` and `get_health` and announces `ready`.

Everything that it imports to become ready is built into the interpreter or in this folder: see `jsontext` for why.
"""

from __future__ import annotations

import posix
from time import monotonic

from stereos_guest import bootclock, protocol
from stereos_guest.loop import Loop
from stereos_guest.port import PortWatch
from stereos_guest.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stereos_guest.session import Handler


class Daemon:
    """The state that all conversations share, and what is answered to each type of message."""

    def __init__(self, boot: dict[str, float]) -> None:
        self.boot = boot
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
            protocol.SHUTDOWN: self._not_yet_shutdown,
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

    def port_session(self) -> Session:
        """A conversation over a stream that outlives it."""
        return Session(self.handlers, survives_overlong=True)

    def _ping(self, message: protocol.Message) -> bytes:
        return protocol.pong()

    def _get_health(self, message: protocol.Message) -> bytes:
        return protocol.health(self.state, int(monotonic() - self._started), boot=self.boot)

    def _not_yet(self, message: protocol.Message) -> bytes:
        message.body()
        return self._not_yet_shutdown(message)

    def _not_yet_shutdown(self, message: protocol.Message) -> bytes:
        # Its payload is optional and, as in the original, not even looked at.
        raise protocol.ProtocolError(f"{message.type} is not supported by this version of stereosd")


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


def main(root: str = "") -> int:
    """Serve until killed. `root` is put before every path, for tests."""
    began = bootclock.uptime()
    daemon = Daemon(bootclock.marks(root + bootclock.BOOT_FILE))
    daemon.boot["stereosd_start"] = began
    loop = Loop()
    watch = PortWatch(loop, daemon.port_session, daemon.announcement, root)
    watch.search()
    daemon.become_ready()
    loop.turn(0)  # a host that waits hears it now, before anything else is done
    notify(b"READY=1\nSTATUS=Ready", posix.environ.get(b"NOTIFY_SOCKET"))
    loop.run()
    return 0

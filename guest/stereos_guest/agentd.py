"""agentd: runs the agents that the jcard names, and tells how they are.

It sleeps until it is told: by a unit that an agent started or ended (a FIFO), by stereosd that configuration, secrets
or mounts changed (the control socket), by whoever asks on its HTTP socket. Twice a minute it looks by itself.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, unlike `signal`
import posix
from time import monotonic

from stereos_guest import agentfiles, agentunits, http, protocol, sockets
from stereos_guest.agentfleet import ActionError, Fleet
from stereos_guest.loop import Loop
from stereos_guest.session import Session
from stereos_guest.stereosd import notify
from stereos_guest.systemctl import Systemctl, SystemctlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

API = "/run/stereos/agentd.sock"
CONTROL = "/run/stereos/agentd-control.sock"
EVENTS = "/run/stereos/agents.fifo"
RELOAD = "reload"  # stereosd to agentd: configuration, secrets or mounts are not what they were
_LOOK_SECONDS = 30.0
_SETTLE_SECONDS = 0.3
_SETTLE_TIMES = 100
_PATIENCE_SECONDS = 1.0


class Daemon:
    """The agents, and everybody who is told of them."""

    def __init__(self, loop: Loop, fleet: Fleet) -> None:
        self._loop = loop
        self._fleet = fleet
        self._started = monotonic()
        self._entries: list[dict[str, Any]] = []
        self._error = ""
        self._sessions: list[Session] = []
        self._looks = 0  # only the newest of the looks that were asked for is taken
        self._changed = True
        self._left = _SETTLE_TIMES
        self._handlers = {protocol.AGENT: self._act, RELOAD: self._reload, protocol.PING: self._ping}

    def look_later(self, seconds: float = 0.0, *, changed: bool = False) -> None:
        """Look at the agents soon; `changed`: and first at what they ought to be."""
        self._changed = self._changed or changed
        self._looks += 1
        number = self._looks
        self._loop.later(seconds, lambda: self.look() if number == self._looks else None)

    def look(self) -> None:
        """Make and see what is, and tell those who want to know if it is not what it was."""
        error, again = "", _LOOK_SECONDS
        try:
            if self._changed:
                self._fleet.reconcile()
                self._changed = False
            settling = self._fleet.observe()
            entries = self._fleet.entries()
            self._left = self._left - 1 if settling else _SETTLE_TIMES
            again = _SETTLE_SECONDS if settling and self._left > 0 else _LOOK_SECONDS
        except (OSError, SystemctlError) as failure:
            error, entries, again = str(failure), self._entries, _PATIENCE_SECONDS * 5
        error = self._fleet.error or error
        if entries != self._entries or error != self._error:
            self._entries, self._error = entries, error
            for session in self._sessions:
                session.push(protocol.AGENTS, self._told())
        self._changed = self._changed or again == _LOOK_SECONDS
        self.look_later(again)

    def visit(self, peer: Any, wake: Callable[[], None]) -> Session:
        """stereosd has connected: it hears at once how all agents are."""
        session = Session(self._handlers, self._loop)
        session.wake = wake
        session.greet(())
        session.on_end = lambda: self._sessions.remove(session)
        self._sessions.append(session)
        session.push(protocol.AGENTS, self._told())
        return session

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """The HTTP API of the original: it only tells."""
        if path == "/v1/health":
            answer: dict[str, Any] = {"state": "running", "uptime_seconds": int(monotonic() - self._started)}
            found: tuple[int, Any] = (200, answer | ({"error": self._error} if self._error else {}))
        elif path == "/v1/agents":
            found = (200, self._entries)
        elif path.startswith("/v1/agents/"):
            name = path.removeprefix("/v1/agents/").lower()
            one = next((entry for entry in self._entries if entry["name"] == name), None)
            found = (200, one) if one else (404, {"error": "agent not found"})
        else:
            return http.NOT_FOUND
        return found if method == "GET" else http.NOT_ALLOWED

    def _told(self) -> bytes:
        payload: dict[str, Any] = {"agents": self._entries}
        return protocol.encode(protocol.AGENTS, payload | ({"error": self._error} if self._error else {}))

    def _ping(self, message: protocol.Message, session: Session) -> bytes:
        return protocol.pong(message.id)

    def _reload(self, message: protocol.Message, session: Session) -> bytes:
        if message.id:  # who wants an answer wants to know when it has happened
            self._changed = True
            self.look()
        else:
            self.look_later(changed=True)
        return protocol.ack(message.type, id=message.id)

    def _act(self, message: protocol.Message, session: Session) -> bytes:
        body = message.body()
        name, action, signal = (protocol.field(body, key, "") for key in ("name", "action", "signal"))
        if not (isinstance(name, str) and isinstance(action, str) and isinstance(signal, str)):
            raise protocol.ProtocolError("name, action and signal are text")
        try:
            self._fleet.act(name, action, signal)
        except (ActionError, OSError, SystemctlError) as error:
            raise protocol.ProtocolError(f"{name[:60]}: {error}") from None
        self.look_later()
        return protocol.ack(message.type, id=message.id)


class Events:
    """The FIFO that units write to. It is open for both ways, so that it never comes to its end."""

    def __init__(self, path: str, heard: Callable[[], None]) -> None:
        agentfiles.remove([path])
        posix.mkfifo(path, 0o600)
        self.descriptor = posix.open(path, posix.O_RDWR | posix.O_NONBLOCK | posix.O_CLOEXEC)
        self._heard = heard

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        try:
            if not posix.read(self.descriptor, 1 << 16):
                return False
        except BlockingIOError:
            return False
        self._heard()
        return True


def main(root: str = "", systemctl: Systemctl | None = None) -> int:
    """Serve until killed; agents go on without it. `root` is put before every path, for tests."""
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    posix.umask(0o077)
    loop = Loop()
    agentfiles.folder(root + agentunits.AGENTS)
    daemon = Daemon(loop, Fleet(systemctl or Systemctl(), root))
    events = Events(root + EVENTS, daemon.look_later)
    loop.add(events.descriptor, events)
    http.HttpServer(loop, root + API, "admin", daemon.respond)
    sockets.Listener(loop, sockets.unix(root + CONTROL, "root"), daemon.visit)
    daemon.look()
    notify(b"READY=1", posix.environ.get(b"NOTIFY_SOCKET"))
    loop.run()
    return 0

"""The line to agentd: what it says of the agents, and what is to be done with them.

agentd listens on a socket of root's and speaks the envelopes of our protocol. It tells all agents at once when we
connect and whenever one of them changes; so nothing is polled, and its end is seen when it happens.
"""

from __future__ import annotations

import _socket
import posix

from stereos_guest import protocol
from stereos_guest.wire import ENDED, MORE, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stereos_guest.loop import Loop

SOCKET = "/run/stereos/agentd-control.sock"
_RETRY_SECONDS = 1.0
_ANSWER_SECONDS = 60.0
_TAKEN_SECONDS = 10.0
_MOST_AGENTS = 1000
_MOST_UNSENT = 1 << 20


class AgentLink:
    """Connects, and connects again. `changed` is called when it came, left, or told something."""

    def __init__(self, loop: Loop, root: str, changed: Callable[[], None]) -> None:
        self.agents: list[dict[str, Any]] = []  # as last told; kept when agentd leaves
        self.connected = False
        self.closed = False  # for the wire: we never hang up
        self._loop = loop
        self._path = root + SOCKET
        self._changed = changed
        self._wire: Wire | None = None
        self._lines = protocol.LineReader()
        self._output = bytearray()
        self._asked: dict[int, Callable[[str], None]] = {}
        self._last = 0

    def connect(self) -> None:
        """Try now, and then again and again."""
        link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        try:
            link.connect(self._path)
        except OSError:
            link.close()
            self._loop.later(_RETRY_SECONDS, self.connect)
            return
        descriptor = link.detach()
        self._wire = Wire(descriptor)
        self._loop.add(descriptor, self)
        self.reload()  # what changed while nobody listened, agentd would find out only when it looks by itself

    def reload(self) -> None:
        """Tell agentd that the configuration, the secrets or the mounts changed."""
        if self._wire:
            self._send(protocol.encode("reload", {}))

    def taken(self, done: Callable[[str], None]) -> None:
        """As `reload`; `done` is called when agentd has acted on it, so that what it tells from then on is of now."""
        self._ask("reload", {}, done, _TAKEN_SECONDS)

    def act(self, payload: dict[str, Any], done: Callable[[str], None]) -> None:
        """Have agentd do what an `agent` message asks for; `done` gets the error, empty if there is none."""
        self._ask(protocol.AGENT, payload, done, _ANSWER_SECONDS)

    def _ask(self, kind: str, payload: dict[str, Any], done: Callable[[str], None], seconds: float) -> None:
        if not self.connected:
            done("agentd is not there")
            return
        self._last += 1
        number = self._last
        self._asked[number] = done
        self._loop.later(seconds, lambda: self._answered(number, "agentd does not answer"))
        self._send(protocol.encode(kind, payload, number))

    # --- loop.Source and wire.Conversation ---

    def handle(self, events: int) -> bool:
        if not self._wire:
            return False
        try:
            done = self._wire.pump(self)
        except OSError:
            done = ENDED
        if done == ENDED:
            self._leave()
        return done == MORE

    @property
    def hungry(self) -> bool:
        return not self.closed

    def receive(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            try:
                if line and line.strip():
                    self._heard(protocol.decode(line))
            except protocol.ProtocolError as error:
                posix.write(2, f"agentd: {error}\n".encode())

    def work(self) -> bool:
        return False

    def take(self, room: int) -> bytes:
        taken = bytes(self._output[:room])
        del self._output[:room]
        return taken

    def _send(self, line: bytes) -> None:
        if len(self._output) < _MOST_UNSENT and self._wire:
            self._output += line
            self._loop.soon(self._wire.descriptor)

    def _heard(self, message: protocol.Message) -> None:
        body = message.body()
        if message.type == protocol.AGENTS:
            agents = body.get("agents")
            if not isinstance(agents, list) or len(agents) > _MOST_AGENTS or not all(map(_is_agent, agents)):
                raise protocol.ProtocolError("agents is not a list of agents")
            self.agents = agents
            self.connected = True
            self._changed()
        elif message.type == protocol.ACK:
            error = body.get("error") or ""
            self._answered(message.id, "" if body.get("ok") is True else str(error) or "agentd refused it")

    def _answered(self, number: int, error: str) -> None:
        done = self._asked.pop(number, None)
        if done:
            done(error)

    def _leave(self) -> None:
        if self._wire:
            self._loop.remove(self._wire.descriptor)
            posix.close(self._wire.descriptor)
        self._wire = None
        self.connected = self.closed = False
        self._lines = protocol.LineReader()
        self._output.clear()
        for number in tuple(self._asked):
            self._answered(number, "agentd ended meanwhile")
        self._changed()
        self._loop.later(_RETRY_SECONDS, self.connect)


def _is_agent(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("state"), str)

"""The control protocol of stereOS, written once for both sides: NDJSON envelopes over any byte stream.

One JSON object per line: `type` (text) and, for most types, `payload` (object). Requests without a number (`id`) are
answered in order, as in the original. Everything here is pure: bytes in, values out, no exception but `ProtocolError`.
"""

from __future__ import annotations

from stereos_guest import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

PORT_NAME = "io.stereos.control"
MAX_LINE = 1 << 20  # bytes, with the newline
MAX_ID = (1 << 53) - 1  # what JSON numbers hold everywhere (RFC 7493, 2.2)

PING, PONG = "ping", "pong"
GET_HEALTH, HEALTH = "get_health", "health"
SET_CONFIG = "set_config"
INJECT_SECRET = "inject_secret"
INJECT_SSH_KEY = "inject_ssh_key"
MOUNT = "mount"
SHUTDOWN = "shutdown"
ACK = "ack"
LIFECYCLE = "lifecycle"

# Our extension, for a host that has said `hello`; whoever has not is spoken to as the original would.
VERSION = 1
HELLO = "hello"
EXEC, COPY_IN, COPY_OUT, CONNECT, LOGS = "exec", "copy_in", "copy_out", "connect", "logs"  # each opens a stream
DATA, EOF, WINDOW, RESIZE, SIGNAL, CANCEL, EXIT = "data", "eof", "window", "resize", "signal", "cancel", "exit"
LIST_SECRETS, SECRETS, REMOVE_SECRET = "list_secrets", "secrets", "remove_secret"
LIST_MOUNTS, MOUNTS, UNMOUNT = "list_mounts", "mounts", "unmount"
LIST_AGENTS, AGENTS, AGENT = "list_agents", "agents", "agent"
SET_NETWORK, SSH_HOST_KEY, EVENT = "set_network", "ssh_host_key", "event"

OPENERS = (EXEC, COPY_IN, COPY_OUT, CONNECT, LOGS)
ORIGINAL = (PING, GET_HEALTH, SET_CONFIG, INJECT_SECRET, INJECT_SSH_KEY, MOUNT, SHUTDOWN)
REQUESTS = (
    *(*ORIGINAL, HELLO, *OPENERS, LIST_SECRETS, REMOVE_SECRET, LIST_MOUNTS, UNMOUNT, LIST_AGENTS, AGENT),
    *(SET_NETWORK, SSH_HOST_KEY, DATA, EOF, WINDOW, RESIZE, SIGNAL, CANCEL),
)  # host to guest
REPLIES = (
    *(PONG, HEALTH, ACK, LIFECYCLE, HELLO, SECRETS, MOUNTS, AGENTS, SSH_HOST_KEY, EVENT, DATA, EOF, WINDOW, EXIT),
)  # guest to host; `lifecycle` and `event` are pushed

BOOTING, READY, HEALTHY, DEGRADED, SHUTTING_DOWN = "booting", "ready", "healthy", "degraded", "shutdown"
STATES = (BOOTING, READY, HEALTHY, DEGRADED, SHUTTING_DOWN)


class ProtocolError(Exception):
    """The other side sent what the protocol does not allow. The text is what an `ack` carries as `error`."""


class Message:
    """One envelope. `payload` is whatever JSON value came with it; `has_payload` tells null from absent.

    `id` is the request number of our extension: 1 or more, or 0 where there is none.
    """

    __slots__ = ("has_payload", "id", "payload", "type")

    def __init__(self, type: str, payload: Any = None, has_payload: bool = False, id: int = 0) -> None:  # noqa: A002
        self.type = type
        self.id = id
        self.payload = payload
        self.has_payload = has_payload

    def body(self) -> dict[str, Any]:
        """The payload of a type that needs one; null counts as empty. Raises ProtocolError."""
        if not self.has_payload:
            raise ProtocolError(f"envelope {self.type} has no payload")
        if self.payload is None:
            return {}
        if not isinstance(self.payload, dict):
            raise ProtocolError(f"payload of {self.type} is not an object")
        return self.payload


class LineReader:
    """Cuts a stream into lines and never holds more than one line of `limit` bytes.

    A line that is too long is told as soon as it is seen to be, and then dropped as it comes, up to its newline.
    """

    __slots__ = ("_held", "_skipping", "limit")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.limit = limit
        self._held = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """What `data` completes, in order: lines without their newlines, None for one that is too long."""
        found: list[bytes | None] = []
        start = 0
        while start < len(data):
            newline = data.find(b"\n", start)
            end = len(data) if newline < 0 else newline + 1
            if not self._skipping:
                # Held up to the limit without a newline, it can only become too long.
                if len(self._held) + end - start > self.limit - (newline < 0):
                    self._skipping = True
                    self._held.clear()
                    found.append(None)
                else:
                    self._held += data[start:end]
                    if newline >= 0:
                        found.append(bytes(self._held[:-1]))
                        self._held.clear()
            if newline >= 0:
                self._skipping = False
            start = end
        return found


def decode(line: bytes) -> Message:
    """The envelope on one line (without its newline). Raises ProtocolError with the original's wording."""
    try:
        value = jsontext.loads(line.decode())
    except ValueError as error:
        raise ProtocolError(f"malformed JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError("malformed JSON: not an object")
    kind = field(value, "type", "")
    if not isinstance(kind, str):
        raise ProtocolError("malformed JSON: type is not text")
    number = value.get("id", 0)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_ID:
        raise ProtocolError("malformed JSON: id is not a number from 1 on")
    absent = object()
    payload = field(value, "payload", absent)
    return Message(kind, id=number) if payload is absent else Message(kind, payload, True, number)


def field(table: Mapping[str, Any], name: str, default: Any) -> Any:
    """A field by name; as in the original, another case of the same name is accepted where the exact one is missing."""
    if name in table:
        return table[name]
    for key in table:
        if key.lower() == name:
            return table[key]
    return default


def encode(type: str, payload: Mapping[str, Any] | None = None, id: int = 0) -> bytes:  # noqa: A002
    """The line, newline included, for an envelope. Raises ProtocolError if it is not JSON or longer than MAX_LINE."""
    envelope: dict[str, Any] = {"type": type}
    if id:
        envelope["id"] = id
    if payload is not None:
        envelope["payload"] = payload
    try:
        line = jsontext.dumps(envelope).encode() + b"\n"
    except ValueError as error:
        raise ProtocolError(f"cannot encode {type}: {error}") from None
    if len(line) > MAX_LINE:
        raise ProtocolError(f"cannot encode {type}: {len(line)} bytes are more than a line may have")
    return line


def ack(reply_to: str, error: str = "", id: int = 0) -> bytes:  # noqa: A002
    """The answer to a request that has no answer of its own; a failed one if there is an `error`."""
    payload = {"reply_to": _short(reply_to), "ok": not error}
    if error:
        payload["error"] = error
    return encode(ACK, payload, id)


def unknown_type(type: str, id: int = 0) -> bytes:  # noqa: A002
    """The answer to a type that a guest does not take."""
    return ack(type, f"unknown message type: {_short(type)}", id)


def pong(id: int = 0) -> bytes:  # noqa: A002
    """The answer to `ping`."""
    return encode(PONG, id=id)


def health(
    state: str,
    uptime_seconds: int,
    agents: Sequence[Mapping[str, Any]] = (),
    boot: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What answers `get_health`. `uptime_seconds` counts from the daemon's start; `boot` is our addition."""
    payload: dict[str, Any] = {"state": state}
    if agents:
        payload["agents"] = agents
    payload["uptime_seconds"] = uptime_seconds
    if boot:
        payload["boot"] = boot
    return payload


def lifecycle(state: str, message: str = "", boot: Mapping[str, float] | None = None) -> bytes:
    """The push that tells the host of a state. `boot` (seconds since kernel start, by phase) is our addition."""
    payload: dict[str, Any] = {"state": state}
    if message:
        payload["message"] = message
    if boot:
        payload["boot"] = boot
    return encode(LIFECYCLE, payload)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."

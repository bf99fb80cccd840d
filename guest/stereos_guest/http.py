"""A small HTTP/1.1 server (RFC 9112) on a unix socket, for local tools: JSON in, JSON out, everything bounded.

The standard library's would cost more memory than both daemons have, and a thread for each connection.
"""

from __future__ import annotations

from stereos_guest import jsontext, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stereos_guest.loop import Loop

    # One of the statuses below and what is said: text goes out as text, everything else as JSON.
    Reply = Callable[[int, Any], None]
    # That, or what takes a `Reply` and calls it once, now or later.
    Answer = tuple[int, Any] | Callable[[Reply], None]
    # To method, path (without a query) and body.
    Respond = Callable[[str, str, bytes], Answer]

MOST_BODY = 1 << 20  # bytes
NOT_FOUND = (404, "404 page not found\n")
NOT_ALLOWED = (405, "Method Not Allowed\n")
_MOST_HEAD = 16 << 10
_PATIENCE = 30.0
_REASONS = (
    "100 Continue|200 OK|201 Created|202 Accepted|400 Bad Request|404 Not Found|405 Method Not Allowed|"
    "413 Content Too Large|422 Unprocessable Entity|431 Request Header Fields Too Large|500 Internal Server Error|"
    "501 Not Implemented|503 Service Unavailable|505 HTTP Version Not Supported"
)
_STATUS = {int(line[:3]): line for line in _REASONS.split("|")}


class HttpServer:
    """Serves `path` (0660, root's and `group`'s) by what `respond` answers to a method, a path and a body."""

    def __init__(self, loop: Loop, path: str, group: str, respond: Respond) -> None:
        self._listener = sockets.Listener(loop, sockets.unix(path, group), lambda peer, wake: HttpVisit(respond, wake))

    def close(self) -> None:
        """Stop listening, and hang up on everybody."""
        self._listener.close()


class _RefusedError(Exception):
    """What was sent is no request of ours; the connection ends after the answer."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class HttpVisit:
    """One connection, one request after another: a `sockets.Visit`."""

    def __init__(self, respond: Respond, wake: Callable[[], None]) -> None:
        self._respond = respond
        self._wake = wake
        self._waiting = False  # for an answer that comes later
        self._input = bytearray()
        self._output = bytearray()
        self._head: _Head | None = None  # of the request whose body is on its way
        self.closed = False
        self.patience: float | None = _PATIENCE

    @property
    def hungry(self) -> bool:
        return not (self.closed or self._output or self._waiting)

    @property
    def owes(self) -> bool:
        return bool(self._input or self._head) and not self._waiting

    def receive(self, data: bytes) -> None:
        self._input += data

    def take(self, room: int) -> bytes:
        taken = bytes(self._output[:room])
        del self._output[:room]
        return taken

    def end(self) -> None:
        self.closed = True

    def work(self) -> bool:
        """Answer one request, if one is complete."""
        if self.closed or self._output or self._waiting:
            return False
        try:
            return self._work()
        except _RefusedError as refused:
            self._answer(refused.status, {"error": str(refused)}, last=True)
            return False

    def _work(self) -> bool:
        if not self._head:
            while self._input[:2] == b"\r\n":  # RFC 9112, 2.2
                del self._input[:2]
            end = self._input.find(b"\r\n\r\n", 0, _MOST_HEAD)
            if end < 0:
                if len(self._input) >= _MOST_HEAD:
                    raise _RefusedError(431, "the head of the request is too long")
                return False
            self._head = _Head(bytes(self._input[:end]))
            del self._input[: end + 4]
            if self._head.expects and len(self._input) < self._head.length:
                self._output += b"HTTP/1.1 100 Continue\r\n\r\n"
        head = self._head
        if len(self._input) < head.length:
            return False
        body = bytes(self._input[: head.length])
        del self._input[: head.length]
        self._head = None
        answer = self._respond("GET" if head.method == "HEAD" else head.method, head.path, body)
        if isinstance(answer, tuple):
            self._answer(*answer, last=head.last, without_body=head.method == "HEAD")
            return bool(self._input)

        def reply(status: int, said: Any) -> None:
            if not self.closed:
                self._waiting = False
                self._answer(status, said, last=head.last)
                self._wake()

        self._waiting = True
        answer(reply)
        return False

    def _answer(self, status: int, answer: Any, *, last: bool, without_body: bool = False) -> None:
        if isinstance(answer, str):
            kind, body = "text/plain; charset=utf-8", answer.encode()
        else:
            kind, body = "application/json", jsontext.dumps(answer).encode() + b"\n"
        lines = [
            f"HTTP/1.1 {_STATUS[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            *(["Connection: close"] if last else []),
        ]
        self._output += "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if without_body else body)
        self.closed = last


class _Head:
    """The request line and those header fields that we heed. Raises _RefusedError."""

    def __init__(self, head: bytes) -> None:
        first, *rows = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[0].isalpha() or not words[1].startswith("/"):
            raise _RefusedError(400, "malformed request line")
        self.method = words[0]
        self.path = _unescaped(words[1].partition("?")[0])
        if words[2] not in ("HTTP/1.1", "HTTP/1.0"):
            raise _RefusedError(505, "only version 1.1 is spoken here")
        fields: dict[str, str] = {}
        for row in rows:
            name, colon, value = row.partition(":")
            if not colon or not name or name != name.strip():
                raise _RefusedError(400, "malformed header")
            if fields.setdefault(name.lower(), value.strip()) != value.strip() and name.lower() == "content-length":
                raise _RefusedError(400, "two lengths")
        if "transfer-encoding" in fields:
            raise _RefusedError(501, "a body needs a Content-Length")
        length = fields.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise _RefusedError(400, "malformed Content-Length")
        if len(length) > 12 or int(length) > MOST_BODY:
            raise _RefusedError(413, f"a body may have {MOST_BODY} bytes")
        self.length = int(length)
        self.expects = fields.get("expect", "").lower() == "100-continue"
        kept = "keep-alive" if words[2] == "HTTP/1.0" else ""
        self.last = fields.get("connection", "").lower() == "close" or (
            kept != "" and fields.get("connection", "").lower() != kept
        )


def _unescaped(path: str) -> str:
    """Percent-decoded (RFC 3986, 2.1). Raises _RefusedError."""
    parts = path.encode("latin-1").split(b"%")
    decoded = bytearray(parts[0])
    for part in parts[1:]:
        try:
            decoded += bytes.fromhex(part[:2].decode("ascii"))
        except ValueError:
            raise _RefusedError(400, "malformed path") from None
        decoded += part[2:]
    try:
        return decoded.decode()
    except UnicodeDecodeError:
        raise _RefusedError(400, "malformed path") from None

"""The bytes of a stream on the wire: `data` messages, as JSON or, where both sides said so in `hello`, raw.

A raw line spares both ends base64 and JSON, which in an emulated machine cost more than all the rest:

    0x01, the stream's id in decimal, "/" and i, o or e for stdin, stdout or stderr, a space, the bytes, newline

The bytes are quoted-printable (RFC 2045, 6.7) as far as need be: newline is =0A and = is =3D, all else stands for
itself. So a raw line is a line like any other, and whoever comes in the middle of one is in step again at the next.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, a2b_qp, b2a_base64

from stereos_guest import protocol
from stereos_guest.protocol import Message, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RAW = "raw"
"""The feature, as `hello` names it."""

STDIN, STDOUT, STDERR = "stdin", "stdout", "stderr"
CHUNK = 48 << 10  # bytes of content that one message may carry
INITIAL_WINDOW = 256 << 10  # bytes that may be sent before the first `window`

_MARK = b"\x01"
_NAMES = {b"i": STDIN, b"o": STDOUT, b"e": STDERR}
_LETTERS = {name: letter for letter, name in _NAMES.items()}
_LONGEST_HEAD = 24


def encode(number: int, stream: str, content: bytes, raw: bool) -> bytes:
    """The line, newline included, that carries `content` (at most CHUNK bytes)."""
    if raw:
        stuffed = content.replace(b"=", b"=3D").replace(b"\n", b"=0A")
        return b"\x01%d/%b %b\n" % (number, _LETTERS[stream], stuffed)
    text = b2a_base64(content, newline=False)
    return b'{"type":"data","id":%d,"payload":{"stream":"%b","data":"%b"}}\n' % (number, stream.encode(), text)


def decode(line: bytes) -> Message:
    """The message on one line (without its newline), in either form. Raises ProtocolError."""
    if line[:1] != _MARK:
        return protocol.decode(line)
    end = line.find(b" ", 1, _LONGEST_HEAD)
    digits, name = line[1 : max(end - 2, 1)], _NAMES.get(line[end - 1 : end])
    if end < 0 or name is None or line[end - 2] != 0x2F or not digits.isdigit():
        raise ProtocolError("malformed raw line")
    number = int(digits)
    if not 0 < number <= protocol.MAX_ID:
        raise ProtocolError("malformed raw line: id is not a number from 1 on")
    return Message(protocol.DATA, {"stream": name, "data": a2b_qp(memoryview(line)[end + 1 :])}, True, number)


def content(message: Message) -> tuple[str, bytes]:
    """Of a `data` message: which stream, and its bytes. Raises ProtocolError."""
    body = message.body()
    stream, data = body.get("stream"), body.get("data")
    if not isinstance(stream, str) or stream not in _LETTERS:
        raise ProtocolError("data of a stream that there is not")
    if not isinstance(data, bytes):
        data = _from_base64(data)
    if len(data) > CHUNK:
        raise ProtocolError(f"data of {len(data)} bytes, more than {CHUNK}")
    return stream, data


def _from_base64(text: Any) -> bytes:
    try:
        return a2b_base64(text, strict_mode=True)
    except (Error, ValueError, TypeError):
        raise ProtocolError("data is not base64") from None

"""Fields of a payload, each of its kind; as in the original, one that is absent or null counts as empty."""

from __future__ import annotations

from stereos_guest import protocol
from stereos_guest.protocol import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def text(body: Mapping[str, Any], name: str) -> str:
    """Text that can be written as UTF-8. Raises ProtocolError."""
    value = protocol.field(body, name, "")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ProtocolError(f"{name} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ProtocolError(f"{name} is not Unicode") from None
    return value


def word(body: Mapping[str, Any], name: str, most: int = 4096) -> str:
    """Text without control characters, of at most `most` bytes. Raises ProtocolError."""
    value = text(body, name)
    if len(value.encode()) > most:
        raise ProtocolError(f"{name} is longer than {most} bytes")
    if any(letter < " " or letter == "\x7f" for letter in value):
        raise ProtocolError(f"{name} has control characters")
    return value


def flag(body: Mapping[str, Any], name: str) -> bool:
    """True or false. Raises ProtocolError."""
    value = protocol.field(body, name, False)
    if value not in (True, False, None):
        raise ProtocolError(f"{name} is neither true nor false")
    return bool(value)


def number(body: Mapping[str, Any], name: str, most: int) -> int:
    """A whole number from 0 to `most`. Raises ProtocolError."""
    value = protocol.field(body, name, 0)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ProtocolError(f"{name} is not a whole number from 0 to {most}")
    return value

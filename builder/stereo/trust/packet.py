"""Whether a detached OpenPGP signature holds no bit that could change unnoticed (RFC 4880, sections 4.2 and 5.2.3).

Readers of OpenPGP pass over what they need not: bytes behind the packet, the unsigned part of it, and the two bytes of
the digest that only tell early that it is another. An altered signature file would go unnoticed; ours have none of it.
"""

from __future__ import annotations

import hashlib

_ONE_OCTET, _TWO_OCTETS = 192, 224  # lengths of new packets, section 4.2.2
_SIGNATURE = 0xC0 | 2
_VERSION = 4
_HASHES = {8: "sha256", 9: "sha384", 10: "sha512"}  # section 9.4


def is_exact(signature: bytes, data: bytes) -> bool:
    """Whether `signature` is one packet and nothing else, with all of it signed and the right digest of `data` in it.

    Says nothing of who signed: to be asked beside `openpgp.verify`.
    """
    body = _body(signature)
    if body is None or len(body) < 10 or body[0] != _VERSION or body[3] not in _HASHES:
        return False
    hashed_end = 6 + int.from_bytes(body[4:6], "big")
    unhashed, left = body[hashed_end : hashed_end + 2], body[hashed_end + 2 : hashed_end + 4]
    trailer = bytes([_VERSION, 0xFF]) + hashed_end.to_bytes(4, "big")
    digest = hashlib.new(_HASHES[body[3]], data + body[:hashed_end] + trailer).digest()
    return unhashed == b"\0\0" and left == digest[:2]


def _body(packet: bytes) -> bytes | None:
    if len(packet) < 3 or packet[0] != _SIGNATURE:
        return None
    if packet[1] < _ONE_OCTET:
        start, length = 2, packet[1]
    elif packet[1] < _TWO_OCTETS:
        start, length = 3, ((packet[1] - _ONE_OCTET) << 8) + packet[2] + _ONE_OCTET
    else:
        return None
    return packet[start:] if len(packet) == start + length else None

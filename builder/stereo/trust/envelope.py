"""A signed statement as it travels: the DSSE envelope (Dead Simple Signing Envelope, v1.0.2).

What is signed is the payload's bytes with their type (its "pre-authentication encoding"), so nobody has to agree on
how JSON is written, and a reader checks the signature before it believes a word of the payload.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from stereo.errors import shown
from stereo.registry.strict import canonical
from stereo.trust.keys import PublicKey, SecretKey, SignatureError
from stereo.trust.statement import MalformedError, Statement, parse_statement, read_object

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BYTES = 4 << 20
MAX_SIGNATURES = 16
_LONGEST_KEYID = 128
_LONGEST_SIGNATURE = 1024  # bytes; ours have at most 72


@dataclass(frozen=True)
class Envelope:
    """An envelope that was read. `signatures` are (keyid, signature); nothing of it is proven before `verify`.

    A keyid is only a hint, may be "" and is unsigned.
    """

    signatures: tuple[tuple[str, bytes], ...]
    payload: bytes
    statement: Statement

    @property
    def rendered(self) -> bytes:
        """The one form in which we write it. Other bytes of the same meaning are somebody else's."""
        return _rendered(self.payload, self.signatures)

    def verify(self, key: PublicKey) -> None:
        """Raises SignatureError unless `key` made one of the signatures."""
        signed = _encoded(self.payload)
        for keyid, signature in self.signatures:
            if keyid in (key.keyid, ""):
                try:
                    return key.verify(signed, signature)
                except SignatureError:
                    continue
        raise SignatureError(f"holds no signature by the key {key.keyid[:16]}")


def seal(payload: bytes, key: SecretKey) -> bytes:
    """The envelope of a statement, signed by `key`, as JSON."""
    return _rendered(payload, [(key.public.keyid, key.sign(_encoded(payload)))])


def parse_envelope(data: bytes, name: str) -> Envelope:
    """Read an envelope from anywhere; `name` is how errors call it. Raises MalformedError, whatever the bytes are."""
    table = read_object(data, name, MAX_BYTES)
    if table.get("payloadType") != PAYLOAD_TYPE:
        raise MalformedError(f"holds no {PAYLOAD_TYPE}", where=name)
    rows = table.get("signatures")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_SIGNATURES:
        raise MalformedError(f"must have between 1 and {MAX_SIGNATURES} signatures", where=name)
    signatures: list[tuple[str, bytes]] = []
    for row in rows:
        keyid = row.get("keyid") or "" if isinstance(row, dict) else None
        if not isinstance(keyid, str) or len(keyid) > _LONGEST_KEYID:
            raise MalformedError("has a signature that is none", where=name)
        signature = _decoded(row.get("sig"), f"the signature by {shown(keyid, 16) or 'nobody'}", name)
        if not 0 < len(signature) <= _LONGEST_SIGNATURE:
            raise MalformedError(f"has a signature of {len(signature)} bytes", where=name)
        if (keyid, signature) in signatures or (keyid and keyid in dict(signatures)):
            raise MalformedError(f"holds two signatures by {shown(keyid, 16) or 'nobody'}", where=name)
        signatures.append((keyid, signature))
    payload = _decoded(table.get("payload"), "its payload", name)
    return Envelope(tuple(signatures), payload, parse_statement(payload, name))


def _rendered(payload: bytes, signatures: Sequence[tuple[str, bytes]]) -> bytes:
    rows = [{"keyid": keyid, "sig": _text(signature)} for keyid, signature in signatures]
    return canonical({"payloadType": PAYLOAD_TYPE, "payload": _text(payload), "signatures": rows}) + b"\n"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _encoded(payload: bytes) -> bytes:
    from securesystemslib import dsse

    return dsse.Envelope(payload, PAYLOAD_TYPE, {}).pae()


def _decoded(text: object, what: str, name: str) -> bytes:
    """Standard base64, or the URL-safe one: the specification has readers take both."""
    try:
        if isinstance(text, str):
            return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
    except (binascii.Error, ValueError):
        pass
    raise MalformedError(f"{what} is not base64", where=name)

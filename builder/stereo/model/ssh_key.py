"""A public SSH key as one line of authorized_keys, checked before it is baked into an image.

The original daemon compares a prefix only; a truncated paste or a private key then becomes an image that nobody can log
in to. We decode the blob: it repeats the type, and each type has a known shape. See sshd(8), AUTHORIZED_KEYS FILE
FORMAT, and RFC 4253 section 6.6. Options in front of a key are refused: an image says who may log in, not how.
"""

from __future__ import annotations

import base64
import binascii

_ED25519_BYTES = 32
_RSA_LEAST_BITS = 2048
_MOST_CHARACTERS = 16384

# Key type -> how many length-prefixed fields its blob has, the type's own name included.
_FIELDS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
KEY_TYPES = tuple(_FIELDS)


def _fields(blob: bytes) -> list[bytes]:
    """The length-prefixed strings of RFC 4251 section 5 that make up a key blob."""
    fields, position = [], 0
    while position < len(blob):
        length = int.from_bytes(blob[position : position + 4], "big")
        field = blob[position + 4 : position + 4 + length]
        if len(blob) - position < 4 or len(field) != length:
            raise ValueError("the key is cut short or damaged: paste the whole line of the .pub file")
        fields.append(field)
        position += 4 + length
    return fields


def check_ssh_key(line: str) -> str:
    """Return `line` in its normal form, "TYPE BASE64 [COMMENT]" with single blanks.

    Raises ValueError with a sentence for the user when it is no public key that sshd accepts.
    """
    text = line.strip()
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"longer than any public key ({_MOST_CHARACTERS} characters)")
    if "PRIVATE KEY" in text:
        raise ValueError("this is a private key: give the .pub file, and consider the private one as seen")
    if not text.isprintable():
        raise ValueError("a public key is one line of printable characters")
    words = text.split()
    if len(words) < 2 or words[0] not in _FIELDS:
        raise ValueError(f"expected TYPE BASE64 [COMMENT] with a type of {', '.join(KEY_TYPES)}")
    kind, encoded = words[0], words[1]
    try:
        fields = _fields(base64.b64decode(encoded, validate=True))
    except binascii.Error as error:
        raise ValueError(f"the key is not base64: {error}") from error
    if not fields or fields[0] != kind.encode():
        raise ValueError(f"the key says it is {kind}, its content says otherwise")
    if len(fields) != _FIELDS[kind]:
        raise ValueError(f"not the content of a {kind} key: paste the whole line of the .pub file")
    if "ed25519" in kind and len(fields[1]) != _ED25519_BYTES:
        raise ValueError("an Ed25519 key has 32 bytes")
    if kind == "ssh-rsa" and int.from_bytes(fields[2], "big").bit_length() < _RSA_LEAST_BITS:
        raise ValueError(f"an RSA key needs {_RSA_LEAST_BITS} bits: make a new one with `ssh-keygen -t ed25519`")
    if kind.startswith("ecdsa-sha2-") and fields[1] != kind.removeprefix("ecdsa-sha2-").encode():
        raise ValueError("the key's curve is not the one that its type names")
    return " ".join(words)

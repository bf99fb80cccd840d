"""SHA256SUMS and the signatures over it, for those who have no more than ordinary tools.

SHA256SUMS is what `sha256sum -c` reads. SHA256SUMS.sig is the base64 of our key's signature over it: what
`cosign verify-blob --key` reads and, decoded, openssl(1). SHA256SUMS.gpg is a binary detached OpenPGP signature: what
gpgv(1) reads, and systemd-sysupdate beside a SHA256SUMS (sysupdate.d(5), "url-file").
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from stereo.trust.keys import PublicKey, SecretKey, SignatureError


def render_sums(digests: Mapping[str, str]) -> bytes:
    """The text for `digests` (SHA-256 by file name), sorted by name: the same for everyone."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def sign_sums(sums: bytes, key: SecretKey) -> bytes:
    """SHA256SUMS.sig"""
    return base64.b64encode(key.sign(sums)) + b"\n"


def check_sums(sums: bytes, text: bytes, key: PublicKey) -> None:
    """Raises SignatureError unless `text`, a SHA256SUMS.sig of any origin, is the signature of `key` over `sums`."""
    try:
        signature = base64.b64decode(text.removesuffix(b"\n"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError("is no signature in base64") from error
    if base64.b64encode(signature) != text.removesuffix(b"\n"):
        raise SignatureError("is base64 with bits that mean nothing")
    key.verify(sums, signature)

"""OpenPGP (RFC 4880), for the readers that know no other signatures: gpgv(1) and, through it, systemd-sysupdate.

A key is made beside each of ours and signs one thing, SHA256SUMS. Version 4 keys and signatures on Curve25519, since
GnuPG reads nothing newer. The secret is ASCII armor; with a passphrase it is inside a message that the passphrase opens
(`gpg --decrypt`), because pysequoia cannot encrypt a key by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from stereo.errors import UsageError, shown
from stereo.trust.keys import PASSPHRASE, SignatureError

_ENCRYPTED = b"-----BEGIN PGP MESSAGE-----"


@dataclass(frozen=True)
class Pair:
    """A new key: the certificate (binary) for everybody, the secret (armored) for its owner."""

    certificate: bytes
    secret: bytes
    fingerprint: str


def generate(name: str, passphrase: str | None) -> Pair:
    """Make a key without an end; what ends are statements, and policies."""
    from pysequoia import CipherSuite, Profile, Tsk, encrypt

    key = Tsk.generate(f"stereo {name}", profile=Profile.RFC4880, cipher_suite=CipherSuite.Cv25519)
    certificate = key.extract_certificate()
    secret = str(key).encode()
    if passphrase:
        secret = encrypt(secret, passwords=[passphrase])
    return Pair(bytes(certificate), secret, certificate.fingerprint)


class Signer:
    """An OpenPGP secret key, opened."""

    def __init__(self, secret: bytes, passphrase: str | None, where: str) -> None:
        """Raises UsageError, calling the secret `where`."""
        from pysequoia import Tsk, decrypt

        if secret.startswith(_ENCRYPTED):
            if not passphrase:
                raise UsageError("the key is encrypted", where=where, hint=f"give its passphrase in ${PASSPHRASE}")
            try:
                secret = decrypt(secret, passwords=[passphrase]).bytes or b""
            except RuntimeError as error:
                raise UsageError("does not open", where=where, hint=f"is ${PASSPHRASE} the right one?") from error
        try:
            self._key = Tsk.from_bytes(secret)
            self._signer = self._key.signer()
        except RuntimeError as error:
            raise UsageError("holds no OpenPGP key that signs", where=where) from error
        self.certificate = bytes(self._key.extract_certificate())

    def sign(self, data: bytes) -> bytes:
        """A detached signature, binary. Each is another: it holds the time and a salt."""
        from pysequoia import SignatureMode, sign

        return sign(self._signer, data, mode=SignatureMode.DETACHED, armor=False)


def refuse_no_certificate(data: bytes, where: str) -> None:
    """Raises UsageError, calling it `where`, unless `data` is an OpenPGP certificate."""
    from pysequoia import Cert

    try:
        Cert.from_bytes(data)
    except RuntimeError as error:
        raise UsageError("is no OpenPGP certificate", where=where) from error


def verify(data: bytes, signature: bytes, certificate: bytes) -> None:
    """Raises SignatureError unless the key of `certificate` made the detached `signature` over `data`."""
    from pysequoia import Cert, Sig
    from pysequoia import verify as check

    try:
        cert = Cert.from_bytes(certificate)
        check(data, lambda _: [cert], signature=Sig.from_bytes(signature))
    except RuntimeError as error:  # its text goes on with a backtrace
        raise SignatureError(f"OpenPGP: {shown(str(error).partition(chr(10))[0], 120)}") from error

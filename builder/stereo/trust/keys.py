"""Keys of publishers and rebuilders: Ed25519 and ECDSA P-256, as PEM that openssl(1) and cosign read too.

A private key is PKCS#8 (RFC 5958), encrypted or not; a public key SubjectPublicKeyInfo (RFC 5280). A key's id is the
SHA-256 of its public key's DER form. Signing and verifying are securesystemslib's, the mathematics cryptography's.
Where keys lie is `keyfiles`' matter.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Literal

from stereo.errors import StereoError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stereo.trust.openpgp import Signer

KeyType = Literal["ed25519", "ecdsa-p256"]
PASSPHRASE = "STEREO_KEY_PASSPHRASE"
MAX_BYTES = 64 << 10
"""Of a file with keys in it."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----[ \t]*\r?\n(?:[^-]|-(?!----))*-----END \1-----")


class SignatureError(StereoError):
    """A signature that this key did not make over these bytes."""


class PublicKey:
    """A key that signatures are checked with."""

    def __init__(self, pem: bytes, where: str = "public key") -> None:
        """Read it from PEM of any origin. Raises UsageError, calling it `where`, unless it is one key of ours."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
        from securesystemslib.signer import SSlibKey

        blocks = pem_blocks(pem, where)
        if list(blocks) != ["PUBLIC KEY"]:
            hint = "it holds the secret key: give the .pub" if any("PRIVATE" in label for label in blocks) else None
            raise UsageError("holds no public key in PEM", where=where, hint=hint or "make one with `stereo keygen`")
        try:
            key = load_pem_public_key(blocks["PUBLIC KEY"])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError("holds a public key that cannot be read", where=where) from error
        self.type: KeyType
        if isinstance(key, Ed25519PublicKey):
            self.type = "ed25519"
        elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            self.type = "ecdsa-p256"
        else:
            raise UsageError("is neither an Ed25519 nor an ECDSA P-256 key", where=where)
        self.pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.keyid = hashlib.sha256(der).hexdigest()
        self._key = SSlibKey.from_crypto(key, keyid=self.keyid)

    @property
    def short(self) -> str:
        """The first 16 digits of the id: for file names and for people, never to decide by."""
        return self.keyid[:16]

    def verify(self, data: bytes, signature: bytes) -> None:
        """Raises SignatureError unless this key signed `data`. Ed25519: 64 bytes; ECDSA: DER, with SHA-256."""
        from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
        from securesystemslib.signer import Signature

        try:
            self._key.verify_signature(Signature(self.keyid, signature.hex()), data)
        except (UnverifiedSignatureError, VerificationError) as error:
            raise SignatureError(f"is not signed by the key {self.short}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.keyid == self.keyid

    def __hash__(self) -> int:
        return hash(self.keyid)


class SecretKey:
    """A key that signs. `openpgp` is the OpenPGP key that was made with it, or None."""

    def __init__(self, private: Ed25519PrivateKey | EllipticCurvePrivateKey, openpgp: Signer | None = None) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
        from securesystemslib.signer import CryptoSigner

        self.public = PublicKey(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        self.openpgp = openpgp
        self._private = private
        self._signer = CryptoSigner(private)

    @classmethod
    def generate(cls, key_type: KeyType) -> SecretKey:
        """A new key, without an OpenPGP one."""
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519

        if key_type == "ed25519":
            return cls(ed25519.Ed25519PrivateKey.generate())
        return cls(ec.generate_private_key(ec.SECP256R1()))

    def sign(self, data: bytes) -> bytes:
        """The signature over `data`: 64 bytes, always the same (Ed25519), or DER (ECDSA, with SHA-256)."""
        return bytes.fromhex(self._signer.sign(data).signature)

    def pem(self, passphrase: str | None) -> bytes:
        """PKCS#8 in PEM, encrypted by the passphrase if there is one."""
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def parse_secret(data: bytes, where: str, passphrase: str | None) -> SecretKey:
    """Read a secret key, and the OpenPGP one if it stands in the same text. Raises UsageError, calling it `where`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from stereo.trust.openpgp import Signer

    blocks = pem_blocks(data, where)
    armored = [blocks.pop(label) for label in ("PGP PRIVATE KEY BLOCK", "PGP MESSAGE") if label in blocks]
    label = next(iter(blocks), "")
    if len(blocks) != 1 or len(armored) > 1 or label not in ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"):
        hint = "it is the public half: give the .key" if label == "PUBLIC KEY" else "make one with `stereo keygen`"
        raise UsageError("holds no secret key in PKCS#8 PEM", where=where, hint=hint)
    encrypted = label.startswith("ENCRYPTED")
    if encrypted and not passphrase:
        raise UsageError("the key is encrypted", where=where, hint=f"give its passphrase in ${PASSPHRASE}")
    try:
        key = load_pem_private_key(blocks[label], passphrase.encode() if encrypted and passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise UsageError("does not open", where=where, hint=f"is ${PASSPHRASE} the right passphrase?") from error
        raise UsageError("holds a secret key that cannot be read", where=where) from error
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)
    ):
        return SecretKey(key, *(Signer(text, passphrase, where) for text in armored))
    raise UsageError("is neither an Ed25519 nor an ECDSA P-256 key", where=where)


def pem_blocks(data: bytes, where: str) -> dict[str, bytes]:
    """The blocks of a PEM text (RFC 7468) or of OpenPGP's ASCII armor, by label. Raises UsageError."""
    if len(data) > MAX_BYTES:
        raise UsageError(f"is larger than {MAX_BYTES} bytes", where=where, hint="this is no key")
    found = [(match[1].decode(), match[0] + b"\n") for match in _BLOCK.finditer(data)]
    if len(dict(found)) != len(found):
        raise UsageError("holds two keys of one kind", where=where)
    return dict(found)

"""Keys: what they sign and refuse, and PEM of any origin."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from stereo.errors import UsageError
from stereo.trust.keys import MAX_BYTES, KeyType, PublicKey, SecretKey, SignatureError, parse_secret

TYPES: list[KeyType] = ["ed25519", "ecdsa-p256"]
KEY = SecretKey.generate("ed25519")
PEM = KEY.pem(None)
SPKI = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PKCS8 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
OTHERS: dict[str, PrivateKeyTypes] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "ed448": ed448.Ed448PrivateKey.generate(),
}


@pytest.mark.parametrize("key_type", TYPES)
def test_a_signature_holds_for_its_bytes_and_its_key_alone(key_type: KeyType) -> None:
    key = SecretKey.generate(key_type)
    signature = key.sign(b"data")
    assert key.public.type == key_type
    key.public.verify(b"data", signature)
    with pytest.raises(SignatureError, match=key.public.short):
        key.public.verify(b"date", signature)
    with pytest.raises(SignatureError):
        SecretKey.generate(key_type).public.verify(b"data", signature)


@pytest.mark.parametrize("key_type", TYPES)
def test_every_flipped_bit_of_a_signature_is_noticed(key_type: KeyType) -> None:
    key = SecretKey.generate(key_type)
    signature = key.sign(b"data")
    for bit in range(len(signature) * 8):
        altered = bytearray(signature)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureError):
            key.public.verify(b"data", bytes(altered))


@pytest.mark.parametrize("key_type", TYPES)
@pytest.mark.parametrize("alter", [lambda s: b"", lambda s: s[:-1], lambda s: s + b"\0", lambda s: b"\0" * 64])
def test_what_is_no_signature_at_all_is_refused(key_type: KeyType, alter: Callable[[bytes], bytes]) -> None:
    key = SecretKey.generate(key_type)
    with pytest.raises(SignatureError):
        key.public.verify(b"data", alter(key.sign(b"data")))


def test_ed25519_signs_the_same_bytes_the_same_way() -> None:
    assert KEY.sign(b"data") == KEY.sign(b"data")
    assert len(KEY.sign(b"data")) == 64


def test_the_id_is_the_digest_of_the_der_form() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert PublicKey(private.public_key().public_bytes(*SPKI)).keyid == hashlib.sha256(der).hexdigest()


def test_line_ends_and_text_around_do_not_make_another_key() -> None:
    again = PublicKey(b"my key\n" + KEY.public.pem.replace(b"\n", b"\r\n") + b"some text after it\n")
    assert again == KEY.public
    assert hash(again) == hash(KEY.public)


def test_a_compressed_point_is_the_same_key() -> None:
    public = SecretKey.generate("ecdsa-p256").public
    point = base64.b64decode(b"".join(public.pem.splitlines()[1:-1]))[-64:]
    head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    small = base64.b64encode(head + bytes([2 + (point[-1] & 1)]) + point[:32])
    pem = b"-----BEGIN PUBLIC KEY-----\n" + small + b"\n-----END PUBLIC KEY-----\n"
    assert PublicKey(pem).keyid == public.keyid


@pytest.mark.parametrize("key_type", TYPES)
def test_a_passphrase_closes_a_secret_key(key_type: KeyType) -> None:
    key = SecretKey.generate(key_type)
    pem = key.pem("s3cret")
    assert parse_secret(pem, "x.key", "s3cret").public == key.public
    with pytest.raises(UsageError, match=r"encrypted.*STEREO_KEY_PASSPHRASE"):
        parse_secret(pem, "x.key", None)
    with pytest.raises(UsageError, match="does not open"):
        parse_secret(pem, "x.key", "wrong")


def test_a_passphrase_that_is_not_needed_does_no_harm() -> None:
    assert parse_secret(PEM, "x.key", "s3cret").public == KEY.public


@pytest.mark.parametrize("name", OTHERS)
def test_keys_of_other_kinds_are_refused_on_both_sides(name: str) -> None:
    private = OTHERS[name]
    with pytest.raises(UsageError, match="neither an Ed25519 nor an ECDSA P-256 key"):
        PublicKey(private.public_key().public_bytes(*SPKI), "x.pub")
    with pytest.raises(UsageError, match="neither an Ed25519 nor an ECDSA P-256 key"):
        parse_secret(private.private_bytes(*PKCS8), "x.key", None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no public key"),
        (PEM, "give the .pub"),
        (KEY.public.pem + PEM, "give the .pub"),
        (KEY.public.pem * 2, "two keys of one kind"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (b"-----BEGIN PUBLIC KEY-----\n\xff\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no public key"),
        (KEY.public.pem + b" " * MAX_BYTES, "larger than"),
        (b"-----BEGIN PUBLIC KEY-----\n" * 2000, "no public key"),
    ],
)
def test_what_is_no_public_key_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PublicKey(data, "x.pub")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no secret key"),
        (KEY.public.pem, "give the .key"),
        (PEM + SecretKey.generate("ed25519").pem(None), "two keys of one kind"),
        (PEM + KEY.pem("x"), "no secret key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be read"),
        (b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", "no secret key"),
        (PEM + b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n-----END PGP PRIVATE KEY BLOCK-----\n", "OpenPGP"),
        (b"x" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_what_is_no_secret_key_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_secret(data, "x.key", None)


@given(st.binary(max_size=400), st.integers(0, 200), st.integers(0, 40))
def test_any_bytes_are_a_key_or_a_usage_error(noise: bytes, at: int, length: int) -> None:
    altered = KEY.public.pem[:at] + noise + KEY.public.pem[at + length :]
    for data in (noise, altered):
        with suppress(UsageError):
            assert len(PublicKey(data).keyid) == 64
    with suppress(UsageError):
        parse_secret(PEM[:at] + noise[:30] + PEM[at + length :], "x", "pass")

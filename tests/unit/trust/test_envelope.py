"""DSSE envelopes: what they hold, who signed them, and bytes of any origin."""

from __future__ import annotations

import base64
import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from makers.signing import SUBJECTS, release_envelope, release_payload
from stereo.trust.envelope import MAX_BYTES, MAX_SIGNATURES, parse_envelope, seal
from stereo.trust.keys import KeyType, SecretKey, SignatureError
from stereo.trust.statement import MalformedError

KEY, OTHER = SecretKey.generate("ed25519"), SecretKey.generate("ecdsa-p256")
SEALED = release_envelope(KEY)
GOOD: dict[str, Any] = json.loads(SEALED)
BOTH = {**GOOD, "signatures": [*json.loads(release_envelope(OTHER))["signatures"], *GOOD["signatures"]]}


def dumped(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def signature(**changes: Any) -> bytes:
    return dumped(signatures=[{**GOOD["signatures"][0], **changes}])


@pytest.mark.parametrize("key_type", ["ed25519", "ecdsa-p256"])
def test_what_was_sealed_opens_and_says_by_whom(key_type: KeyType) -> None:
    key = SecretKey.generate(key_type)
    opened = parse_envelope(release_envelope(key), "x")
    opened.verify(key.public)
    assert opened.payload == release_payload()
    assert opened.statement.subjects == SUBJECTS
    assert [keyid for keyid, _ in opened.signatures] == [key.public.keyid]
    with pytest.raises(SignatureError, match=OTHER.public.short):
        opened.verify(OTHER.public)


def test_what_is_signed_is_the_encoding_of_the_specification() -> None:
    payload = release_payload()
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    KEY.public.verify(encoded, base64.b64decode(GOOD["signatures"][0]["sig"]))


def test_the_fields_are_those_of_the_specification() -> None:
    assert set(GOOD) == {"payload", "payloadType", "signatures"}
    assert GOOD["payloadType"] == "application/vnd.in-toto+json"
    assert [set(row) for row in GOOD["signatures"]] == [{"keyid", "sig"}]


def test_a_signature_over_the_bare_payload_does_not_count() -> None:
    bare = base64.b64encode(KEY.sign(release_payload())).decode()
    with pytest.raises(SignatureError):
        parse_envelope(signature(sig=bare), "x").verify(KEY.public)


def test_one_of_several_signatures_is_enough_for_its_key() -> None:
    opened = parse_envelope(json.dumps(BOTH).encode(), "x")
    opened.verify(KEY.public)
    opened.verify(OTHER.public)


@pytest.mark.parametrize("keyid", ["", None])
def test_a_signature_without_a_key_id_is_tried(keyid: str | None) -> None:
    opened = parse_envelope(signature(keyid=keyid), "x")
    opened.verify(KEY.public)
    with pytest.raises(SignatureError):
        opened.verify(OTHER.public)


def test_a_borrowed_key_id_helps_nobody() -> None:
    opened = parse_envelope(signature(keyid=OTHER.public.keyid), "x")
    for key in (KEY, OTHER):
        with pytest.raises(SignatureError):
            opened.verify(key.public)


def test_two_signatures_under_one_key_id_are_refused() -> None:
    rows = [json.loads(release_envelope(OTHER))["signatures"][0] for _ in range(2)]
    assert rows[0]["sig"] != rows[1]["sig"]
    with pytest.raises(MalformedError, match="two signatures by"):
        parse_envelope(dumped(signatures=rows), "x")


def test_unknown_fields_are_passed_over() -> None:
    parse_envelope(dumped(extra=[1]), "x").verify(KEY.public)


def test_the_other_base64_is_read_too() -> None:
    payload = GOOD["payload"].replace("+", "-").replace("/", "_")
    sig = GOOD["signatures"][0]["sig"].replace("+", "-").replace("/", "_")
    data = dumped(payload=payload, signatures=[{**GOOD["signatures"][0], "sig": sig}])
    parse_envelope(data, "x").verify(KEY.public)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "no JSON object"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b" " * (MAX_BYTES + 1), "larger than"),
        (SEALED.replace(b'"payloadType"', b'"payload"'), "stands twice"),
        (dumped(payloadType="application/vnd.in-toto+json\n"), "holds no application"),
        (dumped(payloadType=None), "holds no application"),
        (dumped(payload=None), "payload is not base64"),
        (dumped(payload="$"), "payload is not base64"),
        (dumped(payload="é"), "payload is not base64"),
        (dumped(payload="e30"), "payload is not base64"),
        (dumped(payload="e30="), "no in-toto Statement"),
        (dumped(signatures=None), "between 1 and"),
        (dumped(signatures=[]), "between 1 and"),
        (dumped(signatures=GOOD["signatures"] * (MAX_SIGNATURES + 1)), "between 1 and"),
        (dumped(signatures=GOOD["signatures"] * 2), "two signatures by"),
        (dumped(signatures=["x"]), "signature that is none"),
        (signature(keyid=7), "signature that is none"),
        (signature(keyid="x" * 200), "signature that is none"),
        (signature(sig=None), "is not base64"),
        (signature(sig=""), "of 0 bytes"),
        (signature(sig="A" * 4000), "of 3000 bytes"),
        (signature(keyid="\x1b[2J", sig="?"), r"signature by \\x1b\[2J is not base64"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_what_is_no_envelope_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words) as caught:
        parse_envelope(data, "release.dsse.json")
    assert caught.value.where == "release.dsse.json"
    assert caught.value.what.isprintable()


def test_every_flipped_bit_is_noticed() -> None:
    for bit in range(len(SEALED) * 8):
        data = bytearray(SEALED)
        data[bit // 8] ^= 1 << bit % 8
        try:
            opened = parse_envelope(bytes(data), "x")
            opened.verify(KEY.public)
        except (MalformedError, SignatureError):
            continue
        # Left are the bits that base64 and JSON do not use: the same is said, but in other words than ours.
        assert opened.payload == release_payload()
        assert opened.rendered != bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=300))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_envelope(data, "x")


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_value_in_any_place_is_an_envelope_or_malformed(key: str, value: Any) -> None:
    table = deepcopy(GOOD)
    table[key] = value
    try:
        opened = parse_envelope(json.dumps(table).encode(), "x")
    except MalformedError:
        return
    assert opened.payload == release_payload()


@given(st.binary(max_size=200))
def test_any_payload_that_is_signed_is_still_read_with_care(payload: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_envelope(seal(payload, KEY), "x")

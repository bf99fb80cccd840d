"""SHA256SUMS and its signature."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.trust.keys import SecretKey, SignatureError
from stereo.trust.sums import check_sums, render_sums, sign_sums

KEY = SecretKey.generate("ed25519")
TEXT = render_sums({"stereos.img": "1" * 64, "bzImage": "2" * 64})


def test_the_text_is_that_of_coreutils_sorted_by_name() -> None:
    assert TEXT.decode() == f"{'2' * 64}  bzImage\n{'1' * 64}  stereos.img\n"


def test_the_signature_is_base64_of_the_bare_one() -> None:
    text = sign_sums(TEXT, KEY)
    assert base64.b64decode(text) == KEY.sign(TEXT)
    check_sums(TEXT, text, KEY.public)
    check_sums(TEXT, text.strip(), KEY.public)


def test_every_flipped_bit_of_what_is_signed_is_noticed() -> None:
    signature = sign_sums(TEXT, KEY)
    for bit in range(len(TEXT) * 8):
        data = bytearray(TEXT)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureError):
            check_sums(bytes(data), signature, KEY.public)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_signature(data: bytes) -> None:
    with pytest.raises(SignatureError):
        check_sums(TEXT, data, KEY.public)

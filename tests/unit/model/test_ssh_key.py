"""Public keys: what sshd would take is kept, what it would not is refused with a reason."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.model.ssh_key import KEY_TYPES, check_ssh_key


def line(kind: str, *fields: bytes, named: str | None = None) -> str:
    """A line of authorized_keys whose blob has those fields after its type."""
    blob = b"".join(len(field).to_bytes(4, "big") + field for field in (kind.encode(), *fields))
    return f"{named or kind} {base64.b64encode(blob).decode()}"


ED25519 = line("ssh-ed25519", bytes(32))
GOOD = {
    "ssh-ed25519": ED25519,
    "ssh-rsa": line("ssh-rsa", b"\x01\x00\x01", b"\x00\x80" + bytes(255)),
    "ecdsa-sha2-nistp256": line("ecdsa-sha2-nistp256", b"nistp256", bytes(65)),
    "ecdsa-sha2-nistp384": line("ecdsa-sha2-nistp384", b"nistp384", bytes(97)),
    "ecdsa-sha2-nistp521": line("ecdsa-sha2-nistp521", b"nistp521", bytes(133)),
    "sk-ssh-ed25519@openssh.com": line("sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:"),
    "sk-ecdsa-sha2-nistp256@openssh.com": line("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", bytes(65), b"ssh:"),
}


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_every_type_that_sshd_knows_is_accepted(kind: str) -> None:
    assert check_ssh_key(GOOD[kind]) == GOOD[kind]


def test_blanks_and_newline_around_a_key_go_and_its_comment_stays() -> None:
    assert check_ssh_key(f"  {ED25519}   a  b \n") == f"{ED25519} a b"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected TYPE"),
        ("ssh-ed25519", "expected TYPE"),
        (ED25519.replace("ssh-ed25519", "ssh-dss"), "expected TYPE"),
        (f'command="sh" {ED25519}', "expected TYPE"),
        (ED25519 + "\n" + ED25519, "one line"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA", "private key"),
        ("ssh-ed25519 !!!!", "not base64"),
        ("ssh-ed25519 AAA", "not base64"),
        (ED25519[:40], "cut short"),
        (line("ssh-rsa", b"\x01\x00\x01", bytes(257), named="ssh-ed25519"), "says otherwise"),
        (line("ssh-ed25519", bytes(32), b"more"), "not the content"),
        (line("ssh-ed25519", bytes(31)), "32 bytes"),
        (line("ssh-rsa", b"\x01\x00\x01", b"\x00\x80" + bytes(127)), "2048 bits"),
        (line("ecdsa-sha2-nistp256", b"nistp384", bytes(65)), "curve"),
        ("ssh-ed25519 " + "A" * 20000, "longer than"),
    ],
)
def test_what_sshd_would_not_take_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_ssh_key(text)


@given(st.text() | st.binary(max_size=80).map(lambda blob: "ssh-ed25519 " + base64.b64encode(blob).decode()))
def test_any_text_is_a_key_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert check_ssh_key(text).split()[0] in KEY_TYPES

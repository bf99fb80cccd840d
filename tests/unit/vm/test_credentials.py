"""Credentials: what carries them is what systemd reads, and for root alone."""

from __future__ import annotations

import base64
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.artifacts.cpio import Cpio
from stereo.artifacts.region import Region
from stereo.artifacts.tree import Kind, find
from stereo.errors import StereoError
from stereo.vm.credentials import behind_initrd, check, smbios_string

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=200).filter(lambda name: not name.startswith("."))
VALUES = st.text(max_size=300)


def contents(archive: bytes) -> dict[str, bytes]:
    with Cpio(Region.of_bytes(archive)) as opened:
        rows = [entry for entry in opened.entries() if entry.kind is Kind.FILE]
        return {entry.path: opened.content(entry).read(0, entry.size) for entry in rows}


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5), st.binary(max_size=9))
def test_credentials_follow_an_initrd_of_any_size(credentials: dict[str, str], rest: bytes) -> None:
    initrd = behind_initrd(0, {"first": "archive"}) + bytes(len(rest))
    both = initrd + behind_initrd(len(initrd), credentials)
    assert contents(both) == {
        "/credentials/first": b"archive",
        **{f"/credentials/{name}": value.encode() for name, value in credentials.items()},
    }


def test_they_are_for_root_alone() -> None:
    with Cpio(Region.of_bytes(behind_initrd(0, {"token": "secret"}))) as archive:
        folder, file = find(archive, "/credentials"), find(archive, "/credentials/token")
    assert folder
    assert file
    assert (folder.kind, stat.S_IMODE(folder.mode), folder.uid, folder.gid) == (Kind.DIRECTORY, 0o700, 0, 0)
    assert (file.kind, stat.S_IMODE(file.mode), file.uid, file.gid) == (Kind.FILE, 0o400, 0, 0)


def test_firmware_carries_any_text() -> None:
    head, _, value = smbios_string("token", "a=b,\nü").partition(b"=")
    assert head == b"io.systemd.credential.binary:token"
    assert base64.b64decode(value).decode() == "a=b,\nü"


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../x", "a b", "a=b", "a\n", "ü", "x" * 201])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(StereoError, match="cannot be given to a machine"):
        check({name: "value"})


def test_a_value_that_is_too_long_is_refused() -> None:
    check({"token": "x" * (32 << 10)})
    with pytest.raises(StereoError, match="'token' cannot be given"):
        check({"token": "ü" * (16 << 10) + "x"})

"""The four files of a key: who may read them, what is refused, and that nothing is ever overwritten."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from makers.signing import new_key
from stereo.errors import StereoError, UsageError
from stereo.trust import keyfiles, openpgp
from stereo.trust.keyfiles import find_key, key_names, keys_folder, load_public, load_secret, make_key
from stereo.trust.keys import PASSPHRASE, SignatureError

SUFFIXES = {".key", ".pub", ".pgp", ".gpg"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(PASSPHRASE, raising=False)


def modes(folder: Path) -> dict[str, int]:
    return {path.suffix: path.stat().st_mode & 0o777 for path in folder.iterdir()}


@pytest.mark.parametrize("umask", [0, 0o22, 0o777])
def test_secrets_are_their_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    before = os.umask(umask)
    try:
        make_key("release", "ed25519", folder)
    finally:
        os.umask(before)
    assert modes(folder) == {".key": 0o600, ".pgp": 0o600, ".pub": 0o644, ".gpg": 0o644}


def test_what_is_made_can_be_read_and_belongs_together(tmp_path: Path) -> None:
    made = make_key("release", "ecdsa-p256", tmp_path)
    key = load_secret(made.files[".key"])
    assert key.public == load_public(made.files[".pub"]) == made.public
    assert key.openpgp is not None
    assert key.openpgp.certificate == made.files[".gpg"].read_bytes()


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_file_that_is_there_is_not_overwritten_and_nothing_is_made(tmp_path: Path, suffix: str) -> None:
    there = tmp_path / f"release{suffix}"
    there.write_text("mine")
    with pytest.raises(UsageError, match="never overwritten"):
        make_key("release", "ed25519", tmp_path)
    assert list(tmp_path.iterdir()) == [there]
    assert there.read_text() == "mine"


def test_a_link_into_nowhere_is_in_the_way_too(tmp_path: Path) -> None:
    (tmp_path / "release.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="never overwritten"):
        make_key("release", "ed25519", tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_making_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(keyfiles, "settle_folder", stop)
    with pytest.raises(KeyboardInterrupt):
        make_key("release", "ed25519", tmp_path / "keys")
    assert list((tmp_path / "keys").iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-", ".hidden", "a b", "a\n", "x" * 65, "ä"])
def test_a_name_is_a_plain_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name for a key"):
        make_key(name, "ed25519", tmp_path)


@pytest.mark.parametrize("suffix", [".pub", ".gpg"])
def test_what_is_for_everybody_is_no_secret_that_others_may_read(tmp_path: Path, suffix: str) -> None:
    made = make_key("release", "ed25519", tmp_path)
    with pytest.raises(UsageError, match=r"no secret key.*release\.key"):
        load_secret(made.files[suffix])


def test_who_names_a_key_where_its_public_file_belongs_is_told_the_file() -> None:
    made = make_key("release", "ed25519", keys_folder())
    with pytest.raises(UsageError) as refused:
        load_public(Path("release"))
    assert refused.value.hint == f"your key of that name: {made.files['.pub']}"


@pytest.mark.parametrize("suffix", [".key", ".pgp"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, suffix: str, mode: int) -> None:
    made = make_key("release", "ed25519", tmp_path)
    made.files[suffix].chmod(mode)
    with pytest.raises(UsageError, match=r"others may read this secret key.*chmod 600"):
        load_secret(made.files[".key"])


def test_a_passphrase_closes_both_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "s3cret")
    made = make_key("release", "ed25519", tmp_path)
    assert made.encrypted
    assert b"ENCRYPTED PRIVATE KEY" in made.files[".key"].read_bytes()
    assert b"PGP MESSAGE" in made.files[".pgp"].read_bytes()
    assert load_secret(made.files[".key"]).openpgp is not None
    monkeypatch.setenv(PASSPHRASE, "wrong")
    with pytest.raises(UsageError, match="does not open"):
        load_secret(made.files[".key"])
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(UsageError, match="is encrypted"):
        load_secret(made.files[".key"])


def test_a_key_without_an_openpgp_key_signs_all_the_same(tmp_path: Path) -> None:
    made = make_key("release", "ed25519", tmp_path)
    made.files[".pgp"].unlink()
    assert load_secret(made.files[".key"]).openpgp is None


@pytest.mark.parametrize("both", [False, True])
def test_a_key_may_come_on_stdin_with_its_openpgp_key_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    made = make_key("release", "ed25519", tmp_path)
    text = made.files[".key"].read_bytes() + made.files[".pgp"].read_bytes() * both
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    key = load_secret(Path("-"))
    assert key.public == made.public
    assert (key.openpgp is not None) == both


def test_an_endless_stdin_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/zero") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(UsageError, match="larger than"):
            load_secret(Path("-"))


def test_a_key_is_found_by_name_file_or_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert key_names() == []
    with pytest.raises(UsageError, match="stereo keygen"):
        find_key("release")
    new_key(keys_folder(), "release")
    assert key_names() == ["release"]
    assert find_key("release") == keys_folder() / "release.key"
    assert find_key("-") == Path("-")
    new_key(tmp_path, "here")
    assert find_key("here.key") == Path("here.key")
    Path("release").write_text("a script that happens to have a key's name")
    assert find_key("release") == keys_folder() / "release.key"
    with pytest.raises(UsageError, match=r"there is no key 'relase'.*your keys: release"):
        find_key("relase")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_plain_file_is_refused_and_nobody_waits(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.key")
    with pytest.raises(UsageError, match="not a plain file"):
        load_secret(tmp_path / "x.key")
    with pytest.raises(UsageError, match="not a plain file"):
        load_public(tmp_path / "x.key")


def test_a_key_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    for load in (load_secret, load_public):
        with pytest.raises(UsageError, match=r"x\.key: cannot be read"):
            load(tmp_path / "x.key")


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("no folder")
    with pytest.raises((StereoError, OSError)):
        make_key("release", "ed25519", tmp_path / "keys")


def test_openpgp_signatures_hold_for_their_bytes_and_their_key_alone() -> None:
    pair = openpgp.generate("release", None)
    signature = openpgp.Signer(pair.secret, None, "x.pgp").sign(b"data")
    openpgp.verify(b"data", signature, pair.certificate)
    for data, certificate in ((b"date", pair.certificate), (b"data", openpgp.generate("other", None).certificate)):
        with pytest.raises(SignatureError) as caught:
            openpgp.verify(data, signature, certificate)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("signature", [b"", b"garbage", b"\xc2\xff\xff\xff\xff\xff" + b"\0" * 100])
def test_what_is_no_openpgp_signature_is_refused(signature: bytes) -> None:
    pair = openpgp.generate("release", None)
    with pytest.raises(SignatureError):
        openpgp.verify(b"data", signature, pair.certificate)


def test_a_public_key_is_told_from_a_secret_one(tmp_path: Path) -> None:
    made = make_key("release", "ed25519", tmp_path)
    with pytest.raises(UsageError, match=r"give the \.pub"):
        load_public(made.files[".key"])
    made.files[".pub"].chmod(0o600)
    with pytest.raises(UsageError, match=r"give the \.key"):
        load_secret(made.files[".pub"])

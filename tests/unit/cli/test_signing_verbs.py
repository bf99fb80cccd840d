"""keygen and sign: what they print, what their exit status says, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from makers.altering import flipped
from makers.dist import make_dist
from stereo.cli.app import run
from stereo.trust.keys import PASSPHRASE

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(PASSPHRASE, raising=False)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    make_dist(tmp_path / "x86_64")
    return tmp_path / "x86_64"


def test_a_key_is_made_among_the_users_own(tmp_path: Path, capsys: Capture) -> None:
    assert run(["keygen", "release", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["type"] == "ed25519"
    assert not made["encrypted"]
    assert len(made["keyid"]) == 64
    assert made["files"]["key"] == str(tmp_path / "config/stereo/keys/release.key")
    assert {Path(path).exists() for path in made["files"].values()} == {True}
    assert run(["keygen", "release"]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_a_key_of_the_other_type_is_made_where_one_wants_it(tmp_path: Path, capsys: Capture) -> None:
    assert run(["keygen", "ci", "--type", "ecdsa-p256", "--output-dir", str(tmp_path / "keys")]) == 0
    said = capsys.readouterr()
    assert "ecdsa-p256" in said.out
    assert "not encrypted" in said.err
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["ci.gpg", "ci.key", "ci.pgp", "ci.pub"]


def test_a_dist_is_signed_and_signed_again(dist: Path, capsys: Capture) -> None:
    assert run(["keygen", "release"]) == 0
    capsys.readouterr()
    assert run(["sign", str(dist), "--key", "release", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in first["files"]} == {"written"}
    assert all((dist / row["file"]).is_file() for row in first["files"])
    assert run(["sign", str(dist), "--key", "release", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in again["files"]} == {"kept"}
    assert again["keyid"] == first["keyid"]


def test_an_altered_dist_is_not_signed(dist: Path, capsys: Capture) -> None:
    assert run(["keygen", "release"]) == 0
    with flipped(dist / "initrd", 100):
        assert run(["sign", str(dist), "--key", "release"]) == 1
    assert "does not verify: initrd" in capsys.readouterr().err
    assert not (dist / "SHA256SUMS").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--key", "nobody"], "there is no key 'nobody'"),
        (["--key", "release", "--expires", "soon"], "--expires: is no age"),
        (["--key", "release", "--builder-id", "ci"], "--builder-id: is no URI"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_read(
    dist: Path, capsys: Capture, words: list[str], said: str
) -> None:
    assert run(["keygen", "release"]) == 0
    assert run(["sign", str(dist), *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Verifying" not in told


def test_a_second_key_is_told_that_the_sums_are_another_ones(dist: Path, capsys: Capture) -> None:
    for name in ("one", "two"):
        assert run(["keygen", name]) == 0
        capsys.readouterr()
        assert run(["sign", str(dist), "--key", name]) == 0
    said = capsys.readouterr()
    assert "another key's  SHA256SUMS.sig" in said.out
    assert "SHA256SUMS.sig is not by this key" in said.err

"""Signing a dist: what is laid beside it, what stays, and that being killed anywhere is made good by the next run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from makers.dist import make_dist
from makers.signing import NOW, new_key
from stereo.assemble.files import settle_folder
from stereo.errors import ProblemsError, StereoError, UsageError
from stereo.model.manifest import MANIFEST_FILE, Manifest, parse_manifest, render_manifest
from stereo.registry.strict import canonical
from stereo.report import Silent
from stereo.trust.envelope import parse_envelope
from stereo.trust.keys import SecretKey
from stereo.trust.sign import Laid, Terms, add_statement, attestation_file, refuse_what_is_no_release, sign_dist
from stereo.trust.statement import release_predicate
from stereo.trust.sums import check_sums

TERMS = Terms(NOW)
Change = Callable[..., Manifest]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[SecretKey]:
    """One that signs the same way each time, and one that does not."""
    folder = tmp_path_factory.mktemp("keys")
    return [new_key(folder, "one", "ed25519"), new_key(folder, "two", "ecdsa-p256")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "x86_64"
    make_dist(folder)
    return folder


@pytest.fixture
def dist(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "dist" / "x86_64"))


@pytest.fixture
def manifest(dist: Path) -> Manifest:
    return parse_manifest((dist / MANIFEST_FILE).read_bytes(), MANIFEST_FILE)


def signed(
    dist: Path, manifest: Manifest, key: SecretKey, terms: Terms = TERMS, builder: str | None = None
) -> dict[str, str]:
    """What each file's state was."""
    return {row.file: row.state for row in sign_dist(dist, manifest, key, terms, Silent(), builder_id=builder)}


def content(dist: Path) -> dict[str, tuple[str, int]]:
    """Digest and inode of every file: what a rename or a write would change."""
    found = sorted(path for path in dist.rglob("*") if path.is_file())
    return {
        str(path.relative_to(dist)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_ino)
        for path in found
    }


@pytest.mark.parametrize("which", [0, 1])
def test_signing_adds_five_files_and_touches_no_other(
    dist: Path, manifest: Manifest, keys: list[SecretKey], which: int
) -> None:
    key, before = keys[which], content(dist)
    laid = signed(dist, manifest, key)
    assert list(laid) == [
        "SHA256SUMS",
        "SHA256SUMS.sig",
        "SHA256SUMS.gpg",
        attestation_file("release", key.public),
        attestation_file("provenance", key.public),
    ]
    assert set(laid.values()) == {"written"}
    after = content(dist)
    assert set(after) - set(before) == set(laid)
    assert {name: after[name] for name in before} == before
    assert {(dist / name).stat().st_mode & 0o777 for name in laid} == {0o644}
    assert sorted(path.name for path in dist.parent.iterdir()) == ["x86_64"]


def test_who_signs_what_nobody_else_can_build_hears_of_it(
    dist: Path, manifest: Manifest, changed: Change, keys: list[SecretKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(Silent, "warn", lambda self, text: heard.append(text))
    signed(dist, manifest, keys[0])
    assert heard == []
    dirty = changed(build=manifest.build.model_copy(update={"source_revision": "abc-dirty"}))
    signed(dist, dirty, keys[1])
    assert "nobody else can build it again" in heard[0]


def test_the_sums_name_every_file_of_the_build(dist: Path, manifest: Manifest, keys: list[SecretKey]) -> None:
    before = content(dist)
    signed(dist, manifest, keys[0])
    rows = [line.split("  ") for line in (dist / "SHA256SUMS").read_text().splitlines()]
    assert {name: digest for digest, name in rows} == {name: digest for name, (digest, _) in before.items()}
    check_sums((dist / "SHA256SUMS").read_bytes(), (dist / "SHA256SUMS.sig").read_bytes(), keys[0].public)


@pytest.mark.parametrize("which", [0, 1])
def test_signing_again_changes_nothing(dist: Path, manifest: Manifest, keys: list[SecretKey], which: int) -> None:
    signed(dist, manifest, keys[which])
    before = content(dist)
    later = Terms(NOW + timedelta(days=30))
    assert set(signed(dist, manifest, keys[which], later).values()) == {"kept"}
    assert content(dist) == before


def test_a_second_key_adds_its_statements_and_leaves_the_first_ones(
    dist: Path, manifest: Manifest, keys: list[SecretKey]
) -> None:
    signed(dist, manifest, keys[0])
    before = content(dist)
    assert signed(dist, manifest, keys[1]) == {
        "SHA256SUMS": "kept",
        "SHA256SUMS.sig": "another key's",
        attestation_file("release", keys[1].public): "written",
        attestation_file("provenance", keys[1].public): "written",
    }
    assert {name: row for name, row in content(dist).items() if name in before} == before


def test_what_has_expired_is_signed_anew(dist: Path, manifest: Manifest, keys: list[SecretKey]) -> None:
    signed(dist, manifest, keys[0], Terms(NOW, timedelta(days=30)))
    assert set(signed(dist, manifest, keys[0], Terms(NOW + timedelta(days=29))).values()) == {"kept"}
    states = signed(dist, manifest, keys[0], Terms(NOW + timedelta(days=30), timedelta(days=30)))
    assert [name for name, state in states.items() if state == "written"] == [
        attestation_file("release", keys[0].public),
        attestation_file("provenance", keys[0].public),
    ]
    read = parse_envelope((dist / attestation_file("release", keys[0].public)).read_bytes(), "x")
    assert read.statement.expires_on == NOW + timedelta(days=60)


def test_a_statement_is_renewed_before_it_expires_and_gets_the_end_that_is_asked_for(
    dist: Path, manifest: Manifest, keys: list[SecretKey]
) -> None:
    file, days = attestation_file("release", keys[0].public), timedelta(days=1)

    def state(at: int, lasting: int | None) -> str:
        return signed(dist, manifest, keys[0], Terms(NOW + at * days, lasting * days if lasting else None))[file]

    assert state(0, None) == "written"
    assert state(1, 100) == "written"  # it had no end
    assert [state(1, 100), state(50, 100), state(51, 100)] == ["kept"] * 3
    assert state(52, 100) == "written"  # of 100 days, 49 are left
    assert state(52, 30) == "written"  # it ended later
    assert [state(60, 30), state(60, None)] == ["kept"] * 2


def test_another_builder_is_another_provenance(dist: Path, manifest: Manifest, keys: list[SecretKey]) -> None:
    signed(dist, manifest, keys[0])
    states = signed(dist, manifest, keys[0], builder="https://ci.example.org")
    assert [name for name, state in states.items() if state == "written"] == [
        attestation_file("provenance", keys[0].public)
    ]


@pytest.mark.parametrize("data", [b"", b"garbage", b"{}"])
def test_a_broken_statement_of_this_key_is_made_anew(
    dist: Path, manifest: Manifest, keys: list[SecretKey], data: bytes
) -> None:
    signed(dist, manifest, keys[0])
    file = dist / attestation_file("release", keys[0].public)
    file.write_bytes(data)
    assert signed(dist, manifest, keys[0])[attestation_file("release", keys[0].public)] == "written"
    parse_envelope(file.read_bytes(), "x").verify(keys[0].public)


def test_a_statement_from_a_clock_that_was_ahead_is_made_anew(
    dist: Path, manifest: Manifest, keys: list[SecretKey]
) -> None:
    signed(dist, manifest, keys[0], Terms(NOW + timedelta(days=1)))
    assert signed(dist, manifest, keys[0])[attestation_file("release", keys[0].public)] == "written"


def test_a_statement_in_other_words_is_made_anew(dist: Path, manifest: Manifest, keys: list[SecretKey]) -> None:
    signed(dist, manifest, keys[0])
    file = dist / attestation_file("release", keys[0].public)
    good = file.read_bytes()
    file.write_bytes(good + b" ")
    assert signed(dist, manifest, keys[0])[attestation_file("release", keys[0].public)] == "written"
    assert file.read_bytes() == good


def test_an_openpgp_signature_with_something_behind_it_is_made_anew(
    dist: Path, manifest: Manifest, keys: list[SecretKey]
) -> None:
    signed(dist, manifest, keys[0])
    file = dist / "SHA256SUMS.gpg"
    file.write_bytes(file.read_bytes() + b"\0")
    assert signed(dist, manifest, keys[0])["SHA256SUMS.gpg"] == "written"


def test_a_statement_that_only_says_to_be_this_keys_is_made_anew(
    dist: Path, manifest: Manifest, keys: list[SecretKey]
) -> None:
    signed(dist, manifest, keys[0])
    file = dist / attestation_file("release", keys[0].public)
    borrowed = json.loads(file.read_text())
    borrowed["signatures"][0]["sig"] = base64.b64encode(keys[1].sign(b"something")).decode()
    file.write_bytes(canonical(borrowed) + b"\n")
    assert signed(dist, manifest, keys[0])[attestation_file("release", keys[0].public)] == "written"
    parse_envelope(file.read_bytes(), "x").verify(keys[0].public)


def test_everybody_may_read_what_was_signed_whatever_the_umask(
    dist: Path, manifest: Manifest, keys: list[SecretKey]
) -> None:
    before = os.umask(0o077)
    try:
        laid = signed(dist, manifest, keys[0])
    finally:
        os.umask(before)
    assert {(dist / name).stat().st_mode & 0o777 for name in laid} == {0o644}
    assert (dist / "attestations").stat().st_mode & 0o777 == 0o755


def test_sums_of_something_else_go_with_their_signatures(dist: Path, manifest: Manifest, keys: list[SecretKey]) -> None:
    signed(dist, manifest, keys[1])
    (dist / "SHA256SUMS").write_text("0" * 64 + "  stereos.img\n")
    states = signed(dist, manifest, keys[0])
    assert [states[name] for name in ("SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.gpg")] == ["written"] * 3
    check_sums((dist / "SHA256SUMS").read_bytes(), (dist / "SHA256SUMS.sig").read_bytes(), keys[0].public)


def test_without_an_openpgp_key_there_is_no_openpgp_signature(
    dist: Path, manifest: Manifest, keys: list[SecretKey]
) -> None:
    key = SecretKey.generate("ed25519")
    assert "SHA256SUMS.gpg" not in signed(dist, manifest, key)
    assert not (dist / "SHA256SUMS.gpg").exists()


class Killed(BaseException):
    """As if by SIGKILL: nothing of ours may answer it."""


@pytest.mark.parametrize("step", range(15))
def test_killed_anywhere_the_next_run_makes_it_whole(
    dist: Path, manifest: Manifest, keys: list[SecretKey], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each of the five files is brought to the disk, renamed, and its name brought to the disk."""
    seen: list[str] = []

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def until(*args: object, **kwargs: object) -> object:
            seen.append(call.__name__)
            if len(seen) > step:
                raise Killed
            return call(*args, **kwargs)

        return until

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr("stereo.trust.sign.settle_folder", counted(settle_folder))
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr("stereo.assemble.place.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            signed(dist, manifest, keys[0])
    for path in dist.rglob("*"):  # what can be seen is whole
        if path.suffix == ".json" and path.parent.name == "attestations":
            parse_envelope(path.read_bytes(), path.name).verify(keys[0].public)
    if (dist / "SHA256SUMS.sig").exists():
        check_sums((dist / "SHA256SUMS").read_bytes(), (dist / "SHA256SUMS.sig").read_bytes(), keys[0].public)
    assert len(signed(dist, manifest, keys[0])) == 5
    assert set(signed(dist, manifest, keys[0]).values()) == {"kept"}
    assert sorted(path.name for path in dist.parent.iterdir()) == ["x86_64"]


@pytest.fixture
def changed(dist: Path, manifest: Manifest) -> Change:
    def change(**values: object) -> Manifest:
        other = manifest.model_copy(update=values)
        (dist / MANIFEST_FILE).write_text(render_manifest(other))
        return other

    return change


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dev": True}, "a dev profile is not signed"),
        ({"version": "dev-abcdef"}, "the version dev-abcdef is not signed"),
        ({"version": "2026.1.2.0"}, r"the version 2026\.1\.2\.0 is not signed"),
    ],
)
def test_what_is_no_release_is_not_signed(
    dist: Path, changed: Change, keys: list[SecretKey], values: dict[str, object], words: str
) -> None:
    other = changed(**values)
    with pytest.raises(UsageError, match=words):
        signed(dist, other, keys[0])
    assert not (dist / "SHA256SUMS").exists()


def test_a_dist_that_is_here_in_part_is_not_signed(dist: Path, manifest: Manifest) -> None:
    (dist / "stereos.qcow2").unlink()
    with pytest.raises(UsageError, match=r"stereos\.qcow2 is not here, and only a whole dist is signed"):
        refuse_what_is_no_release(dist, manifest)


def test_a_manifest_that_changed_since_it_was_verified_is_noticed(
    dist: Path, manifest: Manifest, changed: Change, keys: list[SecretKey]
) -> None:
    changed(name="other-mixtape")
    with pytest.raises(StereoError, match="no longer what was verified"):
        signed(dist, manifest, keys[0])
    (dist / MANIFEST_FILE).write_text("garbage")
    with pytest.raises(ProblemsError):
        signed(dist, manifest, keys[0])


@pytest.mark.parametrize("name", ["SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.gpg", "attestations", "statement"])
def test_a_link_in_the_place_of_a_signature_is_not_followed(
    dist: Path, manifest: Manifest, keys: list[SecretKey], name: str
) -> None:
    signed(dist, manifest, keys[0])
    place = dist / (attestation_file("release", keys[0].public) if name == "statement" else name)
    outside = dist.parent / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    before = content(dist.parent)
    with pytest.raises(StereoError, match=r"link|no folder"):
        signed(dist, manifest, keys[0])
    assert content(dist.parent) == before


def test_an_sbom_that_changed_since_it_was_verified_is_noticed(
    dist: Path, manifest: Manifest, keys: list[SecretKey]
) -> None:
    (dist / "sbom.cdx.json").write_text("{}")
    with pytest.raises(StereoError, match=r"sbom\.cdx\.json: is no longer what was verified"):
        signed(dist, manifest, keys[0])
    assert not (dist / "SHA256SUMS").exists()


def test_a_dist_behind_a_link_is_signed_where_it_is(dist: Path, manifest: Manifest, keys: list[SecretKey]) -> None:
    link = dist.parent / "result"
    link.symlink_to("x86_64")
    signed(link, manifest, keys[0])
    assert link.is_symlink()
    assert (dist / "SHA256SUMS.sig").exists()


def test_a_statement_can_be_laid_by_itself(dist: Path, manifest: Manifest, keys: list[SecretKey]) -> None:
    predicate = release_predicate(manifest)
    laid = add_statement(dist, manifest, "release", predicate, keys[0], TERMS, Silent())
    assert laid == Laid(attestation_file("release", keys[0].public), "written")
    again = add_statement(dist, manifest, "release", predicate, keys[0], TERMS, Silent())
    assert again.state == "kept"
    assert [path.name for path in (dist / "attestations").iterdir()] == [laid.file.removeprefix("attestations/")]

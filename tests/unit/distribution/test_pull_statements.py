"""What a pull lays beside the files is what `verify` takes; and what else somebody who holds a registry may try."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from makers.dist import OS_RELEASE, make_dist
from makers.node import SAMPLE, file
from makers.published import NEW, OLD, make_release, publish_in_layout
from makers.signing import new_key
from stereo.distribution.arrival import Target
from stereo.distribution.publish import publish_statements
from stereo.distribution.pull import Options, Pulled, pull
from stereo.errors import StereoError, UsageError
from stereo.model.manifest import MANIFEST_FILE, parse_manifest, render_manifest
from stereo.model.pulled import parse_pulled
from stereo.registry import media
from stereo.registry.documents import describe, referrer
from stereo.registry.errors import DigestMismatch
from stereo.registry.parse import parse_index
from stereo.registry.reference import Reference
from stereo.registry.remote import open_remote
from stereo.report import Report, Silent
from stereo.trust.dist import Papers, examine
from stereo.trust.envelope import parse_envelope
from stereo.trust.keys import SecretKey
from stereo.trust.policy import Policy, load_policy
from stereo.trust.sign import Terms, sign_dist
from unit.distribution.publishing import NOW

OLDER = "2026.01.01.0"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "stereo"


@pytest.fixture
def key(tmp_path: Path) -> SecretKey:
    return new_key(tmp_path / "keys")


@pytest.fixture
def policy(tmp_path: Path, key: SecretKey) -> Policy:
    text = '[[key]]\nname = "it"\npublic_key = "keys/release.pub"\nopenpgp = "keys/release.gpg"\n'
    (tmp_path / "policy").write_text(f'schema = 1\n{text}roles = ["release", "provenance"]\n')
    return load_policy(tmp_path / "policy")


@pytest.fixture
def dist(tmp_path: Path, key: SecretKey) -> Path:
    """A release that is signed for ten days, and published."""
    made = make_release(tmp_path / "dist", OLD)
    sign(made, key, NOW, 10)
    publish_in_layout(tmp_path / "layout", made)
    return made


@pytest.fixture
def reference(dist: Path, tmp_path: Path) -> Reference:
    return Reference("layout", path=str(tmp_path / "layout"), tag=OLD)


def sign(dist: Path, key: SecretKey, now: datetime, days: int) -> None:
    manifest = parse_manifest((dist / MANIFEST_FILE).read_bytes(), MANIFEST_FILE)
    sign_dist(dist, manifest, key, Terms(now, timedelta(days=days)), Silent())


def get(
    reference: Reference,
    policy: Policy | None,
    now: datetime = NOW,
    folder: Path | None = None,
    report: Report | None = None,
) -> Pulled:
    options = Options(folder=folder)
    return pull(reference, open_remote(reference), options, policy=policy, now=now, report=report or Silent())


def papers(pulled: Pulled, policy: Policy, now: datetime = NOW) -> Papers:
    return examine(pulled.path, pulled.manifest, policy, now)


def add(reference: Reference, artifact_type: str, title: str, content: bytes) -> None:
    """As somebody who may push there: one more document that refers to the release."""
    remote = open_remote(reference)
    subject = parse_index(remote.get_manifest(OLD)[1]).of_architecture("amd64")["raw"]
    blob = describe(content, artifact_type if artifact_type == media.DSSE else media.PLAIN_TEXT, title=title)
    remote.put_blob(blob, content)
    remote.put_manifest(referrer(subject, artifact_type, [blob], {}), media.IMAGE_MANIFEST)


class Warned(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("asked", [True, False])
def test_of_a_statement_and_its_renewal_the_renewal_comes(
    reference: Reference, dist: Path, key: SecretKey, policy: Policy, asked: bool
) -> None:
    later = NOW + timedelta(days=9)
    shutil.rmtree(dist / "attestations")
    sign(dist, key, later, 400)
    publish_statements(dist, open_remote(reference), report=Silent())
    end = NOW + timedelta(days=20)
    pulled = get(reference, policy if asked else None, end)
    assert papers(pulled, policy, end).ok


def test_statements_do_not_go_through_a_link(reference: Reference, policy: Policy, tmp_path: Path) -> None:
    pulled = get(reference, policy)
    shutil.rmtree(pulled.path / "attestations")
    (tmp_path / "elsewhere").mkdir()
    (pulled.path / "attestations").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StereoError, match="is a symbolic link"):
        get(reference, policy)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_stranger_who_takes_the_name_of_a_statement_does_not_take_its_place(
    reference: Reference, dist: Path, key: SecretKey, policy: Policy, tmp_path: Path
) -> None:
    stranger = new_key(tmp_path / "strangers")
    other = tmp_path / "other"
    shutil.copytree(dist, other, ignore=shutil.ignore_patterns("SHA256SUMS*", "attestations"))
    sign(other, stranger, NOW + timedelta(minutes=5), 300)
    for path in (other / "attestations").iterdir():
        text = path.read_bytes().replace(stranger.public.keyid.encode(), f"{key.public.short}{'0' * 48}".encode())
        assert parse_envelope(text, "it").signatures[0][0][:16] == key.public.short
        add(reference, media.DSSE, "statement", text)
    pulled = get(reference, policy)
    assert papers(pulled, policy).ok


def test_signatures_that_verify_would_refuse_are_left_behind(reference: Reference, dist: Path, policy: Policy) -> None:
    sums = (dist / "SHA256SUMS").read_bytes()
    remote = open_remote(reference)
    add(reference, media.CHECKSUMS, "SHA256SUMS.sig", b"A" * 88 + b"\n")
    add(reference, media.CHECKSUMS, "SHA256SUMS", sums.replace(b"0", b"1"))
    pulled = get(reference, policy)
    assert papers(pulled, policy).ok
    assert (pulled.path / "SHA256SUMS.sig").read_bytes() == (dist / "SHA256SUMS.sig").read_bytes()
    shutil.rmtree(pulled.path)
    for row in remote.referrers(parse_index(remote.get_manifest(OLD)[1]).of_architecture("amd64")["raw"].digest):
        if row.artifact_type == media.CHECKSUMS:
            remote.remove(row.digest)
    with_none = get(reference, policy)
    assert not (with_none.path / "SHA256SUMS").exists()
    shutil.rmtree(with_none.path)
    add(reference, media.CHECKSUMS, "SHA256SUMS", sums.replace(b"0", b"1"))
    with pytest.raises(DigestMismatch, match="SHA256SUMS"):
        get(reference, policy)


def test_a_signature_of_a_stranger_is_left_behind_and_said_to_be(
    reference: Reference, dist: Path, policy: Policy, tmp_path: Path
) -> None:
    stranger, report = new_key(tmp_path / "strangers"), Warned()
    (tmp_path / "strangers.toml").write_text(
        'schema = 1\n[[key]]\nname = "s"\npublic_key = "strangers/release.pub"\nroles = ["release", "provenance"]\n'
    )
    other = tmp_path / "other"
    shutil.copytree(dist, other, ignore=shutil.ignore_patterns("SHA256SUMS*", "attestations"))
    sign(other, stranger, NOW, 300)
    for path in (other / "attestations").iterdir():
        add(reference, media.DSSE, path.name, path.read_bytes())
    pulled = get(reference, load_policy(tmp_path / "strangers.toml"), report=report)
    assert any("SHA256SUMS.sig" in text and "left behind" in text for text in report.said)
    assert (pulled.path / "SHA256SUMS").exists()
    assert not (pulled.path / "SHA256SUMS.sig").exists()


# Another mixtape in the same place


def test_a_place_that_has_another_mixtape_now_is_refused(reference: Reference, dist: Path, tmp_path: Path) -> None:
    get(reference, None)
    shutil.rmtree(reference.path)
    text = OS_RELEASE.replace(b"sample-mixtape", b"other-mixtape").replace(OLD.encode(), NEW.encode())
    manifest = make_dist(tmp_path / "other", root=SAMPLE | {"/usr/lib/os-release": file(text)})
    named = manifest.model_copy(update={"name": "other-mixtape", "version": NEW})
    (tmp_path / "other" / MANIFEST_FILE).write_text(render_manifest(named))
    there = publish_in_layout(Path(reference.path), tmp_path / "other")
    for asked in (there, there.with_tag("latest")):
        with pytest.raises(StereoError, match="has other-mixtape now, and sample-mixtape was pulled from there"):
            get(asked, None)


# The folders of the user


def test_a_pipe_in_the_store_is_not_waited_for(reference: Reference, data: Path) -> None:
    pulled = get(reference, None)
    origin = pulled.path / "pulled.json"
    origin.unlink()
    os.mkfifo(origin)
    assert get(reference.with_tag("latest"), None).was_there


@pytest.mark.parametrize("name", ["я" * 60 + "/" + "ж" * 120, "not-utf-8-\udcff", "a b%20c\n"])
def test_from_a_folder_of_any_name(reference: Reference, tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    shutil.copytree(reference.path, place)
    there = Reference("layout", path=str(place), tag=OLD)
    assert parse_pulled((get(there, None).path / "pulled.json").read_bytes()).reference
    shutil.rmtree(place)
    make_release(tmp_path / "older", OLDER)
    publish_in_layout(place, tmp_path / "older")
    with pytest.raises(StereoError, match="was pulled from there before"):
        get(there.with_tag("latest"), None)


def test_the_root_is_no_place_for_a_dist(reference: Reference) -> None:
    with pytest.raises(UsageError, match="no place for a dist"):
        get(reference, None, folder=Path("/"))


def test_a_folder_of_somebody_else_is_not_put_anything_in(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside --output-dir, in /tmp say, anybody may make the folder first, and alter in it what was verified."""
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    with pytest.raises(StereoError, match="belongs to somebody else"):
        get(reference, None, folder=tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_who_waited_for_somebody_elses_pull_leaves_no_folder(
    reference: Reference, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = get(reference, None)
    answers: Iterator[bool] = iter([False, True])
    moved = pulled.path.rename(pulled.path.with_name("aside"))
    assert moved.is_dir()
    monkeypatch.setattr(Target, "holds", lambda self, offer: next(answers))
    assert get(reference, None).was_there
    assert not list((data / "pulls").iterdir())


def test_what_was_said_of_a_dist_since_it_was_pulled_comes_when_it_counts(
    reference: Reference, dist: Path, key: SecretKey, policy: Policy, tmp_path: Path
) -> None:
    pulled = get(reference, policy)
    (before,) = (pulled.path / "attestations").glob("release.*")
    disk = (pulled.path / "stereos.img").stat().st_ino
    later = NOW + timedelta(days=11)
    sign(dist, key, later, 10)
    sign(dist, new_key(tmp_path / "keys", "stranger"), later, 10)
    publish_statements(dist, open_remote(reference), report=Silent())
    assert get(reference, None, later).was_there
    assert not papers(pulled, policy, later).ok
    again = get(reference, policy, later)
    assert again.was_there
    assert papers(again, policy, later).ok
    assert list((pulled.path / "attestations").glob("release.*")) == [before]
    assert (pulled.path / "stereos.img").stat().st_ino == disk
    assert not list(pulled.path.parent.glob(".*staging*"))

"""Pulling: whole and believed, or nothing of it is seen."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from makers.hostile_registry import ANSWER_FAULTS, BLOB_FAULTS, DOCUMENT_FAULTS, HostileRegistry
from makers.node import file
from makers.published import NEW, OLD, make_release, publish_in_layout
from makers.signing import new_key
from stereo import dists
from stereo.check.verify import verify
from stereo.distribution.partial import Patience
from stereo.distribution.pull import Options, PolicyError, Pulled, pull
from stereo.dists.use import Users
from stereo.errors import StereoError, UsageError
from stereo.holding import holding
from stereo.model.manifest import MANIFEST_FILE, parse_manifest
from stereo.model.pulled import parse_pulled
from stereo.registry import media
from stereo.registry.documents import Descriptor
from stereo.registry.errors import DigestMismatch, Malformed, NotFound, RegistryError
from stereo.registry.layout import LayoutRemote
from stereo.registry.reference import Reference, parse_reference
from stereo.registry.remote import BlobStream, Limits, open_remote
from stereo.report import Silent
from stereo.trust.envelope import seal
from stereo.trust.policy import Policy, policy_of_keys
from stereo.trust.sign import attestation_file
from stereo.trust.statement import file_digests, release_predicate, render_statement, subjects_of
from stereo.trust.sums import render_sums, sign_sums

HASTE = Patience(attempts=2, pause=0, longest_pause=0.05)
LIMITS = Limits(connect=1, stalled=0.3, answer=1, attempts=2, longest_wait=0.05)
NOW = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "stereo"


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("releases")
    noise = file(hashlib.shake_128(b"noise").digest(600_000))
    found = {OLD: make_release(folder / "old", OLD, more={"/usr/noise": noise})}
    found[NEW] = make_release(folder / "new", NEW, more={"/usr/noise": noise})
    return found


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, releases: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("registry") / "sample"
    for dist in releases.values():
        publish_in_layout(folder, dist)
    return folder


@pytest.fixture
def layout(tmp_path: Path, registry: Path) -> Reference:
    shutil.copytree(registry, tmp_path / "registry" / "sample")
    return Reference("layout", path=str(tmp_path / "registry" / "sample"), tag=OLD)


def get(
    reference: Reference, policy: Policy | None = None, users: Callable[[], Users] = dict, **options: object
) -> Pulled:
    chosen = Options(patience=HASTE, **options)  # type: ignore[arg-type]
    remote = open_remote(reference, limits=LIMITS)
    return pull(reference, remote, chosen, policy=policy, now=NOW, users=users, report=Silent())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(pulled: Path, published: Path, *, without: tuple[str, ...] = ("stereos.qcow2", "stereos.qcow2.zst")) -> bool:
    there, wanted = tree(pulled), tree(published)
    assert parse_pulled(there.pop("pulled.json"))
    return there == {name: content for name, content in wanted.items() if name not in without}


# What a pull brings


def test_a_pulled_dist_is_what_was_published_and_a_sandbox_finds_it(
    layout: Reference, releases: dict[str, Path], data: Path
) -> None:
    pulled = get(layout)
    assert same(pulled.path, releases[OLD])
    assert verify(pulled.path, Silent()).ok
    assert dists.resolve(f"sample-mixtape:{OLD}", arch="x86_64").path == pulled.path
    assert pulled.path == data / "dists" / "sample-mixtape" / OLD / "x86_64"
    assert not list((data / "pulls").iterdir())
    assert (pulled.path / "bzImage").stat().st_mtime == pulled.manifest.build.epoch


def test_without_a_tag_the_latest_is_pulled(layout: Reference) -> None:
    assert get(layout.with_tag(None)).manifest.version == NEW


@pytest.mark.parametrize(
    ("formats", "without"),
    [(("qcow2",), ("stereos.img", "stereos.img.zst")), (("raw", "qcow2"), ())],
)
def test_other_formats_are_pulled_when_asked_for(
    layout: Reference, releases: dict[str, Path], formats: tuple[str, ...], without: tuple[str, ...]
) -> None:
    pulled = get(layout, formats=formats)
    assert same(pulled.path, releases[OLD], without=without)
    assert verify(pulled.path, Silent()).ok


def test_a_format_that_is_added_later_leaves_those_that_are_there(layout: Reference, releases: dict[str, Path]) -> None:
    get(layout)
    pulled = get(layout, formats=("qcow2",))
    assert same(pulled.path, releases[OLD], without=())
    assert pulled.reused > pulled.fetched


def test_pulled_again_nothing_is_done(layout: Reference) -> None:
    first = get(layout)
    stamp = (first.path / "stereos.img").stat().st_ino
    again = get(layout)
    assert again.was_there
    assert again.fetched == 0
    assert (first.path / "stereos.img").stat().st_ino == stamp


def test_a_folder_can_be_named(layout: Reference, releases: dict[str, Path], tmp_path: Path) -> None:
    pulled = get(layout, folder=tmp_path / "here")
    assert pulled.path == tmp_path / "here"
    assert same(pulled.path, releases[OLD])
    assert list(tmp_path.glob(".here*")) == []


def test_another_architecture_that_is_not_there_is_said_to_be_missing(layout: Reference) -> None:
    from stereo.model.architecture import Architecture

    with pytest.raises(NotFound, match="aarch64"):
        get(layout, arch=Architecture.AARCH64)


# Only what changed


def test_an_update_fetches_only_what_changed_and_is_the_same_bit_for_bit(
    layout: Reference, releases: dict[str, Path]
) -> None:
    full = get(layout)
    update = get(layout.with_tag(NEW))
    assert same(update.path, releases[NEW])
    assert update.fetched < full.fetched / 4
    assert update.fetched + update.reused == update.size


def test_a_dist_that_rotted_in_the_store_costs_a_transfer_and_no_more(
    layout: Reference, releases: dict[str, Path]
) -> None:
    old = get(layout).path
    packed = bytearray((old / "stereos.img.zst").read_bytes())
    packed[len(packed) // 2] ^= 1
    (old / "stereos.img.zst").write_bytes(packed)
    (old / "bzImage").write_bytes(bytes((old / "bzImage").stat().st_size))
    assert same(get(layout.with_tag(NEW)).path, releases[NEW])


# What is there already


def test_another_dist_is_not_replaced_unless_forced(layout: Reference, releases: dict[str, Path]) -> None:
    place = get(layout).path
    text = (place / MANIFEST_FILE).read_text()
    (place / MANIFEST_FILE).write_text(text.replace('revision = "abc"', 'revision = "def"'))
    before = tree(place)
    with pytest.raises(UsageError, match="other bytes"):
        get(layout)
    assert tree(place) == before
    assert same(get(layout, force=True).path, releases[OLD])


def test_one_in_use_is_not_replaced_even_then(layout: Reference, releases: dict[str, Path]) -> None:
    place = get(layout).path
    shutil.copytree(releases[NEW], place, dirs_exist_ok=True)
    with holding(place), pytest.raises(StereoError, match="in use by a running program"):
        get(layout, force=True)
    with pytest.raises(StereoError, match="in use by sandbox work"):
        get(layout, users=lambda: {place.resolve(): "sandbox work"}, force=True)


def test_a_link_of_the_store_to_a_build_is_not_replaced_unless_forced(
    layout: Reference, releases: dict[str, Path], data: Path
) -> None:
    store = data / "dists"
    dists.register(releases[NEW], name="sample-mixtape", version=OLD, arch="x86_64", store=store)
    with pytest.raises(UsageError, match="other bytes"):
        get(layout)
    assert same(get(layout, force=True).path, releases[OLD])
    assert (releases[NEW] / MANIFEST_FILE).exists()


def test_what_is_no_dist_is_never_replaced(layout: Reference, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    for force in (False, True):
        with pytest.raises(UsageError, match="is no dist"):
            get(layout, folder=tmp_path / "home", force=force)
    assert (tmp_path / "home" / "letter").read_text() == "dear"


def test_latest_that_went_back_is_refused(layout: Reference) -> None:
    get(layout.with_tag(None))
    remote = LayoutRemote(layout)
    remote.put_manifest(remote.get_manifest(OLD)[1], remote.get_manifest(OLD)[0].media_type, "latest")
    with pytest.raises(StereoError, match=f"is {OLD} now, and {NEW} was pulled"):
        get(layout.with_tag(None))
    assert get(layout).manifest.version == OLD
    assert get(layout.with_tag(None), allow_older=True).manifest.version == OLD


def test_a_tag_that_leads_to_another_version_is_refused(layout: Reference) -> None:
    remote = LayoutRemote(layout)
    remote.put_manifest(remote.get_manifest(NEW)[1], remote.get_manifest(NEW)[0].media_type, OLD)
    with pytest.raises(Malformed, match=f"the tag {OLD} leads to"):
        get(layout)


def test_what_a_killed_pull_left_is_gone_on_from_and_strange_things_in_it_are_not(
    layout: Reference, releases: dict[str, Path], data: Path
) -> None:
    digest = hashlib.sha256((releases[OLD] / MANIFEST_FILE).read_bytes()).hexdigest()
    work = data / "pulls" / f"{digest[:32]}-raw"
    (work / "attestations").mkdir(parents=True)
    (work / "attestations" / "release.0123456789abcdef.dsse.json").write_text("{}")
    (work / "strange").write_text("not of the dist")
    (work / "bzImage").symlink_to("/etc/passwd")
    packed = (releases[OLD] / "stereos.img.zst").read_bytes()
    (work / "stereos.img.zst").write_bytes(packed[: len(packed) // 2])
    pulled = get(layout)
    assert same(pulled.path, releases[OLD])
    assert pulled.reused == len(packed) // 2


def test_pulls_that_nobody_came_back_to_are_cleared(layout: Reference, data: Path) -> None:
    for name, age in (("old", 30), ("young", 1)):
        (data / "pulls" / name).mkdir(parents=True)
        stamp = datetime.now(UTC).timestamp() - age * 86400
        os.utime(data / "pulls" / name, (stamp, stamp))
    get(layout)
    assert [path.name for path in (data / "pulls").iterdir()] == ["young"]


# Who is believed


@pytest.fixture
def signed(tmp_path: Path, releases: dict[str, Path]) -> tuple[Reference, Policy, Policy]:
    """A signed release in a layout; a policy of its signer, and one of somebody else."""
    key = new_key(tmp_path / "keys", "signer")
    new_key(tmp_path / "keys", "stranger")
    dist = tmp_path / "signed"
    shutil.copytree(releases[OLD], dist)
    text = (dist / MANIFEST_FILE).read_bytes()
    manifest = parse_manifest(text, MANIFEST_FILE)
    payload = render_statement("release", subjects_of(manifest, text), release_predicate(manifest), NOW, None)
    (dist / "attestations").mkdir()
    (dist / attestation_file("release", key.public)).write_bytes(seal(payload, key))
    sums = render_sums(file_digests(manifest, text))
    (dist / "SHA256SUMS").write_bytes(sums)
    (dist / "SHA256SUMS.sig").write_bytes(sign_sums(sums, key))
    reference = publish_in_layout(tmp_path / "registry" / "signed", tmp_path / "signed")
    return reference, *(policy_of_keys([tmp_path / "keys" / f"{name}.pub"]) for name in ("signer", "stranger"))  # type: ignore[return-value]


def test_a_signed_dist_comes_with_its_signatures(signed: tuple[Reference, Policy, Policy], tmp_path: Path) -> None:
    reference, policy, _ = signed
    pulled = get(reference, policy)
    assert pulled.signers
    assert same(pulled.path, tmp_path / "signed")


def test_what_the_policy_does_not_believe_is_refused_before_a_disk_is_fetched(
    signed: tuple[Reference, Policy, Policy], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, _, stranger = signed
    fetched: list[str | None] = []
    original = LayoutRemote.open_blob

    def remembered(self: LayoutRemote, blob: Descriptor, *rest: int) -> AbstractContextManager[BlobStream]:
        fetched.append(blob.title)
        return original(self, blob, *rest)

    monkeypatch.setattr(LayoutRemote, "open_blob", remembered)
    with pytest.raises(PolicyError, match="unknown-key"):
        get(reference, stranger)
    assert "mixtape.toml" in fetched
    assert "stereos.img.zst" not in fetched
    assert not (data / "dists").exists()
    assert not (data / "pulls").exists()


def test_an_unsigned_dist_is_refused_with_a_policy(
    layout: Reference, signed: tuple[Reference, Policy, Policy], data: Path
) -> None:
    with pytest.raises(PolicyError, match="missing"):
        get(layout, signed[1])
    assert not (data / "dists").exists()


# Registries that lie


@pytest.fixture
def hostile(layout: Reference) -> Iterator[HostileRegistry]:
    with HostileRegistry(Path(layout.path), "sample") as registry:
        yield registry


HARMLESS = ("range-ignored", "range-lying", "digest-header-lies", "tag-flips", "short-body", "reset", "packed-body")
"""Faults that a pull may survive, with the right bytes."""


@pytest.mark.parametrize("fault", [*BLOB_FAULTS, *DOCUMENT_FAULTS, *ANSWER_FAULTS])
@pytest.mark.parametrize("way", ["registry", "static"])
def test_a_registry_that_lies_is_refused_and_the_old_copy_stays(
    hostile: HostileRegistry, releases: dict[str, Path], tmp_path: Path, fault: str, way: str
) -> None:
    text = f"{hostile.host}/sample:{OLD}" if way == "registry" else f"{hostile.static}:{OLD}"
    here = tmp_path / "here"
    shutil.copytree(releases[NEW], here)
    before = tree(here)
    hostile.wrong(fault)
    refused: StereoError | None = None
    try:
        pulled = get(parse_reference(text), folder=here, force=True)
    except StereoError as error:
        refused = error
    if refused is None:
        assert fault in HARMLESS or way == "static", fault
        assert same(pulled.path, releases[OLD])
    else:
        assert isinstance(refused, RegistryError), refused
        assert tree(here) == before
    assert not hostile.stranger_requests
    if (work := next(iter(tmp_path.glob(".here.pull-*")), None)) is not None:
        kept = (work / "stereos.img.zst") if (work / "stereos.img.zst").exists() else None
        whole = (releases[OLD] / "stereos.img.zst").read_bytes()
        assert kept is None or whole.startswith(kept.read_bytes())
    hostile.wrong(None)
    assert same(get(parse_reference(text), folder=here, force=True).path, releases[OLD])


@pytest.mark.parametrize("name", ["stereos.img.zst", "bzImage", "initrd", "cmdline", "init", "sbom.cdx.json"])
def test_a_flipped_bit_in_any_file_is_caught_and_named(
    layout: Reference, releases: dict[str, Path], data: Path, name: str
) -> None:
    content = (releases[OLD] / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    blob = Path(layout.path) / "blobs" / "sha256" / digest
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DigestMismatch, match=digest if name != "stereos.img.zst" else "stereos.img|sha256"):
        get(layout)
    assert not (data / "dists" / "sample-mixtape" / OLD / "x86_64").exists()


def test_a_manifest_that_promises_other_bytes_than_mixtape_toml_is_refused(
    layout: Reference, releases: dict[str, Path]
) -> None:
    other = b"another kernel"
    remote = LayoutRemote(layout)
    index = json.loads(remote.get_manifest(OLD)[1])
    for entry in index["manifests"]:
        image = json.loads(remote.get_manifest(entry["digest"])[1])
        for layer in image["layers"]:
            if layer["annotations"]["org.opencontainers.image.title"] == "bzImage":
                layer["digest"], layer["size"] = f"sha256:{hashlib.sha256(other).hexdigest()}", len(other)
        described = remote.put_manifest(json.dumps(image).encode(), entry["mediaType"])
        entry["digest"], entry["size"] = described.digest, described.size
    remote.put_manifest(json.dumps(index).encode(), index["mediaType"], OLD)
    with pytest.raises(Malformed, match="as bzImage"):
        get(layout)


# No room


def test_a_full_disk_is_told_and_what_came_is_kept(
    layout: Reference, releases: dict[str, Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, view: memoryview, position: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("stereo.distribution.receive.os.pwrite", full)
        with pytest.raises(StereoError, match="no space is left") as error:
            get(layout)
    assert error.value.hint
    assert not (data / "dists" / "sample-mixtape" / OLD / "x86_64").exists()
    assert same(get(layout).path, releases[OLD])


def test_a_flipped_bit_in_any_document_or_blob_is_caught_and_named(
    signed: tuple[Reference, Policy, Policy], tmp_path: Path
) -> None:
    reference, policy, _ = signed
    good = tree(get(reference, policy, folder=tmp_path / "good", formats=("raw", "qcow2")).path)
    unread = []
    for number, blob in enumerate(sorted((Path(reference.path) / "blobs" / "sha256").iterdir())):
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        here, refused = tmp_path / f"here-{number}", ""
        try:
            get(reference, policy, folder=here, formats=("raw", "qcow2"))
        except StereoError as error:
            refused = str(error)
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        if refused:
            files = [name for name in good if hashlib.sha256(good[name]).hexdigest() == blob.name]
            assert any(name in refused for name in (blob.name, *files)), refused
            assert not here.exists()
        else:  # nothing of it was needed
            assert tree(here) == good
            unread.append(bytes(content))
    # SBOMs are known by their digests, frames are for updates, and one document is for cosign.
    assert {json.loads(data).get("artifactType", "") for data in unread} <= {"", *media.SBOMS.values(), media.DSSE}
    assert len(unread) <= 6

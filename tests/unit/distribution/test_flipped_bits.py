"""Every bit that is published counts: flip one, anywhere, and it is caught and named, or made no difference."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from makers.node import file
from makers.published import NEW, OLD, make_release, publish_in_layout
from stereo.check.verify import verify
from stereo.distribution.overview import overview_of
from stereo.distribution.partial import Patience
from stereo.distribution.publish import publish
from stereo.distribution.pull import Options, Pulled, pull
from stereo.errors import StereoError
from stereo.model.manifest import ATTESTATIONS, SIGNATURE_FILES, parse_manifest
from stereo.model.pulled import Format
from stereo.registry import documents, media
from stereo.registry.layout_index import INDEX_FILE, VERSION_FILE
from stereo.registry.parse import parse_artifact, parse_index
from stereo.registry.reference import Reference
from stereo.registry.remote import open_remote
from stereo.report import Silent
from stereo.trust.dist import examine
from stereo.trust.keyfiles import load_certificate
from stereo.trust.policy import Policy, load_policy
from unit.distribution.publishing import NOW, everything, signed

PLACES = 24
"""Bits of a blob that are tried beside its first and its last. A digest makes no difference between places."""
LISTED = 400
"""Bits of index.json that are tried: nothing holds that against a digest, so every place of it is another case."""
ALL: tuple[Format, ...] = ("raw", "qcow2")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dist`, a signed release; `layout`, where it was published; `policy`, which believes its signer."""
    folder = tmp_path_factory.mktemp("published")
    make_release(folder / "dist", OLD, more={"/usr/noise": file(hashlib.shake_128(b"noise").digest(50_000))})
    signed(folder / "dist", folder / "keys")
    make_release(folder / "old", NEW)
    text = '[[key]]\nname = "it"\npublic_key = "keys/release.pub"\nopenpgp = "keys/release.gpg"\n'
    (folder / "policy").write_text(f'schema = 1\n{text}roles = ["release", "provenance"]\n')
    assert load_certificate(folder / "keys" / "release.gpg")
    publish_in_layout(folder / "layout", folder / "dist")
    return folder


@pytest.fixture
def layout(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder / "layout", tmp_path / "layout"))


@pytest.fixture
def policy(folder: Path) -> Policy:
    return load_policy(folder / "policy")


def fetched(layout: Path, target: Path, policy: Policy) -> Pulled:
    reference = Reference("layout", path=str(layout), tag=OLD)
    options = Options(ALL, folder=target, force=True, patience=Patience(attempts=1, pause=0))
    return pull(reference, open_remote(reference), options, policy=policy, now=NOW, report=Silent())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flips(content: bytes, count: int, chance: random.Random) -> Iterator[bytes]:
    places = {0, len(content) - 1, *(chance.randrange(len(content)) for _ in range(count))}
    for place in sorted(places):
        altered = bytearray(content)
        altered[place] ^= 1 << chance.randrange(8)
        yield bytes(altered)


def not_pulled(layout: Path) -> set[str]:
    """The blobs that a pull has no use for: what names SBOMs and frames, what cosign reads, and the empty config."""
    remote = open_remote(Reference("layout", path=str(layout)))
    found = {documents.EMPTY.digest}
    found |= {remote.get_manifest(tag)[0].digest for tag in remote.tags() if tag.startswith("sha256-")}
    for entry in parse_index(remote.get_manifest(OLD)[1]).entries:
        for row in remote.referrers(entry.digest):
            artifact = parse_artifact(remote.get_manifest(row.digest)[1])
            if artifact.artifact_type in media.SBOMS.values():
                found.add(row.digest)
            if artifact.artifact_type == media.FRAMES:
                found |= {layer.digest for layer in artifact.layers}  # a hint, and there is nothing here to apply it to
    return {digest.removeprefix("sha256:") for digest in found}


def test_a_bit_of_any_blob_or_document(folder: Path, layout: Path, policy: Policy, tmp_path: Path) -> None:
    chance, target = random.Random(4), tmp_path / "here"
    target.mkdir()
    for name in ("mixtape.toml", "cmdline"):  # of what is here already, nothing would be fetched
        shutil.copy(folder / "old" / name, target)
    before, unread = tree(target), not_pulled(layout)
    blobs = sorted((layout / "blobs" / "sha256").iterdir())
    assert len(blobs) > 20
    for blob in blobs:
        if blob.name in unread:
            continue
        content = blob.read_bytes()
        for altered in flips(content, PLACES, chance):
            blob.write_bytes(altered)
            with pytest.raises(StereoError) as caught:
                fetched(layout, target, policy)
            assert blob.name in str(caught.value), caught.value
            assert tree(target) == before
            for kept in tmp_path.glob(".here.pull-*"):  # what came whole is not fetched again
                shutil.rmtree(kept)
        blob.write_bytes(content)
    fetched(layout, target, policy)
    assert {**tree(folder / "dist"), "pulled.json": b""} == {**tree(target), "pulled.json": b""}


def test_what_no_pull_reads_is_caught_by_who_reads_it_or_put_right_by_who_publishes_again(
    folder: Path, layout: Path
) -> None:
    chance, reference = random.Random(5), Reference("layout", path=str(layout))
    whole, named = tree(layout), everything(open_remote(reference))

    def again() -> None:
        publish([folder / "dist"], open_remote(reference), floating=["latest"], report=Silent())

    index = named[OLD].removeprefix("sha256:")
    for name in sorted({*not_pulled(layout), index}):
        blob = layout / "blobs" / "sha256" / name
        for altered in flips(blob.read_bytes(), 2, chance):
            blob.write_bytes(altered)
            with pytest.raises(StereoError, match=name):
                everything(open_remote(reference))
            try:
                again()
            except StereoError as error:  # an index, say, of which nobody knows what else was in it
                assert name in str(error)  # noqa: PT017
                assert "remove it, and publish again" in str(error)  # noqa: PT017
                blob.unlink()
                again()
            assert {**tree(layout), INDEX_FILE: b""} == {**whole, INDEX_FILE: b""}  # in which the order may be another
            assert everything(open_remote(reference)) == named
    assert overview_of(open_remote(reference), OLD).signed


def test_a_bit_of_the_list_of_what_is_there(folder: Path, layout: Path, policy: Policy, tmp_path: Path) -> None:
    """Nobody signs index.json, as nobody signs what a registry lists: it may hide a statement, and never add one.

    So whatever is altered in it, either it is refused, or all files are right, and those whom the policy wants to have
    signed did.
    """
    chance, target = random.Random(6), tmp_path / "here"
    right, hidden = tree(folder / "dist"), 0
    said: list[str] = []
    may_miss = {name for name in right if name.startswith(ATTESTATIONS) or name in SIGNATURE_FILES}
    for path, count in ((layout / VERSION_FILE, 10), (layout / INDEX_FILE, LISTED)):
        content = path.read_bytes()
        for altered in flips(content, count, chance):
            path.write_bytes(altered)
            shutil.rmtree(target, ignore_errors=True)
            try:
                pulled = fetched(layout, target, policy)
            except StereoError as error:
                said.append(str(error))
                assert not target.exists()
                continue
            found = tree(target)
            del found["pulled.json"]
            missing = right.keys() - found.keys()
            assert missing <= may_miss
            assert found == {name: text for name, text in right.items() if name not in missing}
            assert set(pulled.signers or ()) == {"it"}
            hidden += bool(missing)
        path.write_bytes(content)
    assert all(str(layout) in text or "the policy does not believe" in text for text in said)
    assert len(said) > hidden


def test_a_bit_of_a_dist_that_was_pulled(layout: Path, policy: Policy, tmp_path: Path) -> None:
    chance, place = random.Random(7), tmp_path / "here"
    manifest = fetched(layout, place, policy).manifest
    assert manifest == parse_manifest((place / "mixtape.toml").read_bytes(), "mixtape.toml")
    for name, content in tree(place).items():
        if name == "pulled.json":
            continue  # it vouches for nothing: tests/unit/check has what it cannot hide
        for altered in flips(content, 2, chance):
            (place / name).write_bytes(altered)
            verdict = verify(place, Silent())
            named = [row.artifact for row in verdict.findings if not row.ok]
            if not named:
                papers = examine(place, manifest, policy, NOW)
                named = [row.artifact for row in papers.rows if not row.ok]
                named += [row.name for row in papers.judgement.refusals if row.fails] if papers.judgement else []
            assert name in named or name == "mixtape.toml", (name, named)
            assert named
        (place / name).write_bytes(content)

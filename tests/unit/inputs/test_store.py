"""The store: whole blobs or none, and never a wrong byte."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stereo.errors import StereoError
from stereo.inputs.store import MissingBlobError, Store

CONTENT = b"some package" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def damage(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(5)
        stream.write(b"X")


def test_what_is_added_is_read_back(store: Store) -> None:
    assert store.add(io.BytesIO(CONTENT)) == DIGEST
    with store.open_verified(DIGEST) as stream:
        assert stream.read() == CONTENT


def test_a_blob_is_read_only(store: Store) -> None:
    store.add(io.BytesIO(CONTENT))
    assert store.path_of(DIGEST).stat().st_mode & 0o777 == 0o444


def test_content_of_another_digest_is_not_added(store: Store) -> None:
    with pytest.raises(StereoError, match="has SHA-256"):
        store.add(io.BytesIO(CONTENT + b"!"), DIGEST)
    assert not store.path_of(DIGEST).exists()
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_an_absent_blob_is_said_to_be_absent(store: Store) -> None:
    with pytest.raises(MissingBlobError, match="is not in the store"):
        store.verified(DIGEST)


def test_a_damaged_blob_is_noticed_on_reading_and_removed(store: Store) -> None:
    store.add(io.BytesIO(CONTENT))
    damage(store.path_of(DIGEST))
    with pytest.raises(MissingBlobError, match="damaged") as caught:
        store.verified(DIGEST)
    assert caught.value.corrupt
    assert not store.path_of(DIGEST).exists()


def test_a_truncated_blob_is_not_there(store: Store) -> None:
    store.add(io.BytesIO(CONTENT))
    os.truncate(store.path_of(DIGEST), 10)
    assert not store.has(DIGEST)


def test_damage_between_two_reads_is_noticed(store: Store) -> None:
    store.add(io.BytesIO(CONTENT))
    assert store.has(DIGEST)
    damage(store.path_of(DIGEST))
    assert not store.has(DIGEST)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_removed_and_not_followed(store: Store, tmp_path: Path, kind: str) -> None:
    path = store.path_of(DIGEST)
    path.parent.mkdir(parents=True)
    target = tmp_path / "target"
    target.write_bytes(CONTENT)
    if kind == "link":
        path.symlink_to(target)
    elif kind == "folder":
        (path / "inner").mkdir(parents=True)
    else:
        os.mkfifo(path)
    assert not store.has(DIGEST)
    assert not path.is_symlink()
    assert not path.exists()
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["", "../../etc/passwd", DIGEST.upper(), DIGEST[:-1], DIGEST + "0", DIGEST + "\n"])
def test_only_a_digest_is_a_name(store: Store, name: str) -> None:
    with pytest.raises(StereoError, match="is not a SHA-256"):
        store.path_of(name)


def test_place_copies_a_blob(store: Store, tmp_path: Path) -> None:
    store.add(io.BytesIO(CONTENT))
    store.place(DIGEST, tmp_path / "copy.deb")
    assert (tmp_path / "copy.deb").read_bytes() == CONTENT


def test_place_leaves_nothing_of_a_damaged_blob(store: Store, tmp_path: Path) -> None:
    store.add(io.BytesIO(CONTENT))
    damage(store.path_of(DIGEST))
    with pytest.raises(MissingBlobError):
        store.place(DIGEST, tmp_path / "copy.deb")
    assert not (tmp_path / "copy.deb").exists()


def test_many_may_add_the_same_at_once(store: Store) -> None:
    gate = threading.Barrier(8)
    faults = []

    def add() -> None:
        gate.wait()
        try:
            store.add(io.BytesIO(CONTENT), DIGEST)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert store.has(DIGEST)
    assert list((store.root / "new").iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.binary(max_size=3000))
def test_any_content_is_kept_under_its_digest(store: Store, content: bytes) -> None:
    digest = store.add(io.BytesIO(content))
    assert digest == hashlib.sha256(content).hexdigest()
    assert store.verified(digest).read_bytes() == content

"""An OCI layout in a folder: what it takes and gives, and that it is whole whenever its writer dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stereo.errors import StereoError, UsageError
from stereo.registry import media
from stereo.registry.documents import Descriptor, describe, documents_of, image_index, index_entry, referrer
from stereo.registry.errors import DigestMismatch, Malformed, NotFound
from stereo.registry.layout import LayoutRemote
from stereo.registry.layout_index import LayoutIndex
from stereo.registry.reference import Reference
from stereo.registry.remote import checked_blob, small_blob
from unit.registry.support import sample_with_digest

DOCUMENTS = documents_of(*sample_with_digest())
OTHER = documents_of(*sample_with_digest("2026.01.03.0"))
RAW = describe(DOCUMENTS.manifests["raw"], media.IMAGE_MANIFEST)


@pytest.fixture
def layout(tmp_path: Path) -> LayoutRemote:
    return LayoutRemote(Reference("layout", path=str(tmp_path / "root" / "base")))


def folder(layout: LayoutRemote) -> Path:
    return Path(layout.reference.path)


def stored(layout: LayoutRemote, digest: str) -> Path:
    return folder(layout) / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_a_layout_that_is_not_there_is_empty(layout: LayoutRemote) -> None:
    assert layout.tags() == []
    assert layout.referrers(RAW.digest) == []
    assert not layout.has_blob(RAW)
    for version in ("latest", RAW.digest):
        with pytest.raises(NotFound):
            layout.get_manifest(version)
    assert not folder(layout).exists()


def test_a_blob_is_stored_once_and_read_whole_or_in_part(layout: LayoutRemote, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(data)
    blob, counts = describe(data, media.OCTETS), list[int]()
    assert layout.put_blob(blob, tmp_path / "file", counts.append)
    assert not layout.put_blob(blob, tmp_path / "file", counts.append)
    assert sum(counts) == len(data)
    assert layout.has_blob(blob)
    assert b"".join(checked_blob(layout, blob)) == data
    with layout.open_blob(blob, 1000, 2000) as stream:
        assert (stream.offset, b"".join(stream.pieces)) == (1000, data[1000:3000])
    assert stored(layout, blob.digest).stat().st_mode & 0o777 == 0o644


def test_what_is_not_what_it_should_be_is_not_stored(layout: LayoutRemote, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"changed")
    for content in (b"other", tmp_path / "file"):
        with pytest.raises(DigestMismatch):
            layout.put_blob(describe(b"wanted", media.OCTETS), content)
    assert list((folder(layout) / "blobs/sha256").iterdir()) == []
    assert list((folder(layout) / ".ingest").iterdir()) == []


def test_a_damaged_blob_is_named_and_replaced_by_the_next_publishing(layout: LayoutRemote) -> None:
    blob = describe(b"content", media.OCTETS)
    layout.put_blob(blob, b"content")
    stored(layout, blob.digest).write_bytes(b"c0ntent")
    with pytest.raises(DigestMismatch, match=blob.digest):
        small_blob(layout, blob, 100)
    assert layout.put_blob(blob, b"content")
    assert small_blob(layout, blob, 100) == b"content"


def test_a_blob_of_another_size_is_not_read(layout: LayoutRemote) -> None:
    blob = describe(b"content", media.OCTETS)
    layout.put_blob(blob, b"content")
    stored(layout, blob.digest).write_bytes(b"more than that")
    assert not layout.has_blob(blob)
    with pytest.raises(DigestMismatch), layout.open_blob(blob):
        pass


def test_a_link_in_place_of_a_blob_is_not_followed(layout: LayoutRemote, tmp_path: Path) -> None:
    blob = describe(b"content", media.OCTETS)
    layout.put_blob(blob, b"content")
    (tmp_path / "secret").write_bytes(b"content")
    stored(layout, blob.digest).unlink()
    stored(layout, blob.digest).symlink_to(tmp_path / "secret")
    with pytest.raises(StereoError, match="symbolic link"), layout.open_blob(blob):
        pass


def test_tags_move_and_documents_stay(layout: LayoutRemote) -> None:
    layout.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "2026.01.02.0")
    layout.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "latest")
    layout.put_manifest(OTHER.index, media.IMAGE_INDEX, "latest")
    assert layout.tags() == ["2026.01.02.0", "latest"]
    assert layout.get_manifest("latest")[1] == OTHER.index
    found, document = layout.get_manifest("2026.01.02.0")
    assert (found, document) == (describe(DOCUMENTS.index, media.IMAGE_INDEX), DOCUMENTS.index)
    layout.put_manifest(OTHER.index, media.IMAGE_INDEX, "2026.01.02.0")
    listed = LayoutIndex.parse((folder(layout) / "index.json").read_bytes(), "index.json")
    assert [one.digest for one in listed.entries if media.REF_NAME not in one.annotations] == [found.digest]


def test_documents_without_a_tag_are_listed_too(layout: LayoutRemote) -> None:
    layout.put_manifest(DOCUMENTS.manifests["raw"], media.IMAGE_MANIFEST)
    layout.put_manifest(DOCUMENTS.manifests["raw"], media.IMAGE_MANIFEST)
    listed = LayoutIndex.parse((folder(layout) / "index.json").read_bytes(), "index.json")
    assert [one.digest for one in listed.entries] == [RAW.digest]
    assert layout.tags() == []


def test_storing_the_same_again_changes_nothing(layout: LayoutRemote) -> None:
    layout.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "latest")
    before = (folder(layout) / "index.json").stat()
    layout.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "latest")
    after = (folder(layout) / "index.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_refers_to_a_document_is_found_also_what_others_listed(layout: LayoutRemote) -> None:
    layout.put_manifest(DOCUMENTS.manifests["raw"], media.IMAGE_MANIFEST)
    ours = referrer(RAW, media.DSSE, [describe(b"{}", media.DSSE)], {media.PREDICATE_TYPE: "x", "private": "y"})
    layout.put_manifest(ours, media.IMAGE_MANIFEST)
    theirs = referrer(RAW, media.SPDX, [], {})
    layout.put_manifest(theirs, media.IMAGE_MANIFEST)
    index = json.loads((folder(layout) / "index.json").read_bytes())
    for entry in index["manifests"][2:]:  # as a program that knows nothing of our annotation lists it
        entry.pop("annotations")
        entry.pop("artifactType")
    (folder(layout) / "index.json").write_text(json.dumps(index))
    found = {one.digest: one for one in layout.referrers(RAW.digest)}
    assert set(found) == {describe(document, "").digest for document in (ours, theirs)}
    assert {one.artifact_type for one in found.values()} == {media.DSSE, media.SPDX}
    assert found[describe(ours, "").digest].annotations == {media.PREDICATE_TYPE: "x"}
    assert layout.referrers(describe(b"", "").digest) == []


def test_a_document_cannot_make_itself_a_tag(layout: LayoutRemote) -> None:
    evil = referrer(RAW, media.DSSE, [], {media.REF_NAME: "latest", media.SUBJECT: "sha256:" + "0" * 64})
    layout.put_manifest(evil, media.IMAGE_MANIFEST)
    assert layout.tags() == []
    assert len(layout.referrers(RAW.digest)) == 1


@pytest.mark.parametrize("tag", ["", "a b", "../x", "x" * 129, "a\n"])
def test_what_is_no_tag_is_refused(layout: LayoutRemote, tag: str) -> None:
    with pytest.raises(UsageError):
        layout.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, tag)


def test_a_folder_with_other_things_in_it_does_not_become_a_layout(layout: LayoutRemote) -> None:
    folder(layout).mkdir(parents=True)
    (folder(layout) / "thesis.tex").write_text("years of work")
    with pytest.raises(StereoError, match="other things"):
        layout.put_blob(describe(b"{}", media.OCTETS), b"{}")
    assert [path.name for path in folder(layout).iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("oci-layout", b'{"imageLayoutVersion":"9"}'), ("oci-layout", b"x"), ("index.json", b"[]"), ("index.json", b"{")],
)
def test_a_damaged_layout_is_refused(layout: LayoutRemote, name: str, content: bytes) -> None:
    layout.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "latest")
    (folder(layout) / name).write_bytes(content)
    with pytest.raises(Malformed, match=name):
        layout.tags()
    with pytest.raises(Malformed, match=name):
        layout.put_manifest(OTHER.index, media.IMAGE_INDEX, "latest")


def test_sweeping_keeps_all_that_tags_lead_to_and_what_is_young(layout: LayoutRemote) -> None:
    def publish(number: int) -> set[str]:
        data = f"blob {number}".encode()
        blob = describe(data, media.OCTETS)
        layout.put_blob(blob, data)
        document = referrer(describe(b"", media.IMAGE_MANIFEST), media.MIXTAPE, [blob], {"n": str(number)})
        described = layout.put_manifest(document, media.IMAGE_MANIFEST)
        index = image_index("x", "1", [index_entry(document, "raw", "x86_64-linux")])
        found = layout.put_manifest(index, media.IMAGE_INDEX, f"v{number}")
        statement = layout.put_manifest(referrer(described, media.DSSE, [], {"n": str(number)}), media.IMAGE_MANIFEST)
        return {blob.digest, described.digest, found.digest, statement.digest}

    first, second = publish(1), publish(2)
    layout.remove(layout.get_manifest("v1")[0].digest)
    assert layout.tags() == ["v2"]
    assert layout.sweep(age=3600) == 0
    assert layout.sweep(age=-1) > 0
    assert {f"sha256:{path.name}" for path in (folder(layout) / "blobs/sha256").iterdir()} == second
    listed = LayoutIndex.parse((folder(layout) / "index.json").read_bytes(), "index.json")
    assert not first & {one.digest for one in listed.entries}
    assert layout.sweep(age=-1) == 0


def test_documents_of_others_are_read_once_each_to_find_what_is_needed() -> None:
    """An index that oras wrote does not say what refers to what."""
    read: list[str] = []
    documents = {}
    above = describe(b"", media.IMAGE_MANIFEST)
    for number in range(30):
        document = referrer(above, media.DSSE, [], {"n": str(number)})
        above = describe(document, media.IMAGE_MANIFEST)
        documents[above.digest] = document
    rows = [describe(document, media.IMAGE_MANIFEST) for document in documents.values()]
    tagged = Descriptor(rows[0].media_type, rows[0].digest, rows[0].size, {media.REF_NAME: "latest"})

    def get(digest: str) -> bytes:
        read.append(digest)
        return documents[digest]

    needed = LayoutIndex((tagged, *rows[1:])).needed(get)
    assert documents.keys() <= needed
    assert len(read) == 2 * len(rows)  # for what it refers to, and for its blobs


def test_nothing_is_swept_where_nothing_is(layout: LayoutRemote) -> None:
    layout.remove(RAW.digest)
    assert layout.sweep(0) == 0
    assert not folder(layout).exists()


def test_a_root_lists_its_layouts(layout: LayoutRemote) -> None:
    root = LayoutRemote(Reference("layout", path=str(folder(layout).parent)))
    assert root.catalog() == []
    layout.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "latest")
    (folder(root) / "other").mkdir()
    assert root.catalog() == ["base"]


def test_many_writers_at_once_lose_nothing(layout: LayoutRemote) -> None:
    def publish(number: int) -> None:
        document = referrer(RAW, media.DSSE, [], {"n": str(number)})
        LayoutRemote(layout.reference).put_manifest(document, media.IMAGE_MANIFEST, f"tag-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(40)))
    assert len(layout.tags()) == len(layout.referrers(RAW.digest)) == 40


_PUBLISH = """
import os, sys
from pathlib import Path
from stereo.registry import media
from stereo.registry.documents import describe, image_index, index_entry, referrer
from stereo.registry.layout import LayoutRemote
from stereo.registry.reference import Reference
layout = LayoutRemote(Reference("layout", path=sys.argv[1]))
for number in range(int(sys.argv[2]), 100000):
    data = os.urandom(20000)
    blob = describe(data, media.OCTETS)
    layout.put_blob(blob, data)
    document = referrer(blob, media.DSSE, [blob], {"n": str(number)})
    layout.put_manifest(document, media.IMAGE_MANIFEST)
    index = image_index("x", "1", [index_entry(document, "raw", "x86_64-linux")])
    layout.put_manifest(index, media.IMAGE_INDEX, "latest")
    print(number, flush=True)
"""


def test_killed_at_any_moment_the_index_names_only_whole_documents(layout: LayoutRemote) -> None:
    """Several lives of a writer, each ended by SIGKILL soon after its first, second, ... publication."""
    published = 0
    for life in range(1, 7):
        argv = [sys.executable, "-c", _PUBLISH, layout.reference.path, str(published)]
        paths = os.pathsep.join(path for path in sys.path if path)
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        ) as writer:
            assert writer.stdout is not None
            for _ in range(life):
                published = int(writer.stdout.readline()) + 1
            time.sleep(0.0007 * life)  # into the next; whatever it hits must hold
            writer.send_signal(signal.SIGKILL)
        index = LayoutIndex.parse((folder(layout) / "index.json").read_bytes(), "index.json")
        assert len(index.entries) >= published
        for entry in index.entries:
            assert layout.get_manifest(entry.digest)[0].size == entry.size
        for path in (folder(layout) / "blobs/sha256").iterdir():
            assert re.fullmatch("[0-9a-f]{64}", path.name)
            assert describe(path.read_bytes(), "").digest == f"sha256:{path.name}"
    layout.put_manifest(OTHER.index, media.IMAGE_INDEX, "latest")
    assert list((folder(layout) / ".ingest").iterdir()) == []


def test_an_unfinished_blob_of_a_living_writer_is_left_alone(layout: LayoutRemote, tmp_path: Path) -> None:
    fifo, data = tmp_path / "slow", b"x" * 10
    entered, go_on = threading.Event(), threading.Event()

    def hold(count: int) -> None:
        entered.set()
        assert go_on.wait(30)

    blob = describe(data, media.OCTETS)
    slow = threading.Thread(target=lambda: layout.put_blob(blob, data, hold))
    slow.start()
    assert entered.wait(30)
    layout.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "latest")
    assert len(list((folder(layout) / ".ingest").iterdir())) == 1
    assert not layout.has_blob(blob)
    go_on.set()
    slow.join(30)
    assert layout.has_blob(blob)
    assert not fifo.exists()


def test_two_entries_with_one_tag_mean_the_first() -> None:
    first, second = (Descriptor(media.IMAGE_INDEX, f"sha256:{n * 64}", 1, {media.REF_NAME: "x"}) for n in "12")
    assert LayoutIndex((first, second)).tags() == {"x": first}

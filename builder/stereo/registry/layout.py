"""An OCI layout in a folder (image-spec 1.1, image-layout.md): the registry that needs no server.

Killed anywhere, it is whole: a blob gets its name when all of it is on the disk, and index.json is replaced by one
rename after what it names. Several writers may work side by side; changes of index.json wait for each other at a lock
on the folder itself. What a dead writer left, the next one clears away.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path

from stereo.assemble.files import failures_explained, open_plain, settle_folder
from stereo.errors import StereoError, UsageError
from stereo.registry.documents import Descriptor, digest_of
from stereo.registry.errors import DigestMismatch, Malformed, NotFound
from stereo.registry.layout_index import (
    INDEX_FILE,
    MAX_INDEX,
    VERSION,
    VERSION_FILE,
    LayoutIndex,
    check_version,
    entry_of,
    manifest_named,
)
from stereo.registry.parse import MAX_DOCUMENT
from stereo.registry.reference import Reference
from stereo.registry.remote import MAX_REPOSITORIES, Advance, BlobStream
from stereo.registry.strict import canonical

_READ = 1 << 20
_IDLE = 3600.0  # seconds after which a blob that is used again gets a new time
_INGEST = ".ingest"  # unfinished files, each locked by who writes it


class LayoutRemote:
    """`Remote` in a folder."""

    def __init__(self, reference: Reference) -> None:
        self.reference = replace(reference, tag=None, digest=None)
        self._folder = Path(reference.path)
        self._blobs = self._folder / "blobs" / "sha256"

    def tags(self) -> list[str]:
        return sorted(self._index().tags())

    def get_manifest(self, version: str) -> tuple[Descriptor, bytes]:
        return manifest_named(version, self._index, self._document, self.reference.name)

    @contextmanager
    def open_blob(self, blob: Descriptor, offset: int = 0, length: int | None = None) -> Iterator[BlobStream]:
        wanted = blob.size - offset if length is None else length
        assert 0 <= offset <= offset + wanted <= blob.size
        with self._opened(blob.digest) as file:
            if (size := os.fstat(file.fileno()).st_size) != blob.size:
                raise DigestMismatch(f"has {size} bytes, not {blob.size}", where=str(self._place(blob.digest)))
            file.seek(offset)
            yield BlobStream(offset, self._pieces(file, wanted, blob.digest))

    def has_blob(self, blob: Descriptor) -> bool:
        try:
            return self._place(blob.digest).lstat().st_size == blob.size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def put_blob(self, blob: Descriptor, content: Path | bytes, advance: Advance = lambda count: None) -> bool:
        if self.has_blob(blob) and self._intact(blob):
            self._count_on(blob)
            return False
        if isinstance(content, bytes):
            self._store(blob, [content], advance)
        else:
            with failures_explained("cannot be published", content.parent), open_plain(content) as file:
                self._store(blob, iter(lambda: file.read(_READ), b""), advance)
        return True

    def put_manifest(self, document: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        described = Descriptor(media_type, digest_of(document), len(document))
        if len(document) > MAX_DOCUMENT:
            raise Malformed(f"is larger than {MAX_DOCUMENT} bytes", where=described.digest)
        entry = entry_of(document, described)
        self.put_blob(described, document)
        if tag is not None:
            self.reference.with_tag(tag)  # refuses what is none
            self._change(lambda index: index.tagged(entry, tag))
        else:
            self._change(lambda index: index.listed(entry))
        return described

    def referrers(self, digest: str) -> list[Descriptor]:
        return self._index().referrers(digest, lambda entry: self._document(entry.digest))

    def remove(self, digest: str) -> None:
        if self._index().entries:  # where there is no layout, none is made
            self._change(lambda index: index.without({digest}))

    def sweep(self, age: float) -> int:
        if not self._index().entries:
            return 0
        freed, before = 0, time.time() - age
        with failures_explained("cannot be written", self._folder), self._locked():
            index = self._index()
            needed = index.needed(self._document)
            idle = [path for path in self._blobs.iterdir() if f"sha256:{path.name}" not in needed]
            idle = [path for path in idle if path.lstat().st_mtime < before]
            after = index.without({f"sha256:{path.name}" for path in idle})
            if after != index:
                self._place_file(self._folder / INDEX_FILE, after.render())
            for path in idle:
                freed += path.lstat().st_size
                path.unlink()
        return freed

    def catalog(self) -> list[str]:
        try:
            with os.scandir(self._folder) as rows:
                names = [row.name for row in rows if self._is_layout(row.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StereoError(f"cannot be read: {error.strerror}", where=str(self._folder)) from error
        if len(names) > MAX_REPOSITORIES:
            raise Malformed(f"holds more than {MAX_REPOSITORIES} layouts", where=str(self._folder))
        if not names and (self._folder / VERSION_FILE).is_file():
            hint = f"`stereo tags {self.reference.name}` lists its versions"
            raise UsageError("is the layout of one mixtape, not a folder of them", where=str(self._folder), hint=hint)
        return sorted(names)

    # Reading

    def _is_layout(self, name: str) -> bool:
        """Whether a reference can lead to a layout there; others' folders, such as lost+found, are passed over."""
        with suppress(UsageError, OSError):
            return Path(self.reference.child(name).path, VERSION_FILE).is_file()
        return False

    def _place(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    @contextmanager
    def _opened(self, digest: str) -> Iterator[FileIO]:
        with failures_explained("cannot be read", self._folder):
            try:
                file = open_plain(self._place(digest))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFound(f"there is no blob {digest}", where=str(self.reference)) from error
            with file:
                yield file

    def _pieces(self, file: FileIO, wanted: int, digest: str) -> Iterator[bytes]:
        while wanted:
            piece = file.read(min(_READ, wanted))
            if not piece:
                raise DigestMismatch("became shorter while it was read", where=str(self._place(digest)))
            wanted -= len(piece)
            yield piece

    def _document(self, digest: str) -> bytes:
        with self._opened(digest) as file:
            document = _read_all(file, MAX_DOCUMENT, self._place(digest))
        if (found := digest_of(document)) != digest:
            hint = "it was damaged: remove it, and publish again"
            raise DigestMismatch(f"holds {found}", where=str(self._place(digest)), hint=hint)
        return document

    def _count_on(self, blob: Descriptor) -> None:
        """Have `sweep` see that somebody needs a blob that was there already."""
        place = self._place(blob.digest)
        if time.time() - place.lstat().st_mtime > _IDLE:
            os.utime(place)

    def _intact(self, blob: Descriptor) -> bool:
        with self._opened(blob.digest) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == blob.digest.removeprefix("sha256:")

    def _index(self) -> LayoutIndex:
        """What is there now; nothing, where nothing is."""
        version = self._small_file(VERSION_FILE, 4096)
        if version is None:
            return LayoutIndex()
        check_version(version, str(self._folder / VERSION_FILE))
        data = self._small_file(INDEX_FILE, MAX_INDEX)
        return LayoutIndex() if data is None else LayoutIndex.parse(data, str(self._folder / INDEX_FILE))

    def _small_file(self, name: str, limit: int) -> bytes | None:
        path = self._folder / name
        with failures_explained("cannot be read", self._folder):
            try:
                file = open_plain(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with file:
                return _read_all(file, limit, path)

    # Writing

    def _change(self, change: Callable[[LayoutIndex], LayoutIndex]) -> None:
        with failures_explained("cannot be written", self._folder), self._locked():
            before = self._index()
            after = change(before)
            if after != before:
                self._place_file(self._folder / INDEX_FILE, after.render())

    def _store(self, blob: Descriptor, pieces: Iterable[bytes], advance: Advance) -> None:
        with failures_explained("cannot be written", self._folder):
            with self._locked():
                file = self._ingest()
            with file:
                digest, size = hashlib.sha256(), 0
                for piece in pieces:
                    digest.update(piece)
                    size += file.write(piece)
                    advance(len(piece))
                if (f"sha256:{digest.hexdigest()}", size) != (blob.digest, blob.size):
                    raise DigestMismatch("what is to be stored is not what it should be", where=blob.digest)
                file.finish(self._place(blob.digest))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The layout, made where none is, while nobody else changes it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not (self._folder / VERSION_FILE).exists():
                self._begin()
            yield
        finally:
            os.close(fd)

    def _begin(self) -> None:
        others = {path.name for path in self._folder.iterdir()} - {_INGEST, self._blobs.parent.name}
        if others:
            hint = "name a folder that is empty or does not exist"
            what = "is a folder with other things in it, not an OCI layout"
            raise StereoError(what, where=self.reference.path, hint=hint)
        self._place_file(self._folder / VERSION_FILE, canonical(VERSION))

    def _place_file(self, path: Path, data: bytes) -> None:
        with self._ingest() as file:
            file.write(data)
            file.finish(path)

    def _ingest(self) -> _Unfinished:
        """A new file that is ours until it gets its name. The caller holds the lock."""
        folder = self._folder / _INGEST
        folder.mkdir(exist_ok=True)
        self._blobs.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():
            _remove_if_nobodys(left)
        fd, name = tempfile.mkstemp(dir=folder)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return _Unfinished(fd, Path(name))


class _Unfinished(FileIO):
    """A file without its final name yet. Closed without one, it is gone."""

    def __init__(self, fd: int, path: Path) -> None:
        super().__init__(fd, "wb")
        self._path = path

    def finish(self, place: Path) -> None:
        """On the disk, then under its name, for everybody to read."""
        os.fchmod(self.fileno(), 0o644)
        os.fsync(self.fileno())
        self._path.rename(place)
        settle_folder(place.parent)

    def close(self) -> None:
        if not self.closed:
            with suppress(FileNotFoundError):
                self._path.unlink()
        super().close()


def _remove_if_nobodys(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _read_all(file: FileIO, limit: int, path: Path) -> bytes:
    data = b""
    while piece := file.read(limit + 1 - len(data)):
        data += piece
    if len(data) > limit:
        raise Malformed(f"is larger than {limit} bytes", where=str(path))
    return data

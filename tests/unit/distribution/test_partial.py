"""One blob into one file, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from stereo.distribution.partial import Patience, StoppedError, Traffic, Wanted, obtain
from stereo.distribution.receive import Content
from stereo.distribution.stock import Stretch
from stereo.registry.documents import Descriptor
from stereo.registry.errors import Denied, DigestMismatch, Unreachable
from stereo.registry.layout import LayoutRemote
from stereo.registry.reference import Reference
from stereo.registry.remote import BlobStream

HASTE = Patience(attempts=3, progress=100, pause=0)
CONTENT = b"".join(bytes([n % 251]) * n for n in range(300)) + bytes(200_000)
PACKED = b"".join(zstandard.compress(CONTENT[at : at + 30_000]) for at in range(0, len(CONTENT), 30_000))


def described(data: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


BLOB = described(PACKED)
UNPACKED = Content("disk", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class Source:
    """A real layout with the blob; `twist` changes what each of its answers gives. Remembers the ranges."""

    def __init__(self, folder: Path) -> None:
        self.layout = LayoutRemote(Reference("layout", path=str(folder / "layout")))
        self.layout.put_blob(BLOB, PACKED)
        self.asked: list[tuple[int, int | None]] = []
        self.twist: Callable[[int, BlobStream], BlobStream] = lambda number, stream: stream

    @contextmanager
    def open_blob(self, blob: Descriptor, offset: int = 0, length: int | None = None) -> Iterator[BlobStream]:
        self.asked.append((offset, length))
        with self.layout.open_blob(blob, offset, length) as stream:
            yield self.twist(len(self.asked), stream)

    def get(self, path: Path, *, stretches: tuple[Stretch, ...] = (), content: bool = True) -> Traffic:
        traffic = Traffic()
        wanted = Wanted(BLOB, path, UNPACKED if content else None)
        obtain(self, wanted, traffic, known=lambda: stretches, patience=HASTE)  # type: ignore[arg-type]
        return traffic


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.zst"


def pieces(stream: BlobStream, change: Callable[[bytes], Iterator[bytes]]) -> BlobStream:
    return BlobStream(stream.offset, change(b"".join(stream.pieces)))


def whole(path: Path) -> bool:
    return path.read_bytes() == PACKED and (path.parent / "disk").read_bytes() == CONTENT


def breaks_after(count: int) -> Callable[[bytes], Iterator[bytes]]:
    def give(data: bytes) -> Iterator[bytes]:
        yield data[:count]
        raise Unreachable("broke off")

    return give


def test_a_blob_arrives_and_is_unpacked(source: Source, path: Path) -> None:
    traffic = source.get(path)
    assert whole(path)
    assert (traffic.fetched, traffic.reused) == (len(PACKED), 0)


def test_zeros_become_holes(source: Source, path: Path) -> None:
    source.get(path)
    assert (path.parent / "disk").stat().st_blocks * 512 < len(CONTENT) - 100_000


def test_a_pull_that_ended_at_any_byte_is_gone_on_from_there(source: Source, path: Path) -> None:
    for there in range(len(PACKED) + 1):
        path.write_bytes(PACKED[:there])
        traffic = source.get(path)
        assert whole(path), there
        assert (traffic.fetched, traffic.reused) == (len(PACKED) - there, there)


def test_what_is_there_and_wrong_is_thrown_away_and_fetched(source: Source, path: Path) -> None:
    for there in (PACKED[:5] + b"x" + PACKED[6:20], b"rubbish" * 10, PACKED + b"more", b"x" * len(PACKED)):
        path.write_bytes(there)
        source.get(path)
        assert whole(path)


def test_a_transfer_that_breaks_off_is_taken_up_where_it_was(source: Source, path: Path) -> None:
    source.twist = lambda number, stream: pieces(stream, breaks_after(200)) if number < 3 else stream
    traffic = source.get(path)
    assert whole(path)
    assert [offset for offset, _ in source.asked] == [0, 200, 400]
    assert traffic.fetched == len(PACKED)


def test_one_that_brings_nothing_is_given_up_and_what_came_is_kept(source: Source, path: Path) -> None:
    source.twist = lambda number, stream: pieces(stream, breaks_after(200 if number == 1 else 10))
    with pytest.raises(Unreachable, match="broke off"):
        source.get(path)
    assert len(source.asked) == HASTE.attempts
    assert path.read_bytes() == PACKED[: path.stat().st_size] != b""


def test_an_answer_that_ends_too_early_is_taken_up(source: Source, path: Path) -> None:
    source.twist = lambda number, stream: pieces(stream, lambda data: iter([data[:300]])) if number == 1 else stream
    source.get(path)
    assert whole(path)
    assert source.asked[1][0] == 300


def test_a_registry_without_ranges_is_asked_for_all_again(source: Source, path: Path) -> None:
    path.write_bytes(PACKED[:100])
    source.twist = lambda number, stream: BlobStream(0, iter([PACKED]))
    traffic = source.get(path)
    assert whole(path)
    assert source.asked[-1] == (0, len(PACKED))
    assert traffic.fetched == len(PACKED)


def test_one_without_ranges_whose_answers_break_off_is_given_up(source: Source, path: Path) -> None:
    source.twist = lambda number, stream: BlobStream(0, breaks_after(200)(PACKED))
    with pytest.raises(Unreachable):
        source.get(path)
    assert len(source.asked) <= 2 * HASTE.attempts


@pytest.mark.parametrize("content", [True, False])
def test_wrong_bytes_are_refused_and_nothing_of_them_is_kept(source: Source, path: Path, content: bool) -> None:
    wrong = PACKED[:500] + bytes([PACKED[500] ^ 1]) + PACKED[501:]
    source.twist = lambda number, stream: BlobStream(0, iter([wrong]))
    with pytest.raises(DigestMismatch):
        source.get(path, content=content)
    assert not path.exists()
    assert len(source.asked) == 1


def test_a_blob_that_becomes_more_than_it_should_is_refused_while_it_comes(tmp_path: Path) -> None:
    bomb = zstandard.compress(bytes(64 << 20))
    layout = LayoutRemote(Reference("layout", path=str(tmp_path / "layout")))
    layout.put_blob(described(bomb), bomb)
    wanted = Wanted(described(bomb), tmp_path / "disk.zst", Content("disk", "0" * 64, 1000))
    with pytest.raises(DigestMismatch, match="more than 1000 bytes"):
        obtain(layout, wanted, Traffic(), patience=HASTE)
    assert (tmp_path / "disk").stat().st_blocks == 0


def test_content_with_another_digest_is_refused(source: Source, path: Path) -> None:
    wanted = Wanted(BLOB, path, Content("disk", "0" * 64, len(CONTENT)))
    with pytest.raises(DigestMismatch, match="should become disk"):
        obtain(source, wanted, Traffic(), patience=HASTE)  # type: ignore[arg-type]


def test_a_refusal_is_not_repeated(source: Source, path: Path) -> None:
    def refuse(number: int, stream: BlobStream) -> BlobStream:
        raise Denied("not for you")

    source.twist = refuse
    with pytest.raises(Denied):
        source.get(path)
    assert len(source.asked) == 1


def test_what_is_here_is_taken_from_here_and_the_rest_fetched(source: Source, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zst"
    other.write_bytes(b"before" + PACKED[:400] + b"between" + PACKED[600:])
    end = len(PACKED)
    stretches = (Stretch(0, 400, other, 6), Stretch(400, 600), Stretch(600, end, other, 413))
    traffic = source.get(path, stretches=stretches)
    assert whole(path)
    assert source.asked == [(400, 200)]
    assert (traffic.fetched, traffic.reused) == (200, end - 200)


@pytest.mark.parametrize("content", [b"", b"x" * 100_000])
def test_what_is_here_and_was_altered_costs_a_transfer(
    source: Source, path: Path, tmp_path: Path, content: bytes
) -> None:
    other = tmp_path / "other.zst"
    other.write_bytes(content)
    source.get(path, stretches=(Stretch(0, 300), Stretch(300, len(PACKED), other)))
    assert whole(path)
    assert source.asked[-1] == (0, len(PACKED))


def test_a_part_from_a_registry_without_ranges_costs_a_transfer(source: Source, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zst"
    other.write_bytes(PACKED)
    source.twist = lambda number, stream: BlobStream(0, iter([PACKED]))
    source.get(path, stretches=(Stretch(0, 300), Stretch(300, len(PACKED), other, 300)))
    assert whole(path)


def test_it_stops_when_it_is_told_to_and_keeps_what_came(source: Source, path: Path) -> None:
    traffic = Traffic()
    source.twist = lambda number, stream: pieces(stream, lambda data: iter([data[:100], data[100:]]))
    traffic.tick = lambda count: traffic.stop.set()
    with pytest.raises(StoppedError):
        obtain(source, Wanted(BLOB, path, UNPACKED), traffic, patience=HASTE)  # type: ignore[arg-type]
    assert path.read_bytes() == PACKED[:100]


def test_a_link_in_the_way_is_not_followed(source: Source, path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path.symlink_to("secret")
    with pytest.raises(OSError, match=os.strerror(40)):
        source.get(path)
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_a_system_without_advice_on_files_needs_none(
    source: Source, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.posix_fadvise")  # as macOS is
    monkeypatch.setattr("stereo.distribution.receive._FLUSHED", 100)
    source.get(path)
    assert whole(path)

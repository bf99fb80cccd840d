"""Cutting by content: nothing is lost, bounds hold, zeros stand apart, and after a shift cuts find their places."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stereo.assemble.chunks import BLOCK, CLUSTER, READ, Chunker, Geometry, Part, data_size, read_parts

SMALL = Geometry(minimum=4 * BLOCK, mask=7, maximum=32 * BLOCK)
TINY = Geometry(minimum=BLOCK, mask=0, maximum=2 * BLOCK)


class Kept:
    """A sink that remembers: chunks in order, zeros as a size."""

    def __init__(self) -> None:
        self.chunks: list[bytes | int] = []

    def data(self, buffer: bytearray, size: int) -> bytearray:
        self.chunks.append(bytes(buffer[:size]))
        buffer[:size] = b"\xee" * size  # whoever keeps the old buffer in use shows
        return buffer

    def zeros(self, size: int) -> None:
        self.chunks.append(size)


def cut(
    data: bytes,
    *,
    geometry: Geometry = SMALL,
    starts: dict[int, Geometry] | None = None,
    marks: dict[int, Geometry] | None = None,
) -> tuple[list[bytes | int], dict[int, Geometry]]:
    kept = Kept()
    chunker = Chunker(kept, bytearray(SMALL.maximum), geometry=geometry, starts=starts, marks=marks)
    for offset in range(0, len(data), READ):
        part = data[offset : offset + READ]
        chunker.feed(Part(offset, len(part), part))
    chunker.finish()
    return kept.chunks, chunker.marks


def joined(chunks: list[bytes | int]) -> bytes:
    return b"".join(bytes(one) if isinstance(one, int) else one for one in chunks)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


pieces = st.lists(
    st.tuples(st.sampled_from(["noise", "zeros", "text"]), st.integers(1, 3 * CLUSTER // 512)), min_size=1, max_size=12
).map(
    lambda parts: b"".join(
        {"noise": noise(size * 512, number), "zeros": bytes(size * 512), "text": b"x" * (size * 512)}[kind]
        for number, (kind, size) in enumerate(parts)
    )
)


@settings(max_examples=60)
@given(pieces)
def test_the_chunks_together_are_the_file(data: bytes) -> None:
    assert joined(cut(data)[0]) == data


@settings(max_examples=60)
@given(pieces)
def test_chunks_keep_their_bounds(data: bytes) -> None:
    for one in cut(data)[0]:
        assert 0 < (one if isinstance(one, int) else len(one)) <= SMALL.maximum


@settings(max_examples=60)
@given(pieces)
def test_a_long_run_of_zeros_is_never_among_data(data: bytes) -> None:
    for one in cut(data)[0]:
        if not isinstance(one, int):
            runs = [one[start : start + CLUSTER] for start in range(0, len(one) - CLUSTER + 1, BLOCK)]
            assert all(run.strip(b"\0") for run in runs)


def test_noise_is_cut_by_content_and_not_only_by_size() -> None:
    chunks, _ = cut(noise(4 << 20))
    sizes = [len(one) for one in chunks if isinstance(one, bytes)]
    assert len(set(sizes)) > 10
    assert sum(size == SMALL.maximum for size in sizes) < len(sizes) / 4


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(0, 1023), st.integers(1, 3))
def test_after_an_insertion_nearly_all_chunks_are_known(seed: int, place: int, blocks: int) -> None:
    before = noise(4 << 20, seed)
    after = before[: place * BLOCK] + noise(blocks * BLOCK, seed + 1) + before[place * BLOCK :]
    known = {one for one in cut(before)[0] if isinstance(one, bytes)}
    again = sum(len(one) for one in cut(after)[0] if isinstance(one, bytes) and one in known)
    assert again / len(after) > 0.9


def test_a_partition_begins_a_chunk_with_its_geometry() -> None:
    data = noise(4 * CLUSTER)
    chunks, _ = cut(data, starts={2 * CLUSTER: TINY})
    sizes = [len(one) for one in chunks if isinstance(one, bytes)]
    ends = {sum(sizes[: number + 1]) for number in range(len(sizes))}
    assert 2 * CLUSTER in ends
    assert sizes[-1] == BLOCK
    assert sizes[0] > BLOCK


def test_a_partition_that_begins_with_zeros_gets_its_geometry_too() -> None:
    chunks, _ = cut(noise(CLUSTER) + bytes(CLUSTER) + noise(CLUSTER), starts={CLUSTER: TINY})
    assert chunks[-1] == noise(CLUSTER)[-BLOCK:]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 50)), min_size=1, max_size=6),
    st.integers(0, 5),
    st.booleans(),
)
def test_what_leaves_out_zeros_and_puts_tables_before_gets_the_same_chunks_by_marks(
    runs: list[tuple[int, int]], tables: int, switch: bool
) -> None:
    raw = b"".join(noise(data * BLOCK, number) + bytes(zeros * BLOCK) for number, (data, zeros) in enumerate(runs))
    raw += bytes(-len(raw) % CLUSTER)
    starts = {-(-runs[0][0] * BLOCK // CLUSTER) * CLUSTER: TINY} if switch else {}
    clusters = [raw[offset : offset + CLUSTER] for offset in range(0, len(raw), CLUSTER)]
    lean = noise(tables * CLUSTER, 1000) + b"".join(one for one in clusters if one.strip(b"\0"))
    chunks, marks = cut(raw, starts=starts)
    wanted = [one for one in chunks if isinstance(one, bytes)]
    found = [one for one in cut(lean, marks=marks)[0] if isinstance(one, bytes)]
    assert found[-len(wanted) :] == wanted


def test_a_shift_by_a_block_does_not_disturb_data_between_long_runs_of_zeros() -> None:
    body = b"".join(noise(100 * BLOCK, number) + bytes((16 + number) * BLOCK) for number in range(8))
    known = {one for one in cut(noise(BLOCK, 99) + body)[0] if isinstance(one, bytes)}
    again = [one for one in cut(noise(2 * BLOCK, 98) + body)[0] if isinstance(one, bytes)]
    assert sum(one in known for one in again) >= len(again) - 2


def test_zeros_come_in_pieces_of_the_largest_size() -> None:
    assert cut(bytes(5 * CLUSTER))[0] == [2 * CLUSTER, 2 * CLUSTER, CLUSTER]


def test_a_large_hole_comes_in_the_same_pieces_as_zeros_that_were_written() -> None:
    kept = Kept()
    chunker = Chunker(kept, bytearray(SMALL.maximum), geometry=SMALL)
    chunker.feed(Part(0, 5 * CLUSTER, None))
    chunker.finish()
    assert kept.chunks == cut(bytes(5 * CLUSTER))[0]


def test_a_few_zeros_do_not_burst_a_chunk() -> None:
    geometry = Geometry(minimum=4 * BLOCK, mask=(1 << 32) - 1, maximum=16 * BLOCK)
    chunks, _ = cut(noise(15 * BLOCK) + bytes(4 * BLOCK) + noise(BLOCK, 2), geometry=geometry)
    assert [len(one) for one in chunks if isinstance(one, bytes)] == [15 * BLOCK, 5 * BLOCK]


@pytest.mark.parametrize("tail", [512, BLOCK, CLUSTER + 512])
def test_a_hole_and_zeros_that_were_written_are_the_same(tmp_path: Path, tail: int) -> None:
    data = noise(CLUSTER) + bytes(3 * CLUSTER) + noise(tail)
    full, sparse = tmp_path / "full", tmp_path / "sparse"
    full.write_bytes(data)
    with sparse.open("wb") as file:
        file.write(data[:CLUSTER])
        file.seek(4 * CLUSTER)
        file.write(data[4 * CLUSTER :])
    found = []
    for path in (full, sparse):
        kept = Kept()
        chunker = Chunker(kept, bytearray(SMALL.maximum), geometry=SMALL)
        with path.open("rb") as file:
            for block in read_parts(file.fileno(), len(data)):
                chunker.feed(block)
        chunker.finish()
        found.append(kept.chunks)
    assert found[0] == found[1]


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 30)
        file.write(b"x")
    with path.open("rb") as file:
        assert data_size(file.fileno(), 1 << 40) == CLUSTER
        blocks = read_parts(file.fileno(), (1 << 30) + READ)
        assert [block.offset for block in blocks if block.data is not None] == [1 << 30]


def test_blocks_cover_the_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    data = noise(READ + 512) + bytes(READ) + noise(700)
    path.write_bytes(data)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in read_parts(file.fileno(), len(data)):
            assert block.offset % CLUSTER == 0
            digest.update(bytes(block.size) if block.data is None else block.data)
    assert digest.digest() == hashlib.sha256(data).digest()


def test_a_file_that_shrank_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(noise(1000))
    with path.open("rb") as file, pytest.raises(EOFError):
        list(read_parts(file.fileno(), 2000))

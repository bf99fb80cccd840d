from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.artifacts.region import FormatError, OpenFile, Region, first_difference, joined


def test_a_read_outside_names_the_region() -> None:
    region = Region.of_bytes(b"0123456789", "disk").part(2, 4, "partition root")
    with pytest.raises(FormatError, match="disk: partition root: 2 bytes at 3 are outside"):
        region.read(3, 2)


def test_a_part_outside_is_refused() -> None:
    with pytest.raises(FormatError, match="outside"):
        Region.of_bytes(b"0123").part(2, 3)


def test_a_huge_structure_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with OpenFile(path) as opened, pytest.raises(FormatError, match="too large"):
        opened.region.read(0, 1 << 39)


def test_links_pipes_and_directories_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ".", "absent"):
        with pytest.raises(FormatError):
            OpenFile(tmp_path / name)


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with OpenFile(path) as opened:
        path.write_bytes(b"01")
        with pytest.raises(FormatError, match="ends at byte 2"):
            opened.region.read(0, 10)


def test_errors_carry_no_control_characters() -> None:
    assert "\x1b" not in str(FormatError("a \x1b[31m name", where="a\nfile"))


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=6)), max_size=8), st.data())
def test_joined_pieces_read_like_the_bytes_they_stand_for(gaps: list[tuple[int, bytes]], data: st.DataObject) -> None:
    whole, pieces = b"", []
    for gap, piece in gaps:
        whole += bytes(gap)
        pieces.append((len(whole), Region.of_bytes(piece)))
        whole += piece
    size = data.draw(st.integers(0, len(whole) + 5))
    whole = whole[:size].ljust(size, b"\0")
    region = joined("joined", size, pieces)
    start = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - start))
    assert region.read(start, length) == whole[start : start + length]
    assert b"".join(region.chunks(3)) == whole


def test_joined_pieces_must_not_overlap() -> None:
    with pytest.raises(FormatError, match="overlap at byte 2"):
        joined("joined", 9, [(0, Region.of_bytes(b"abc")), (2, Region.of_bytes(b"d"))])


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_the_first_difference_is_the_first(a: bytes, b: bytes) -> None:
    found = first_difference(Region.of_bytes(a), Region.of_bytes(b))
    if a == b:
        assert found is None
    else:
        assert found is not None
        assert a[:found] == b[:found]
        assert a[found : found + 1] != b[found : found + 1]


def test_a_difference_behind_the_first_chunk_is_found() -> None:
    a = bytearray((1 << 20) + 100)
    b = bytearray(a)
    b[(1 << 20) + 7] = 1
    assert first_difference(Region.of_bytes(bytes(a)), Region.of_bytes(bytes(b))) == (1 << 20) + 7

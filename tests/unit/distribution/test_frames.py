"""The frame index: what a .zst is made of, told the same way always, and read from strangers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stereo.artifacts.region import FormatError
from stereo.distribution import frames
from stereo.distribution.frames import Frame, Frames, frames_of, parse, render
from stereo.registry.errors import Malformed

_digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def _indexes(draw: st.DrawFn) -> Frames:
    rows = draw(st.lists(st.tuples(_digests, st.integers(1, 1 << 24), st.integers(1, frames.MAX_CONTENT)), min_size=1))
    found, offset = [], 0
    for digest, size, content in rows:
        found.append(Frame(digest, offset, size, content))
        offset += size
    name = draw(st.sampled_from(["stereos.img.zst", "stereos.qcow2.zst"]))
    return Frames(name, draw(_digests), offset, sum(row[2] for row in rows), tuple(found))


def packed(folder: Path, *contents: bytes) -> Path:
    path = folder / "stereos.img.zst"
    path.write_bytes(b"".join(zstandard.compress(one) for one in contents))
    return path


def document(**changes: Any) -> bytes:
    table: dict[str, Any] = {
        "schema": 1,
        "file": "stereos.img.zst",
        "sha256": "ab" * 32,
        "size": 30,
        "content": 300,
        "frames": [["cd" * 32, 10, 100], ["ef" * 32, 20, 200]],
    }
    return json.dumps(table | changes).encode()


def test_the_frames_of_a_file_are_those_that_were_written(tmp_path: Path) -> None:
    path = packed(tmp_path, b"a" * 1000, b"b" * 70_000)
    index = frames_of(path)
    data = path.read_bytes()
    assert [hashlib.sha256(data[one.offset : one.offset + one.size]).hexdigest() for one in index.frames] == [
        one.sha256 for one in index.frames
    ]
    assert (index.sha256, index.size, index.content) == (hashlib.sha256(data).hexdigest(), len(data), 71_000)
    assert [one.content for one in index.frames] == [1000, 70_000]


@pytest.mark.parametrize("content", [b"", b"no zstd at all", b"\x50\x2a\x4d\x18\x01\x00\x00\x00x"])
def test_what_no_index_can_tell_of_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stereos.img.zst"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        frames_of(path)


def test_a_frame_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, b"a" * 1000)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="cut short"):
        frames_of(path)


@given(_indexes())
def test_what_is_rendered_is_read_back_and_always_the_same(index: Frames) -> None:
    assert parse(render(index), "index") == index
    assert render(index) == render(parse(render(index), "index"))


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_whatever_the_bytes_are_they_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data, "index")


@given(_indexes(), st.data())
def test_a_changed_byte_is_refused_or_still_an_index_that_adds_up(index: Frames, data: st.DataObject) -> None:
    text = bytearray(render(index))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    try:
        found = parse(bytes(text), "index")
    except Malformed:
        return
    assert sum(one.size for one in found.frames) == found.size
    assert sum(one.content for one in found.frames) == found.content


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"schema": True},
        {"file": "../stereos.img.zst"},
        {"file": "bzImage"},
        {"file": ["stereos.img.zst"]},
        {"sha256": "AB" * 32},
        {"size": 31},
        {"size": -30},
        {"size": 1 << 60},
        {"content": 299},
        {"content": 300.0},
        {"frames": []},
        {"frames": {}},
        {"frames": [["cd" * 32, 30]]},
        {"frames": [["cd" * 32, True, 100], ["ef" * 32, 29, 200]]},
        {"frames": [["cd" * 32, 0, 100], ["ef" * 32, 30, 200]]},
        {"frames": [["cd" * 32, -10, 100], ["ef" * 32, 40, 200]]},
        {"frames": [["cd" * 32, 30, frames.MAX_CONTENT + 1]], "content": frames.MAX_CONTENT + 1},
        {"more": 1},
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    parse(document(), "index")
    with pytest.raises(Malformed):
        parse(document(**changes), "index")


def test_too_many_frames_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAMES", 1)
    with pytest.raises(Malformed, match="between 1 and 1"):
        parse(document(), "index")

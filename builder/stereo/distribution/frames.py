"""The frame index of a .zst: which frames it is made of, so that who has some of them need not fetch those again.

The .zst of a disk is a row of zstd frames cut where the content says so (`assemble.chunks`). The index names each by
the SHA-256 of its compressed bytes, and tells its size before and after decompression; the same file always gives the
same text. It is only ever a hint: what is put together with its help is held against the digest of the whole file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from stereo.artifacts import zst
from stereo.artifacts.region import CHUNK, OpenFile
from stereo.model.manifest import DISK_FILES, MAX_FILE
from stereo.registry.errors import Malformed
from stereo.registry.strict import read_json

SCHEMA = 1
MAX_BYTES = 4 << 20
MAX_FRAMES = 32_768
MAX_CONTENT = 64 << 20
"""Bytes that one frame may become. Ours are at most 12 MiB; who applies an index may hold one in memory."""

_HEX = frozenset("0123456789abcdef")
_KEYS = ("schema", "file", "sha256", "size", "content", "frames")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame, in bytes of the file. `sha256` is of the compressed bytes, `content` how many they become."""

    sha256: str
    offset: int
    size: int
    content: int


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of the file `file` (stereos.img.zst), which has this SHA-256 and size and becomes `content` bytes."""

    file: str
    sha256: str
    size: int
    content: int
    frames: tuple[Frame, ...]


def frames_of(path: Path) -> Frames:
    """Read a compressed disk once and tell its frames. Raises FormatError, also for what no index can tell of."""
    found: list[Frame] = []
    whole = hashlib.sha256()
    with OpenFile(path) as file:
        region = file.region
        if path.name not in _disk_files():
            raise region.fault("is no compressed disk of a dist")
        for one in zst.frames(region):
            if one.skippable or not 0 < (one.content or 0) <= MAX_CONTENT or len(found) == MAX_FRAMES:
                raise region.fault(f"the zstd frame at byte {one.offset} is none of those that `stereo build` makes")
            digest = hashlib.sha256()
            for data in region.part(one.offset, one.size).chunks(CHUNK):
                digest.update(data)
                whole.update(data)
            found.append(Frame(digest.hexdigest(), one.offset, one.size, one.content or 0))
        if not found:
            raise region.fault("is empty")
        return Frames(path.name, whole.hexdigest(), region.size, sum(one.content for one in found), tuple(found))


def render(frames: Frames) -> bytes:
    """The index as JSON: fixed order, one frame a line, LF at the end. `parse` gives `frames` back."""
    head = {key: getattr(frames, key) for key in ("file", "sha256", "size", "content")}
    lines = ",\n".join(f'["{one.sha256}",{one.size},{one.content}]' for one in frames.frames)
    start = json.dumps({"schema": SCHEMA, **head}, separators=(",", ":"))[:-1]
    return f'{start},"frames":[\n{lines}\n]}}\n'.encode()


def parse(data: bytes, name: str) -> Frames:
    """Read an index from anywhere; `name` is how errors call it. Raises `Malformed`, whatever the bytes are.

    What comes back is in itself right: the frames lie one behind the other and add up to `size` and `content`.
    """

    def refuse(reason: str) -> Malformed:
        return Malformed(f"is no frame index: {reason}", where=name)

    table = read_json(data, limit=MAX_BYTES, what=name)
    if not isinstance(table, dict) or set(table) != set(_KEYS):
        raise refuse(f"it must be an object of {', '.join(_KEYS)}")
    if not _is_count(table["schema"], SCHEMA):
        raise refuse(f"this stereo reads schema {SCHEMA}")
    if table["file"] not in _disk_files():
        raise refuse("it is of no compressed disk of a dist")
    if not _is_digest(table["sha256"]) or not _is_count(table["size"], MAX_FILE):
        raise refuse("digest or size of the file are none")
    rows = table["frames"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_FRAMES:
        raise refuse(f"there must be between 1 and {MAX_FRAMES} frames")
    found: list[Frame] = []
    offset = content = 0
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 3 or not _is_digest(row[0]):
            raise refuse(f"frame {number} is not a digest and two sizes")
        if not _is_count(row[1], table["size"]) or not _is_count(row[2], MAX_CONTENT):
            raise refuse(f"frame {number} has a size that cannot be")
        found.append(Frame(row[0], offset, row[1], row[2]))
        offset, content = offset + row[1], content + row[2]
    if offset != table["size"] or type(table["content"]) is not int or content != table["content"]:
        raise refuse("its frames do not add up to the file")
    return Frames(table["file"], table["sha256"], table["size"], content, tuple(found))


def _disk_files() -> tuple[str, ...]:
    return tuple(compressed for _, compressed in DISK_FILES.values())


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and _HEX.issuperset(value)


def _is_count(value: object, most: int) -> bool:
    """Whether it is a whole number from 1 to `most`. JSON's true is an int to Python."""
    return type(value) is int and 1 <= value <= most

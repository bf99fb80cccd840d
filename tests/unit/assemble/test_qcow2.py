"""The real qemu-img: the qcow2 is the disk, its header is as ordered, and its bytes depend on nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from makers.tools import Tool
from stereo.assemble.chunks import CLUSTER
from stereo.assemble.qcow2 import convert
from stereo.process import closed_environment
from unit.assemble.support import build, make_image


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image") / "image.raw"


@pytest.fixture
def qemu_img(tool: Callable[[str], Tool]) -> Tool:
    return tool("qemu-img")


def converted(raw: Path, name: str, qemu_img: Tool) -> bytes:
    target = raw.with_name(name)
    convert(raw, target, qemu_img=qemu_img.argv, env=closed_environment())
    return target.read_bytes()


def test_the_content_is_the_disk(raw: Path, qemu_img: Tool) -> None:
    converted(raw, "a.qcow2", qemu_img)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, raw.with_name("a.qcow2"))


def test_runs_and_holes_do_not_matter(raw: Path, tmp_path: Path, qemu_img: Tool) -> None:
    full = tmp_path / "elsewhere" / "full"
    full.parent.mkdir()
    full.write_bytes(raw.read_bytes())
    first = converted(raw, "a.qcow2", qemu_img)
    assert first == converted(raw, "b.qcow2", qemu_img) == converted(full, "c.qcow2", qemu_img)


def test_the_header_is_as_ordered(raw: Path, qemu_img: Tool) -> None:
    """See qemu's docs/interop/qcow2.txt."""
    header = converted(raw, "a.qcow2", qemu_img)[:112]
    magic, version, backing_offset, _, cluster_bits, size, encryption = struct.unpack_from(">4sIQIIQI", header)
    assert (magic, version, backing_offset, encryption) == (b"QFI\xfb", 3, 0, 0)
    assert 1 << cluster_bits == CLUSTER
    assert size == raw.stat().st_size
    incompatible, compatible, autoclear, refcount_order, _ = struct.unpack_from(">QQQII", header, 72)
    assert (incompatible, compatible, autoclear, refcount_order) == (0, 0, 0, 4)
    assert header[104] == 0  # zlib, for whoever compresses clusters later; none is


def test_raw_and_qcow2_share_their_frames(tmp_path: Path, tool: Callable[[str], Tool]) -> None:
    image = make_image(tmp_path / "image", megabytes=12)
    build(image, tmp_path / "dist" / "x86_64", tmp_path / "frames", qemu_img=tool("qemu-img").argv)
    shared = sum(path.stat().st_size for path in (tmp_path / "frames").glob("*/*"))
    one = (tmp_path / "dist" / "x86_64" / "stereos.img.zst").stat().st_size
    assert shared < 1.02 * one
    tool("zstd")("-tq", tmp_path / "dist" / "x86_64" / "stereos.qcow2.zst")

"""The real qemu-img: the qcow2 is the disk, its header is as ordered, and its bytes depend on nothing else."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from stereo.assemble.chunks import CLUSTER
from stereo.assemble.qcow2 import convert
from stereo.process import closed_environment
from unit.assemble.support import build, make_image, real_qemu_img


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image") / "image.raw"


def converted(raw: Path, name: str) -> bytes:
    target = raw.with_name(name)
    convert(raw, target, qemu_img=real_qemu_img(), env=closed_environment())
    return target.read_bytes()


def test_the_content_is_the_disk(raw: Path) -> None:
    converted(raw, "a.qcow2")
    argv = [*real_qemu_img(), "compare", "-f", "raw", "-F", "qcow2", str(raw), str(raw.with_name("a.qcow2"))]
    assert "identical" in subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_runs_and_holes_do_not_matter(raw: Path, tmp_path: Path) -> None:
    full = tmp_path / "elsewhere" / "full"
    full.parent.mkdir()
    full.write_bytes(raw.read_bytes())
    assert converted(raw, "a.qcow2") == converted(raw, "b.qcow2") == converted(full, "c.qcow2")


def test_the_header_is_as_ordered(raw: Path) -> None:
    """See qemu's docs/interop/qcow2.txt."""
    header = converted(raw, "a.qcow2")[:112]
    magic, version, backing_offset, _, cluster_bits, size, encryption = struct.unpack_from(">4sIQIIQI", header)
    assert (magic, version, backing_offset, encryption) == (b"QFI\xfb", 3, 0, 0)
    assert 1 << cluster_bits == CLUSTER
    assert size == raw.stat().st_size
    incompatible, compatible, autoclear, refcount_order, _ = struct.unpack_from(">QQQII", header, 72)
    assert (incompatible, compatible, autoclear, refcount_order) == (0, 0, 0, 4)
    assert header[104] == 0  # zlib, for whoever compresses clusters later; none is


def test_raw_and_qcow2_share_their_frames(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", megabytes=12)
    qemu_img = real_qemu_img()
    build(image, tmp_path / "dist" / "x86_64", tmp_path / "frames", qemu_img=qemu_img)
    shared = sum(path.stat().st_size for path in (tmp_path / "frames").glob("*/*"))
    one = (tmp_path / "dist" / "x86_64" / "stereos.img.zst").stat().st_size
    assert shared < 1.02 * one
    if shutil.which("zstd"):
        subprocess.run(["zstd", "-tq", str(tmp_path / "dist" / "x86_64" / "stereos.qcow2.zst")], check=True)

"""The readers on what real tools make."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from makers.tools import Tool
from stereo.artifacts import verity
from stereo.artifacts.cpio import Cpio
from stereo.artifacts.erofs import Erofs
from stereo.artifacts.ext4 import Ext4
from stereo.artifacts.qcow2 import Qcow2
from stereo.artifacts.region import FormatError, OpenFile, first_difference
from stereo.artifacts.tree import Kind, Tree, find
from stereo.artifacts.vfat import Vfat

GetTool = Callable[[str], Tool]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with what file systems treat specially."""
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "many").mkdir()
    (root / "etc/hostname").write_text("stereos\n")
    (root / "etc/private").write_bytes(b"s" * 5000)
    (root / "etc/private").chmod(0o600)
    (root / "empty").touch()
    (root / "random").write_bytes(random.Random(1).randbytes(200_001))
    (root / "short").symlink_to("etc/hostname")
    (root / "long").symlink_to("x" * 200)
    os.link(root / "etc/hostname", root / "hard")
    for index in range(300):
        (root / f"many/a-file-with-a-rather-long-name-{index}").touch()
    with (root / "sparse").open("wb") as file:
        file.seek(300_000)
        file.write(b"end")
    return root


def assert_same(tree: Tree, root: Path) -> None:
    found = {entry.path: entry for entry in tree.entries() if entry.path != "/lost+found"}
    wanted = {"/" + str(path.relative_to(root)) for path in root.rglob("*")} | {"/"}
    assert set(found) == wanted
    for name, entry in found.items():
        path = root / name.lstrip("/")
        status = path.lstat()
        assert entry.mode == stat.S_IMODE(status.st_mode), name
        assert (entry.uid, entry.gid) == (status.st_uid, status.st_gid), name
        if entry.kind is Kind.SYMLINK:
            assert entry.target == str(path.readlink())
        if entry.kind is Kind.FILE:
            content = tree.content(entry)
            assert content.read(0, content.size) == path.read_bytes(), name


@pytest.mark.parametrize("options", [[], ["-Eforce-inode-extended"], ["--chunksize=4096"]])
def test_erofs(tool: GetTool, tree: Path, tmp_path: Path, options: list[str]) -> None:
    tool("mkfs.erofs")("--quiet", "-T1700000000", *options, tmp_path / "image", tree)
    with OpenFile(tmp_path / "image") as image:
        assert_same(Erofs(image.region), tree)


def test_compressed_erofs_is_refused(tool: GetTool, tree: Path, tmp_path: Path) -> None:
    (tree / "zeros").write_bytes(bytes(100_000))
    tool("mkfs.erofs")("--quiet", "-zlz4", tmp_path / "image", tree)
    with OpenFile(tmp_path / "image") as image:
        reader = Erofs(image.region)
        entry = find(reader, "/zeros")
        assert entry is not None
        with pytest.raises(FormatError, match="compressed erofs is not supported"):
            reader.content(entry)


@pytest.mark.parametrize("options", [[], ["-b1024"], ["-Oinline_data"]])
def test_ext4(tool: GetTool, tree: Path, tmp_path: Path, options: list[str]) -> None:
    tool("mkfs.ext4")("-q", *options, "-d", tree, tmp_path / "image", "16M")
    with OpenFile(tmp_path / "image") as image:
        assert_same(Ext4(image.region), tree)


@pytest.mark.parametrize(("bits", "size"), [("12", 4), ("16", 16), ("32", 40)])
def test_vfat(tool: GetTool, tree: Path, tmp_path: Path, bits: str, size: int) -> None:
    make, folder, copy = tool("mkfs.vfat"), tool("mmd"), tool("mcopy")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(size << 20)
    make("-F", bits, image)
    folder("-i", image, "::EFI", "::EFI/BOOT")
    copy("-i", image, tree / "random", "::EFI/BOOT/BOOTX64.EFI")
    copy("-i", image, tree / "empty", "::a name that needs a long entry.conf")
    with OpenFile(image) as opened:
        reader = Vfat(opened.region)
        paths = [entry.path for entry in reader.entries()]
        assert paths == ["/", "/EFI", "/EFI/BOOT", "/EFI/BOOT/BOOTX64.EFI", "/a name that needs a long entry.conf"]
        entry = find(reader, "/EFI/BOOT/BOOTX64.EFI")
        assert entry is not None
        assert reader.content(entry).read(0, entry.size) == (tree / "random").read_bytes()


def test_cpio(tool: GetTool, tree: Path, tmp_path: Path) -> None:
    names = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
    tool("cpio")("-o", "-H", "newc", "--quiet", "-F", tmp_path / "image", cwd=tree, input_text=f".\n{names}\n")
    with OpenFile(tmp_path / "image") as image, Cpio(image.region) as reader:
        assert_same(reader, tree)


@pytest.mark.parametrize("options", ["compat=1.1", "compat=0.10", "compat=1.1,cluster_size=4096"])
def test_qcow2(tool: GetTool, tree: Path, tmp_path: Path, options: str) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    with raw.open("wb") as file:
        file.write((tree / "random").read_bytes())
        file.seek(3 << 20)
        file.write((tree / "random").read_bytes())
        file.truncate(8 << 20)
    tool("qemu-img")("convert", "-f", "raw", "-O", "qcow2", "-o", options, raw, image)
    with OpenFile(raw) as plain, OpenFile(image) as packed:
        assert first_difference(plain.region, Qcow2(packed.region).content()) is None


def test_compressed_qcow2_is_refused(tool: GetTool, tree: Path, tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(b"compressible" * 100_000 + bytes(336))
    tool("qemu-img")("convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)
    with OpenFile(image) as packed, pytest.raises(FormatError, match="compressed clusters"):
        Qcow2(packed.region).content()


@pytest.mark.parametrize("blocks", [1, 2, 129, 1000])
def test_verity(tool: GetTool, tmp_path: Path, blocks: int) -> None:
    (tmp_path / "data").write_bytes(random.Random(2).randbytes(blocks * 4096))
    said = tool("veritysetup")("format", tmp_path / "data", tmp_path / "hashes")
    root = next(line.split()[-1] for line in said.splitlines() if line.startswith("Root hash"))
    with OpenFile(tmp_path / "data") as data, OpenFile(tmp_path / "hashes") as hashes:
        assert verity.root_hash(data.region, hashes.region) == root

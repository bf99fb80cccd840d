"""The file systems and cpio: one sample tree, and every reader must see it as it is."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest
import zstandard

from makers.disk import make_cpio
from makers.erofs import make_erofs
from makers.ext4 import make_ext4
from makers.node import SAMPLE, Files, Node, directory, file
from makers.vfat import make_vfat
from stereo.artifacts.cpio import Cpio
from stereo.artifacts.erofs import Erofs
from stereo.artifacts.ext4 import Ext4
from stereo.artifacts.region import FormatError, Region
from stereo.artifacts.tree import Entry, Kind, Tree, find, order
from stereo.artifacts.vfat import Vfat

Make = Callable[[Files], bytes]
Read = Callable[[Region], Tree]

UNIX: dict[str, tuple[Make, Read]] = {
    "erofs compact inline": (make_erofs, Erofs),
    "erofs extended plain": (lambda files: make_erofs(files, extended=True, layout=0), Erofs),
    "erofs chunk-based": (lambda files: make_erofs(files, layout=4), Erofs),
    "ext4": (make_ext4, Ext4),
    "ext4 deep extents": (lambda files: make_ext4(files, deep=True), Ext4),
    "cpio": (make_cpio, Cpio),
    "cpio in zstd": (lambda files: zstandard.compress(make_cpio(files)), Cpio),
}
FAT: dict[str, tuple[Make, Read]] = {
    "fat12": (make_vfat, Vfat),
    "fat16": (lambda files: make_vfat(files, clusters=4200), Vfat),
    "fat32": (lambda files: make_vfat(files, clusters=65600), Vfat),
}
FAT_SAMPLE: Files = {
    "/": directory(),
    "/EFI": directory(),
    "/EFI/BOOT": directory(),
    "/EFI/BOOT/BOOTX64.EFI": file(bytes(range(256)) * 9),
    "/EFI/a name that is longer than short.conf": file(b"long", 0o444),
    "/empty": file(b""),
}


def expected(path: str, node: Node) -> tuple[object, ...]:
    kinds = {
        stat.S_IFREG: Kind.FILE,
        stat.S_IFDIR: Kind.DIRECTORY,
        stat.S_IFLNK: Kind.SYMLINK,
        stat.S_IFCHR: Kind.CHARACTER,
        stat.S_IFIFO: Kind.FIFO,
    }
    kind = kinds[stat.S_IFMT(node.mode)]
    size = len(node.content) if kind is Kind.FILE else 0
    target = node.content.decode() if kind is Kind.SYMLINK else None
    rdev = node.rdev if kind is Kind.CHARACTER else None
    return path, kind, stat.S_IMODE(node.mode), node.uid, node.gid, size, node.mtime, target, rdev


def seen(entry: Entry) -> tuple[object, ...]:
    return (
        entry.path,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        entry.mtime,
        entry.target,
        entry.rdev,
    )


@pytest.mark.parametrize("name", UNIX)
def test_every_entry_is_seen_as_it_was_written(name: str) -> None:
    make, read = UNIX[name]
    tree = read(Region.of_bytes(make(SAMPLE)))
    wanted = [expected(path, SAMPLE[path]) for path in sorted(SAMPLE, key=order)]
    assert [seen(entry) for entry in tree.entries()] == wanted


@pytest.mark.parametrize("name", UNIX)
def test_the_content_of_every_file_is_read(name: str) -> None:
    make, read = UNIX[name]
    tree = read(Region.of_bytes(make(SAMPLE)))
    for entry in tree.entries():
        if entry.kind is Kind.FILE:
            content = tree.content(entry)
            assert content.read(0, content.size) == SAMPLE[entry.path].content, entry.path


@pytest.mark.parametrize("name", [name for name in UNIX if not name.startswith("cpio")])
def test_extended_attributes_are_seen(name: str) -> None:
    make, read = UNIX[name]
    entry = find(read(Region.of_bytes(make(SAMPLE))), "/tagged")
    assert entry is not None
    assert entry.xattrs == (("user.note", b"seven"),)


@pytest.mark.parametrize("name", FAT)
def test_a_fat_file_system_is_read(name: str) -> None:
    make, read = FAT[name]
    tree = read(Region.of_bytes(make(FAT_SAMPLE)))
    entries = list(tree.entries())
    assert [entry.path for entry in entries] == sorted(FAT_SAMPLE, key=order)
    for entry in entries:
        if entry.kind is Kind.FILE:
            node = FAT_SAMPLE[entry.path]
            content = tree.content(entry)
            assert content.read(0, content.size) == node.content
            assert entry.mode == (0o555 if node.mode == stat.S_IFREG | 0o444 else 0o755)
            assert entry.mtime == 1_700_000_000


def test_a_fat_chain_that_runs_in_a_circle_is_refused() -> None:
    image = bytearray(make_vfat({"/": directory(), "/f": file(bytes(5000))}, clusters=4200))
    image[512 + 2 * 3 : 512 + 2 * 4] = b"\x02\x00"  # cluster 3 leads back to 2
    tree = Vfat(Region.of_bytes(bytes(image)))
    entry = find(tree, "/f")
    assert entry is not None
    with pytest.raises(FormatError, match="circle"):
        tree.content(entry)


def test_fat_directories_that_share_clusters_are_refused() -> None:
    image = bytearray(make_vfat({"/": directory(), "/a": directory(), "/b": directory()}))
    one, other = image.index(b"FILE0000BIN"), image.index(b"FILE0001BIN")
    image[other + 26 : other + 28] = image[one + 26 : one + 28]
    with pytest.raises(FormatError, match="/b: shares clusters"):
        list(Vfat(Region.of_bytes(bytes(image))).entries())


def test_paths_are_ordered_as_a_walk_goes() -> None:
    assert sorted(["/a.b", "/a/c", "/a", "/"], key=order) == ["/", "/a", "/a/c", "/a.b"]


def test_compressed_erofs_is_refused_by_name() -> None:
    tree = Erofs(Region.of_bytes(make_erofs(SAMPLE, layout=1)))
    entry = find(tree, "/large")
    assert entry is not None
    with pytest.raises(FormatError, match="/large: compressed erofs is not supported"):
        tree.content(entry)


@pytest.mark.parametrize(("bit", "what"), [(0x4, "journal"), (0x10000, "encryption"), (0x10, "meta block groups")])
def test_ext4_that_we_would_read_wrongly_is_refused(bit: int, what: str) -> None:
    with pytest.raises(FormatError, match=what):
        Ext4(Region.of_bytes(make_ext4(SAMPLE, features=0x42 | bit)))


def test_a_directory_loop_is_refused() -> None:
    image = make_ext4({"/": directory(), "/a": directory(), "/a/b": directory()})
    # "b" (inode 13) in "/a" becomes "/a" itself (inode 12)
    row = b"\x0d\0\0\0" + image[image.index(b"\x01\x02b") - 2 : image.index(b"\x01\x02b") + 3]
    looped = image.replace(row, b"\x0c" + row[1:])
    assert looped != image
    with pytest.raises(FormatError, match="a directory in two places"):
        list(Ext4(Region.of_bytes(looped)).entries())


def test_a_directory_loop_in_erofs_is_refused() -> None:
    image = bytearray(make_erofs({"/": directory(), "/a": directory(), "/a/b": directory()}))
    names = image.index(b"...b")  # behind three rows of 12 bytes, each with its inode first
    image[names - 12 : names - 4] = image[names - 36 : names - 28]
    with pytest.raises(FormatError, match="a directory in two places"):
        list(Erofs(Region.of_bytes(bytes(image))).entries())


@pytest.mark.parametrize("name", [b"../etc", b"a/\0b"])
def test_a_cpio_name_that_climbs_is_refused(name: bytes) -> None:
    archive = make_cpio({"/": directory(), "/x" * 3: file(b"x")}).replace(b"x/x/x", name.ljust(5, b"/")[:5])
    if b".." in name:
        with pytest.raises(FormatError, match="cannot be"):
            Cpio(Region.of_bytes(archive))
    else:
        assert [entry.path for entry in Cpio(Region.of_bytes(archive)).entries()] == ["/", "/a"]


def test_later_archives_replace_earlier_ones() -> None:
    first = make_cpio({"/": directory(), "/init": file(b"old"), "/kept": file(b"kept")})
    second = zstandard.compress(make_cpio({"/init": file(b"new")}))
    with Cpio(Region.of_bytes(first + bytes(512) + second)) as tree:
        contents = {entry.path: tree.content(entry) for entry in tree.entries() if entry.kind is Kind.FILE}
        assert {path: region.read(0, region.size) for path, region in contents.items()} == {
            "/init": b"new",
            "/kept": b"kept",
        }


def test_hard_links_in_cpio_share_their_content() -> None:
    archive = bytearray(make_cpio({"/a": file(b""), "/b": file(b"content")}))
    for at in (0, archive.index(b"070701", 1)):
        archive[at + 6 : at + 14] = b"00000007"  # one inode
        archive[at + 38 : at + 46] = b"00000002"  # two links
    with Cpio(Region.of_bytes(bytes(archive))) as tree:
        for entry in tree.entries():
            assert tree.content(entry).read(0, entry.size) == b"content"


def test_gzip_is_refused_by_name() -> None:
    with pytest.raises(FormatError, match="gzip is not supported"):
        Cpio(Region.of_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0"))


def test_zstd_inside_zstd_is_refused() -> None:
    with pytest.raises(FormatError, match="zstd inside zstd"):
        Cpio(Region.of_bytes(zstandard.compress(zstandard.compress(make_cpio(SAMPLE)))))


def test_a_cpio_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stereo.artifacts.cpio.LARGEST_CONTENT", 1 << 20)
    with pytest.raises(FormatError, match="more than the 1048576 bytes"):
        Cpio(Region.of_bytes(zstandard.compress(bytes(2 << 20))))


def test_an_initrd_of_endless_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes memory, and none of them must add to the size of a compressed archive."""
    monkeypatch.setattr("stereo.artifacts.cpio.MOST_ENTRIES", 10)
    archive = make_cpio({f"/{number}": file(b"") for number in range(6)})
    Cpio(Region.of_bytes(archive))
    with pytest.raises(FormatError, match="more than 10 entries"):
        Cpio(Region.of_bytes(archive + archive))

"""Whatever the bytes are, a reader either reads them or raises FormatError, and soon."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.disk import ESP, make_cpio, make_gpt, make_pe, make_qcow2, make_verity
from makers.erofs import make_erofs
from makers.ext4 import make_ext4
from makers.node import SAMPLE, directory, file
from makers.vfat import make_vfat
from stereo.artifacts import gpt, verity, zst
from stereo.artifacts.cpio import Cpio
from stereo.artifacts.erofs import Erofs
from stereo.artifacts.ext4 import Ext4
from stereo.artifacts.pe import Pe
from stereo.artifacts.qcow2 import Qcow2
from stereo.artifacts.region import FormatError, Region
from stereo.artifacts.tree import Kind, Tree
from stereo.artifacts.vfat import Vfat

_ENOUGH = 64 << 10  # of a file's content; a sparse one may claim more than is worth reading here


def walk(tree: Tree) -> None:
    for entry in tree.entries():
        if entry.kind is Kind.FILE:
            try:
                content = tree.content(entry)
            except FormatError:
                continue
            content.read(0, min(content.size, _ENOUGH))


def pe(region: Region) -> None:
    image = Pe(region)
    for section in image.sections:
        image.stored(section)


def tree_check(region: Region) -> None:
    superblock = verity.read_superblock(region)
    check = verity.TreeCheck(superblock, region)
    check.feed(bytes(40_000))
    check.finish()


def qcow2(region: Region) -> None:
    content = Qcow2(region).content()
    content.read(0, min(content.size, _ENOUGH))


def unpack(region: Region) -> None:
    for _ in zst.decompressed(region, 1 << 20):
        pass


FAT = {"/": directory(), "/EFI": directory(), "/EFI/a long name.efi": file(b"x" * 3000), "/f": file(b"y")}
READERS: dict[str, tuple[bytes, Callable[[Region], object]]] = {
    "gpt": (make_gpt([("esp", ESP, ESP, b"x" * 512)]), gpt.read_gpt),
    "vfat": (make_vfat(FAT), lambda region: walk(Vfat(region))),
    "erofs": (make_erofs(SAMPLE), lambda region: walk(Erofs(region))),
    "erofs chunks": (make_erofs(SAMPLE, extended=True, layout=4), lambda region: walk(Erofs(region))),
    "ext4": (make_ext4(SAMPLE, deep=True), lambda region: walk(Ext4(region))),
    "cpio": (make_cpio(SAMPLE), lambda region: walk(Cpio(region))),
    "cpio in zstd": (zstandard.compress(make_cpio(SAMPLE)), lambda region: walk(Cpio(region))),
    "pe": (make_pe([(".linux", b"kernel"), (".initrd", b"x" * 700)]), pe),
    "qcow2": (make_qcow2(b"\1" * 2048 + bytes(4096) + b"\2" * 1024, bits=9), qcow2),
    "verity": (make_verity(bytes(4096 * 9))[0], tree_check),
    "zst": (zstandard.compress(bytes(range(256)) * 20) * 3, unpack),
}


@pytest.mark.parametrize("name", READERS)
def test_the_sample_itself_is_valid(name: str) -> None:
    image, read = READERS[name]
    read(Region.of_bytes(image))


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=80, deadline=10_000, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_altered_images_are_read_or_refused(name: str, data: st.DataObject) -> None:
    image, read = READERS[name]
    # Most of an image is content; what steers a reader is where bytes are not zero, and near the start.
    steering = [at for at, byte in enumerate(image) if byte][:6000]
    place = st.one_of(st.sampled_from(steering), st.integers(0, len(image) - 1))
    word = st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff" * 8, b"\x7f"]))
    altered = bytearray(image)
    for at, value in data.draw(st.lists(st.tuples(place, word), min_size=1, max_size=4)):
        altered[at : at + len(value)] = value
    altered = altered[: data.draw(st.one_of(st.just(len(altered)), st.integers(0, len(altered))))]
    with suppress(FormatError):
        read(Region.of_bytes(bytes(altered)))


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=30, deadline=10_000, suppress_health_check=[HealthCheck.too_slow])
@given(noise=st.binary(max_size=3000), kept=st.integers(0, 2200))
def test_noise_behind_a_valid_beginning_is_read_or_refused(name: str, noise: bytes, kept: int) -> None:
    image, read = READERS[name]
    with suppress(FormatError):
        read(Region.of_bytes(image[:kept] + noise))

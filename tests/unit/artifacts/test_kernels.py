"""Kernels: each form is told by its bytes, what is in a bzImage comes out whole, and what is damaged is refused."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from makers.disk import make_pe
from makers.kernels import PVH_ENTRY, make_bzimage, make_elf, make_image
from stereo.artifacts.bzimage import LARGEST_KERNEL, BzImage
from stereo.artifacts.elf import AARCH64, Elf
from stereo.artifacts.kernel import Image, Kernel, kernel_form
from stereo.artifacts.region import FormatError, Region
from stereo.artifacts.zst import Spool


def region(data: bytes) -> Region:
    return Region.of_bytes(data, "file")


def unpacked(data: bytes) -> bytes:
    with Spool() as spool:
        kernel = BzImage(region(data)).unpack(spool)
        return kernel.read(0, kernel.size)


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (make_bzimage(), Kernel.BZIMAGE),
        (make_elf(), Kernel.ELF),
        (make_image(), Kernel.IMAGE),
        (b"MZ\0\0zimg" + bytes(60), Kernel.ZBOOT),
        (make_pe([(".text", b"x")]), Kernel.PE),
        (gzip.compress(make_image()), Kernel.GZIP),
    ],
)
def test_each_form_is_known_by_its_bytes(data: bytes, form: Kernel) -> None:
    assert kernel_form(region(data)) is form


@pytest.mark.parametrize("data", [b"", b"M", b"kernel" * 100, bytes(4096)])
def test_what_is_no_kernel_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="no kernel that is known"):
        kernel_form(region(data))


def test_the_elf_kernel_comes_out_of_a_bzimage() -> None:
    kernel = make_elf()
    packed = BzImage(region(make_bzimage(kernel)))
    assert (packed.protocol, packed.cmdline_size) == (0x20F, 2047)
    assert unpacked(make_bzimage(kernel)) == kernel
    assert Elf(region(kernel)).pvh_entry() == PVH_ENTRY


def test_a_kernel_packed_with_a_window_as_large_as_the_kernels_own_comes_out() -> None:
    kernel = make_elf(text=100_000)
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # which tells no size, as a pipe
    assert unpacked(make_bzimage(kernel, packed=packer.compress(kernel) + packer.flush())) == kernel


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_elf(), "not a bzImage"),
        (make_bzimage()[:0x240], "not a bzImage"),
        (make_bzimage()[:-1], "outside its"),
        (make_bzimage(packed=gzip.compress(make_elf())), "packed by gzip, which is not supported"),
        (make_bzimage(packed=b"\x02!L\x18" + bytes(100)), "packed by lz4, which is not supported"),
        (make_bzimage(packed=b"????" + bytes(100)), "in a way that is not known"),
        (make_bzimage(size=len(make_elf()) + 1), "its end says"),
        (make_bzimage(size=len(make_elf()) - 1), "more than the"),
        (make_bzimage(size=LARGEST_KERNEL + 1), "would unpack to"),
        (make_bzimage(b"no kernel" * 100), "not ELF"),
        (make_bzimage(make_elf(machine=AARCH64)), "no executable for x86_64"),
        (make_bzimage(make_elf(kind=3)), "no executable for x86_64"),
        (make_bzimage(make_elf(text=0)), "no executable for x86_64"),
    ],
)
def test_a_bzimage_that_holds_no_sound_kernel_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        unpacked(data)


def test_a_bzimage_before_the_header_told_of_its_payload_is_refused() -> None:
    old = bytearray(make_bzimage())
    struct.pack_into("<H", old, 0x206, 0x207)
    with pytest.raises(FormatError, match=r"boot protocol 2\.07"):
        BzImage(region(bytes(old)))


def test_a_bomb_ends_at_the_size_that_it_claims() -> None:
    bomb = zstandard.compress(bytes(64 << 20), 19)
    with pytest.raises(FormatError, match="more than the 4096 bytes"):
        unpacked(make_bzimage(packed=bomb, size=4096))


def test_a_kernel_without_a_pvh_note_tells_none() -> None:
    assert Elf(region(make_elf(notes=((b"GNU\0", 3, b"1234"),)))).pvh_entry() is None


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, b"\1", "not ELF of 64 bits"),
        (5, b"\2", "little endian"),
        (56, b"\xff\xff", "65535 segments"),
        (96, b"\xff" * 8, "outside"),
    ],
)
def test_damaged_headers_of_elf_are_refused(at: int, value: bytes, message: str) -> None:
    data = bytearray(make_elf())
    data[at : at + len(value)] = value
    with pytest.raises(FormatError, match=message):
        Elf(region(bytes(data)))


def test_a_note_that_leaves_its_segment_is_refused() -> None:
    data = make_elf(notes=((b"Xen\0", 18, b"12345678"),))
    at = data.rindex(b"Xen\0") - 8
    with pytest.raises(FormatError, match="cut short"):
        Elf(region(data[:at] + struct.pack("<I", 1 << 30) + data[at + 4 :])).pvh_entry()


def test_an_image_tells_the_memory_that_it_needs() -> None:
    assert Image(region(make_image(memory=99_999))).memory == 99_999


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_bzimage(), "not an arm64 Image"),
        (make_image()[:60], "not an arm64 Image"),
        (make_image(flags=1), "big-endian"),
        (make_image(memory=10), "claims to need 10"),
    ],
)
def test_an_image_that_cannot_be_booted_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Image(region(data))


def read_everything(data: bytes) -> None:
    """Whatever the bytes are: a result or FormatError."""
    readers: list[Callable[[Region], object]] = [kernel_form, lambda one: Elf(one).pvh_entry(), Image]
    with Spool() as spool:
        readers.append(lambda one: BzImage(one).unpack(spool))
        for read in readers:
            with suppress(FormatError):
                read(region(data))


@given(st.binary(max_size=3000))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    for head in (b"", b"\x7fELF\2\1\1"):
        read_everything(head + data)


@settings(max_examples=300)
@given(
    st.sampled_from([make_bzimage(), make_elf(), make_image()]),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8),
    st.integers(0, 1 << 16),
)
def test_no_alteration_breaks_the_readers(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    altered = bytearray(data)
    for at, value in changes:
        altered[at % len(altered)] = value
    read_everything(bytes(altered[: len(altered) - cut % len(altered)] if cut % 3 == 0 else altered))


@given(st.integers(1, 20_000), st.binary(max_size=8))
def test_every_kernel_comes_out_as_it_went_in(text: int, content: bytes) -> None:
    kernel = make_elf(text=text, notes=((b"Xen\0", 18, content),))
    assert unpacked(make_bzimage(kernel)) == kernel
    wanted = int.from_bytes(content, "little") if len(content) in (4, 8) else None
    assert Elf(region(kernel)).pvh_entry() == wanted

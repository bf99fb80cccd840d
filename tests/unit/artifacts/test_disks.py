"""GPT, qcow2, dm-verity, PE and zstd."""

from __future__ import annotations

import struct
import zlib
from uuid import uuid4

import pytest
import zstandard

from makers.disk import DISK_UUID, ESP, LINUX, SECTOR, make_gpt, make_pe, make_qcow2, make_verity
from stereo.artifacts import gpt, verity, zst
from stereo.artifacts.pe import Pe
from stereo.artifacts.qcow2 import Qcow2, Run
from stereo.artifacts.region import FormatError, Region

ONE, TWO = str(uuid4()), str(uuid4())
DISK = make_gpt([("esp", ESP, ONE, b"\1" * 8192), ("state", LINUX, TWO, b"\2" * 512)])


def flipped(data: bytes, at: int, bit: int = 1) -> Region:
    out = bytearray(data)
    out[at] ^= bit
    return Region.of_bytes(bytes(out), "image")


def test_a_partition_table_is_read() -> None:
    table = gpt.read_gpt(Region.of_bytes(DISK))
    assert table.disk_uuid == DISK_UUID
    rows = [(row.number, row.label, row.type, row.uuid, row.size) for row in table.partitions]
    assert rows == [(1, "esp", ESP, ONE, 8192), (2, "state", LINUX, TWO, 512)]
    region = gpt.partition_region(Region.of_bytes(DISK), table.partitions[1])
    assert region.read(0, 512) == b"\2" * 512


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (450, "protective MBR"),
        (SECTOR + 56, "primary GPT header does not match its checksum"),
        (2 * SECTOR + 60, "primary GPT entries do not match their checksum"),
        (len(DISK) - SECTOR + 56, "backup GPT header does not match its checksum"),
        (len(DISK) - 33 * SECTOR + 60, "backup GPT entries do not match their checksum"),
    ],
)
def test_a_flipped_bit_in_either_table_is_found(at: int, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        gpt.read_gpt(flipped(DISK, at))


PRIMARY, BACKUP = 1, len(DISK) // SECTOR - 1


def rewritten(copies: dict[int, tuple[int, bytes]]) -> Region:
    """The disk with bytes of its partition tables replaced, and checksums that fit.

    `copies` is, by the sector of the header, an offset in the entries, or in the header if it is negative.
    """
    disk = bytearray(DISK)
    for lba, (offset, value) in copies.items():
        at = lba * SECTOR
        (entries_lba,) = struct.unpack_from("<Q", disk, at + 72)
        entries = entries_lba * SECTOR
        place = entries + offset if offset >= 0 else at - offset
        disk[place : place + len(value)] = value
        struct.pack_into("<I", disk, at + 88, zlib.crc32(disk[entries : entries + 128 * 128]))
        struct.pack_into("<I", disk, at + 16, 0)
        struct.pack_into("<I", disk, at + 16, zlib.crc32(disk[at : at + 92]))
    return Region.of_bytes(bytes(disk), "image")


def test_tables_rewritten_with_equal_bytes_are_read() -> None:
    assert gpt.read_gpt(rewritten({PRIMARY: (128, DISK[1024 + 128 : 1024 + 136]), BACKUP: (0, b"")}))


def test_partitions_that_overlap_are_refused() -> None:
    esp = DISK[2 * SECTOR + 32 : 2 * SECTOR + 48]  # first and last sector
    with pytest.raises(FormatError, match="partitions 1 and 2 overlap"):
        gpt.read_gpt(rewritten({PRIMARY: (128 + 32, esp), BACKUP: (128 + 32, esp)}))


def test_a_partition_that_leaves_the_disk_is_refused() -> None:
    last = (128 + 40, struct.pack("<Q", 1 << 40))
    with pytest.raises(FormatError, match="partition 2 leaves the disk"):
        gpt.read_gpt(rewritten({PRIMARY: last, BACKUP: last}))


def test_tables_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(FormatError, match="primary and backup GPT differ"):
        gpt.read_gpt(rewritten({BACKUP: (56, "ESP".encode("utf-16-le"))}))


@pytest.mark.parametrize("lba", [PRIMARY, BACKUP])
def test_headers_that_do_not_point_at_each_other_are_refused(lba: int) -> None:
    with pytest.raises(FormatError, match="do not point at each other"):
        gpt.read_gpt(rewritten({lba: (-32, struct.pack("<Q", 7))}))


def test_a_disk_that_grew_without_its_backup_table_is_refused() -> None:
    with pytest.raises(FormatError, match="no backup GPT header"):
        gpt.read_gpt(Region.of_bytes(DISK + bytes(SECTOR)))


@pytest.mark.parametrize("version", [2, 3])
def test_qcow2_gives_the_disk_back(version: int) -> None:
    disk = b"\1" * 4096 + bytes(8192) + b"\3" * 5000
    image = Qcow2(Region.of_bytes(make_qcow2(disk, version=version)))
    content = image.content()
    assert content.read(0, content.size) == disk
    assert [run for run in image.runs() if run.host is None] == [Run(4096, 8192, None)]


def test_qcow2_clusters_marked_zero_read_as_zeros() -> None:
    disk = bytes(8192) + b"\3" * 4096
    content = Qcow2(Region.of_bytes(make_qcow2(disk, zero_flag=True))).content()
    assert content.read(0, content.size) == disk


def test_an_allocated_cluster_marked_zero_reads_as_zeros() -> None:
    image = flipped(make_qcow2(b"\1" * 4096), 8192 + 7)
    assert Qcow2(image).content().read(0, 4096) == bytes(4096)


def test_qcow2_with_many_tables_is_read() -> None:
    disk = b"".join(bytes([index % 251]) * 512 for index in range(200))
    content = Qcow2(Region.of_bytes(make_qcow2(disk, bits=9))).content()
    assert content.read(0, content.size) == disk


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, struct.pack(">Q", 1000), "backing file"),
        (32, struct.pack(">I", 1), "encrypted"),
        (60, struct.pack(">I", 1), "snapshots"),
        (72, struct.pack(">Q", 4), "keeps its data elsewhere"),
        (72, struct.pack(">Q", 1 << 40), "bit 40"),
        (20, struct.pack(">I", 40), "clusters of 2"),
        (24, struct.pack(">Q", 1 << 62), "L1 table"),
        (4, struct.pack(">I", 4), "version"),
    ],
)
def test_qcow2_that_does_not_stand_alone_is_refused(offset: int, value: bytes, message: str) -> None:
    image = bytearray(make_qcow2(b"\1" * 4096))
    image[offset : offset + len(value)] = value
    with pytest.raises(FormatError, match=message):
        Qcow2(Region.of_bytes(bytes(image)))


def test_qcow2_with_compressed_clusters_is_refused() -> None:
    with pytest.raises(FormatError, match="compressed clusters"):
        Qcow2(flipped(make_qcow2(b"\1" * 4096), 8192, 0x40)).content()


def test_a_qcow2_table_used_twice_is_refused() -> None:
    disk = b"\1" * (512 * 130)
    image = bytearray(make_qcow2(disk, bits=9))
    image[512 + 8 : 512 + 16] = image[512 : 512 + 8]
    with pytest.raises(FormatError, match="used twice"):
        Qcow2(Region.of_bytes(bytes(image))).content()


@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 300])
def test_a_verity_tree_is_checked_and_its_root_hash_computed(blocks: int) -> None:
    data = b"".join(bytes([index % 256]) * 4096 for index in range(blocks))
    hashes, root = make_verity(data)
    assert verity.root_hash(Region.of_bytes(data), Region.of_bytes(hashes)) == root


def test_a_flipped_bit_in_the_data_is_located() -> None:
    data = bytes(4096 * 200)
    hashes, root = make_verity(data)
    check = verity.TreeCheck(verity.read_superblock(Region.of_bytes(hashes)), Region.of_bytes(hashes))
    for chunk in flipped(data, 4096 * 130 + 9).chunks():
        check.feed(chunk)
    check.finish()
    assert check.fault == "data block 130 (byte 532480) does not match the hash tree"
    assert check.root != root


def test_a_flipped_bit_in_the_upper_tree_is_found() -> None:
    data = bytes(4096 * 200)
    hashes, _ = make_verity(data)
    with pytest.raises(FormatError, match="hash block 0 of level 0"):
        verity.root_hash(Region.of_bytes(data), flipped(hashes, 4096 + 3))


def test_data_that_is_cut_short_is_found() -> None:
    hashes, _ = make_verity(bytes(4096 * 3))
    with pytest.raises(FormatError, match="1 data blocks are missing"):
        verity.root_hash(Region.of_bytes(bytes(4096 * 2)), Region.of_bytes(hashes))


def test_the_sections_of_a_pe_image_are_read() -> None:
    image = Pe(Region.of_bytes(make_pe([(".linux", b"kernel"), (".cmdline", b"quiet")])))
    assert [section.name for section in image.sections] == [".linux", ".cmdline"]
    content = image.content(image.only(".linux"))
    assert content.read(0, content.size) == b"kernel"
    assert image.stored(image.only(".linux")).size == 512


def test_a_section_that_is_there_twice_is_refused() -> None:
    image = Pe(Region.of_bytes(make_pe([(".linux", b"a"), (".linux", b"b")])))
    with pytest.raises(FormatError, match="2 sections"):
        image.only(".linux")


def test_frames_are_found_and_decompressed() -> None:
    small = zstandard.compress(b"one")
    unsized = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress(b"two" * 100_000)
    skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    packed = Region.of_bytes(small + unsized + skipped + small)
    found = list(zst.frames(packed))
    assert [frame.size for frame in found] == [len(small), len(unsized), len(skipped), len(small)]
    assert [frame.content for frame in found] == [3, None, 0, 3]
    taken: list[bytes] = []
    content = b"".join(zst.decompressed(packed, 300_006, seen=taken.append, chunk=1000))
    assert content == b"one" + b"two" * 100_000 + b"one"
    assert b"".join(taken) == packed.read(0, packed.size)


@pytest.mark.parametrize("sized", [True, False])
def test_a_bomb_ends_at_the_bytes_that_were_expected(sized: bool) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=sized).compress(bytes(64 << 20))
    taken: list[bytes] = []
    with pytest.raises(FormatError, match="more than the 1000 bytes"):
        taken.extend(zst.decompressed(Region.of_bytes(bomb), 1000))
    assert sum(map(len, taken)) <= 1000


@pytest.mark.parametrize("cut", [1, 4, 5, 50])
def test_a_frame_that_is_cut_short_is_an_error(cut: int) -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(range(256)) * 1000)
    with pytest.raises(FormatError, match="cut short"):
        list(zst.decompressed(Region.of_bytes(packed[:-cut]), 1 << 20))


def test_a_damaged_checksum_is_an_error() -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(range(256)) * 1000)
    with pytest.raises(FormatError, match="is damaged"):
        list(zst.decompressed(flipped(packed, len(packed) - 1), 1 << 20))


def test_a_window_that_would_take_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packed.compress(bytes(1000)) + packed.flush()
    with pytest.raises(FormatError, match="too much memory"):
        list(zst.decompressed(Region.of_bytes(data), 1000))

"""One pass over a disk: digests, frames that any zstd reads, equal bytes for any number of workers, and failures."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from makers.tools import Tool
from stereo.assemble.chunks import BLOCK, CLUSTER, Geometry
from stereo.assemble.compress import Compressor, DiskSums, Span
from stereo.assemble.frames import FrameCache
from stereo.assemble.worker import compress
from stereo.errors import StereoError

SMALL = Geometry(minimum=8 * BLOCK, mask=15, maximum=64 * BLOCK)


class Counted:
    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """3 MiB: noise, text, zeros, a hole, and the noise once more."""
    path = tmp_path / "disk"
    noise = random.Random(1).randbytes(1 << 20)
    with path.open("wb") as file:
        file.write(noise + b"text" * (CLUSTER // 2) + bytes(3 * CLUSTER))
        file.seek(2 << 20)
        file.write(noise)
        file.truncate((3 << 20) + 512)
    return path


def made(disk: Path, frames: Path, *, level: int = 1, jobs: int = 2) -> tuple[DiskSums, bytes, Compressor]:
    out = io.BytesIO()
    with Compressor(
        FrameCache(frames, level), level=level, jobs=jobs, progress=Counted(), geometry=SMALL
    ) as compressor:
        sums = compressor.read_disk(disk)
        compressor.finish()
        sha256, size = compressor.join(sums.chunks, out)
    assert (sha256, size) == (hashlib.sha256(out.getvalue()).hexdigest(), len(out.getvalue()))
    return sums, out.getvalue(), compressor


def test_digests_of_the_whole_and_of_its_parts(disk: Path, tmp_path: Path) -> None:
    data = disk.read_bytes()
    spans = [Span(0, 512), Span(70_000, 2_000_000), Span(1 << 20, 1 << 20), Span(len(data) - 512, 512)]
    with Compressor(FrameCache(tmp_path / "f", 1), level=1, jobs=2, progress=Counted(), geometry=SMALL) as compressor:
        sums = compressor.read_disk(disk, copy_to=tmp_path / "copy", spans=spans)
        compressor.finish()
    assert sums.sha256 == hashlib.sha256(data).hexdigest()
    assert sums.spans == [hashlib.sha256(data[one.offset : one.offset + one.size]).hexdigest() for one in spans]
    assert (tmp_path / "copy").read_bytes() == data
    assert (tmp_path / "copy").stat().st_blocks * 512 < len(data) - (1 << 19)


def test_a_plain_reader_of_zstd_streams_gets_the_disk_back(disk: Path, tmp_path: Path) -> None:
    _, compressed, _ = made(disk, tmp_path / "f")
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(compressed), read_across_frames=True) as reader:
        assert reader.read() == disk.read_bytes()


def test_the_zstd_program_without_options_gets_the_disk_back(
    disk: Path, tmp_path: Path, tool: Callable[[str], Tool]
) -> None:
    (tmp_path / "disk.zst").write_bytes(made(disk, tmp_path / "f")[1])
    tool("zstd")("-dq", tmp_path / "disk.zst", "-o", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("level", [1, 3, 19])
def test_a_frame_has_size_and_checksum_and_a_window_that_any_decoder_takes(level: int) -> None:
    chunk = random.Random(2).randbytes(1000) * 300
    parameters = zstandard.get_frame_parameters(compress(chunk, level))
    assert parameters.content_size == len(chunk)
    assert parameters.has_checksum
    assert parameters.window_size <= 1 << 27


def test_the_bytes_do_not_depend_on_the_number_of_workers(disk: Path, tmp_path: Path) -> None:
    made_by = {jobs: made(disk, tmp_path / f"frames{jobs}", jobs=jobs)[1] for jobs in (1, 2, 3, 8)}
    assert len(set(made_by.values())) == 1


def test_what_occurs_twice_is_compressed_once(disk: Path, tmp_path: Path) -> None:
    _, _, compressor = made(disk, tmp_path / "f")
    assert compressor.stats.repeated > 0.8 * (1 << 20)


def test_what_an_earlier_build_compressed_is_not_compressed_again(disk: Path, tmp_path: Path) -> None:
    first = made(disk, tmp_path / "f")
    again = made(disk, tmp_path / "f")
    assert again[2].stats.compressed == 0
    assert again[1] == first[1]


def test_a_spoilt_frame_in_the_cache_is_made_again(disk: Path, tmp_path: Path) -> None:
    first = made(disk, tmp_path / "f")
    victim = FrameCache(tmp_path / "f", 1).path_of(first[0].chunks[3])
    spoilt = bytearray(victim.read_bytes())
    spoilt[100] ^= 1
    victim.write_bytes(spoilt)
    again = made(disk, tmp_path / "f")
    assert again[2].stats.compressed > 0
    assert again[1] == first[1]


def test_progress_reaches_what_there_is_to_read_and_no_more(disk: Path, tmp_path: Path) -> None:
    progress = Counted()
    with Compressor(FrameCache(tmp_path / "f", 1), level=1, jobs=2, progress=progress, geometry=SMALL) as compressor:
        compressor.read_disk(disk)
        compressor.finish()
    assert 2 * (1 << 20) < progress.done < 3 * (1 << 20)


def test_a_frame_that_cannot_be_written_is_an_error_with_its_path(disk: Path, tmp_path: Path) -> None:
    sums, _, _ = made(disk, tmp_path / "f")
    in_the_way = FrameCache(tmp_path / "g", 1).path_of(sums.chunks[2])
    in_the_way.mkdir()
    with pytest.raises(IsADirectoryError, match=sums.chunks[2]):
        made(disk, tmp_path / "g")


def test_a_worker_that_is_killed_fails_the_build_and_takes_nothing_along(disk: Path, tmp_path: Path) -> None:
    compressor = Compressor(FrameCache(tmp_path / "f", 1), level=1, jobs=2, progress=Counted(), geometry=SMALL)

    def build_and_be_killed() -> None:
        with compressor:
            compressor.read_disk(disk)
            compressor.finish()
            worker = compressor._worker()
            assert os.getpgid(worker._process.pid) != os.getpgid(0)  # Ctrl-C is not for the workers
            os.kill(worker._process.pid, signal.SIGKILL)
            worker.receive(tmp_path)

    with pytest.raises(StereoError, match="compressor process ended"):
        build_and_be_killed()
    assert all(one._process.returncode is not None for one in compressor._workers)


def test_giving_up_ends_the_workers(disk: Path, tmp_path: Path) -> None:
    compressor = Compressor(FrameCache(tmp_path / "f", 19), level=19, jobs=2, progress=Counted(), geometry=SMALL)

    def build_and_give_up() -> None:
        with compressor:
            compressor.read_disk(disk)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_and_give_up()
    assert {one._process.returncode for one in compressor._workers} == {-signal.SIGKILL}


def test_a_link_in_place_of_the_disk_is_refused(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(disk)
    with pytest.raises(StereoError, match="symbolic link"):
        made(tmp_path / "link", tmp_path / "f")


_MEASURED = """
import io, resource, sys
from collections.abc import Callable
from pathlib import Path
from stereo.assemble.compress import Compressor
from stereo.assemble.frames import FrameCache
class Quiet:
    def advance(self, amount): pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Compressor(FrameCache(Path(sys.argv[2]), 1), level=1, jobs=int(sys.argv[3]), progress=Quiet()) as compressor:
    sums = compressor.read_disk(Path(sys.argv[1]))
    compressor.finish()
    compressor.join(sums.chunks, open("/dev/null", "wb"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_disk_or_the_workers(tmp_path: Path) -> None:
    noise = random.Random(3).randbytes(32 << 20)
    with (tmp_path / "disk").open("wb") as file:
        for number in range(8):
            file.write(number.to_bytes(8, "big") + noise)
        file.truncate(1 << 30)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", _MEASURED, str(tmp_path / "disk"), str(tmp_path / "frames"), "8"]
    measured = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    assert int(measured.stdout) < 100 * 1024  # KiB: three buffers of 24 MiB and change

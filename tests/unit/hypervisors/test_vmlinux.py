"""vmlinux: the kernel of a sound dist comes out whole, once, or not at all; and verify finds what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from makers.altering import flipped, reseal
from makers.dist import make_dist
from makers.kernels import PVH_ENTRY, make_bzimage, make_elf, make_image
from stereo.artifacts.region import FormatError
from stereo.assemble.dist import read_manifest
from stereo.check.verify import verify
from stereo.errors import StereoError, UsageError
from stereo.hypervisors.vmlinux import Extracted, extract
from stereo.model.architecture import Architecture
from stereo.report import Silent

ELF = make_elf()


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    make_dist(tmp_path / "dist", bzimage=make_bzimage(ELF))
    return tmp_path / "dist"


def extracted(dist: Path, file: Path | None = None) -> Extracted:
    return extract(dist, read_manifest(dist), file)


def failures(dist: Path) -> list[tuple[str, str]]:
    return [(row.artifact, row.check) for row in verify(dist, Silent()).findings if not row.ok]


def test_the_kernel_lies_in_the_dist_and_verify_knows_it(dist: Path) -> None:
    done = extracted(dist)
    assert (done.file, done.size, done.entry, done.written) == (dist / "vmlinux", len(ELF), PVH_ENTRY, True)
    assert done.file.read_bytes() == ELF
    assert done.file.stat().st_mode & 0o777 == 0o644
    assert [row.ok for row in verify(dist, Silent()).findings if row.artifact == "vmlinux"] == [True]
    assert [path.name for path in dist.parent.iterdir()] == ["dist"]


def test_a_second_time_nothing_is_written(dist: Path) -> None:
    inode = extracted(dist).file.stat().st_ino
    again = extracted(dist)
    assert not again.written
    assert again.file.stat().st_ino == inode


def test_what_is_half_written_is_not_in_the_dist(dist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed then leaves a dist that verifies."""
    before, seen = {*dist.iterdir()}, []
    monkeypatch.setattr("stereo.hypervisors.vmlinux.os.fsync", lambda _: seen.append({*dist.iterdir()}))
    extracted(dist)
    assert seen == [before]


def test_what_was_altered_is_written_anew(dist: Path) -> None:
    (dist / "vmlinux").write_bytes(ELF[:-1])
    assert extracted(dist).written
    assert (dist / "vmlinux").read_bytes() == ELF


def test_a_link_is_replaced_and_not_followed(dist: Path, tmp_path: Path) -> None:
    (tmp_path / "else").write_bytes(b"mine")
    (dist / "vmlinux").symlink_to(tmp_path / "else")
    extracted(dist)
    assert (tmp_path / "else").read_bytes() == b"mine"
    assert not (dist / "vmlinux").is_symlink()


def test_it_can_go_elsewhere(dist: Path, tmp_path: Path) -> None:
    assert extracted(dist, tmp_path / "kernel").file.read_bytes() == ELF
    assert not (dist / "vmlinux").exists()


def test_a_folder_is_no_place_for_it(dist: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        extracted(dist, tmp_path)


@pytest.mark.parametrize("at", [0, 700, 1200])
def test_nothing_comes_out_of_an_altered_bzimage(dist: Path, at: int) -> None:
    with flipped(dist / "bzImage", at), pytest.raises(StereoError, match="not the file that the manifest describes"):
        extracted(dist)
    assert not (dist / "vmlinux").exists()


def test_nothing_comes_out_of_a_kernel_that_is_none_though_its_digest_is_right(dist: Path) -> None:
    (dist / "bzImage").write_bytes(make_bzimage(b"no kernel" * 400))
    reseal(dist)
    with pytest.raises(FormatError, match="not ELF"):
        extracted(dist)
    assert not (dist / "vmlinux").exists()


def test_a_pipe_in_the_place_of_bzimage_is_refused(dist: Path) -> None:
    (dist / "bzImage").unlink()
    os.mkfifo(dist / "bzImage")
    with pytest.raises(FormatError, match="not a regular file"):
        extracted(dist)


def test_a_dist_for_aarch64_has_none(tmp_path: Path) -> None:
    make_dist(tmp_path / "arm", bzimage=make_image(), arch=Architecture.AARCH64)
    with pytest.raises(UsageError, match="uncompressed Image") as refused:
        extracted(tmp_path / "arm")
    assert str(tmp_path / "arm" / "bzImage") in (refused.value.hint or "")
    (tmp_path / "arm" / "vmlinux").write_bytes(ELF)
    assert failures(tmp_path / "arm") == [("vmlinux", "content")]


@pytest.mark.parametrize("at", [0, 16, len(ELF) // 2, len(ELF) - 1])
def test_a_flipped_bit_in_it_is_found(dist: Path, at: int) -> None:
    extracted(dist)
    with flipped(dist / "vmlinux", at):
        assert failures(dist) == [("vmlinux", "content")]
    assert failures(dist) == []


def test_a_vmlinux_that_is_no_file_is_found(dist: Path) -> None:
    (dist / "vmlinux").symlink_to("bzImage")
    assert failures(dist) == [("vmlinux", "type")]


def test_of_an_altered_bzimage_only_that_is_named(dist: Path) -> None:
    extracted(dist)
    with flipped(dist / "bzImage", 1100):
        assert {artifact for artifact, _ in failures(dist)} == {"bzImage"}


@pytest.mark.parametrize("name", ["initrd", "bzImage", "mixtape.toml", "new"])
def test_no_other_file_of_the_dist_is_replaced_or_added(name: str, dist: Path) -> None:
    before = {path.name: path.read_bytes() for path in dist.iterdir()}
    with pytest.raises(UsageError, match="vmlinux is the only one"):
        extracted(dist, dist / ".." / dist.name / name)
    assert {path.name: path.read_bytes() for path in dist.iterdir()} == before


def test_what_is_no_file_is_not_replaced(dist: Path, tmp_path: Path) -> None:
    """Else /dev/null would be gone, when root wants to throw it away."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UsageError, match="no regular file"):
            extracted(dist, tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_a_dist_beside_which_nothing_can_be_written_gets_it_all_the_same(
    dist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mount point, or lie in a folder of somebody else's."""
    monkeypatch.setattr("stereo.hypervisors.vmlinux.os.access", lambda path, mode: path != dist.parent)
    monkeypatch.setattr("stereo.scratch.tempfile.mkdtemp", _only_in(dist))
    assert extracted(dist).written
    assert (dist / "vmlinux").read_bytes() == ELF
    assert failures(dist) == []


def _only_in(folder: Path) -> Callable[..., str]:
    def mkdtemp(prefix: str, dir: Path) -> str:  # noqa: A002  # as tempfile's
        assert dir == folder
        (folder / prefix).mkdir()
        return str(folder / prefix)

    return mkdtemp

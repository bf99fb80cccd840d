"""What is read back from a disk: a disk of another layout than ours, or with another kernel, is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from makers.dist import make_dist
from makers.kernels import make_image
from stereo.build.describe import describe
from stereo.errors import StereoError
from stereo.model.architecture import Architecture


@pytest.mark.parametrize("arch", list(Architecture))
def test_a_disk_tells_what_its_manifest_says(tmp_path: Path, arch: Architecture) -> None:
    manifest = make_dist(tmp_path / "dist", arch=arch)
    found = describe(tmp_path / "dist/stereos.img", arch)
    assert (found.root_hash, found.disk_uuid) == (manifest.image.root_hash, manifest.image.disk_uuid)


@pytest.mark.parametrize(
    ("kernel", "told"), [(gzip.compress(make_image()), "is gzip"), (b"MZ\0\0zimg" + bytes(1000), "is EFI zboot")]
)
def test_a_kernel_that_apples_loader_would_not_take_is_refused(tmp_path: Path, kernel: bytes, told: str) -> None:
    make_dist(tmp_path / "dist", arch=Architecture.AARCH64, bzimage=kernel)
    with pytest.raises(StereoError, match=f"the kernel of the UKI {told}.*has uncompressed arm64 Image"):
        describe(tmp_path / "dist/stereos.img", Architecture.AARCH64)


def test_a_disk_for_another_architecture_has_no_loader_at_its_place(tmp_path: Path) -> None:
    make_dist(tmp_path / "dist")
    with pytest.raises(StereoError, match=r"holds no /EFI/BOOT/BOOTAA64\.EFI"):
        describe(tmp_path / "dist/stereos.img", Architecture.AARCH64)

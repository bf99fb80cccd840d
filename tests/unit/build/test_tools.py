"""What becomes of the tools tree once its packages are unpacked."""

from __future__ import annotations

from pathlib import Path

from stereo.build.tools import leave_out


def test_emulators_of_machines_that_no_image_is_made_for_are_left_out(tmp_path: Path) -> None:
    kept = {"qemu-aarch64", "qemu-x86_64", "qemu-system-aarch64", "qemu-img", "qemu-storage-daemon", "mkosi"}
    (tmp_path / "usr/bin").mkdir(parents=True)
    for name in (*kept, "qemu-aarch64_be", "qemu-alpha", "qemu-i386"):
        (tmp_path / "usr/bin" / name).touch()
    (tmp_path / "usr/bin/qemu-armel").symlink_to("qemu-arm")
    leave_out(tmp_path)
    assert {path.name for path in (tmp_path / "usr/bin").iterdir()} == kept

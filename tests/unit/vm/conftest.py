"""A backend whose QEMU is a fake, so that no unit test starts a machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stereo.vm.machine import Disk, KernelBoot, MachineSpec
from stereo.vm.programs import Firmware, Programs

FAKE = Path(__file__).with_name("fake_qemu.py")
_MAKE_OVERLAY = "import sys; open(sys.argv[-1], 'w').write('overlay')"

MakePrograms = Callable[[str], Programs]


@pytest.fixture
def fake_programs(tmp_path: Path) -> MakePrograms:
    for name in ("code.fd", "variables.fd"):
        (tmp_path / name).write_bytes(b"firmware")

    def make(behaviour: str) -> Programs:
        return Programs(
            qemu=(sys.executable, str(FAKE), behaviour),
            qemu_img=(sys.executable, "-c", _MAKE_OVERLAY),
            firmware=Firmware(tmp_path / "code.fd", tmp_path / "variables.fd"),
            origin="a test",
        )

    return make


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    for name in ("stereos.img", "bzImage", "initrd"):
        (tmp_path / name).write_bytes(b"content")
    kernel = KernelBoot(tmp_path / "bzImage", tmp_path / "initrd", "quiet")
    return MachineSpec(Disk(tmp_path / "stereos.img", "raw"), kernel)

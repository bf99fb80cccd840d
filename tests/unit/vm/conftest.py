"""A backend whose QEMU is a fake, so that no unit test starts a machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stereo.model.architecture import Architecture
from stereo.vm.machine import Disk, KernelBoot, MachineSpec
from stereo.vm.programs import Firmware, Programs

_FAKE = Path(__file__).with_name("fake_qemu.py")
_MAKE_OVERLAY = "import sys; open(sys.argv[-1], 'w').write('overlay')"

MakePrograms = Callable[[str], Programs]


def fake_qemu(folder: Path) -> Path:
    """The fake where nobody is kept from reading it: as the real one, it does not run as who started it."""
    own = folder / "programs"
    own.mkdir()
    own.chmod(0o755)
    copy = own / "fake_qemu.py"
    copy.write_bytes(_FAKE.read_bytes())
    copy.chmod(0o644)
    return copy


def visible(fake: Path) -> tuple[str, ...]:
    """What the fake needs to see: itself, Python, and the C library."""
    folders = (fake.parent, Path(sys.prefix), Path(sys.base_prefix), *map(Path, ("/usr", "/lib", "/lib64")))
    outer = [one for one in folders if one.exists() and not any(one.is_relative_to(o) for o in folders if o != one)]
    return tuple(dict.fromkeys(map(str, outer)))


@pytest.fixture
def fake_programs(tmp_path: Path) -> MakePrograms:
    for name in ("code.fd", "variables.fd"):
        (tmp_path / name).write_bytes(b"firmware")
    fake = fake_qemu(tmp_path)

    def make(behaviour: str) -> Programs:
        return Programs(
            qemu=(sys.executable, str(fake), behaviour),
            qemu_img=(sys.executable, "-c", _MAKE_OVERLAY),
            firmware=Firmware(tmp_path / "code.fd", tmp_path / "variables.fd"),
            origin="a test",
            arch=Architecture.X86_64,
            visible=visible(fake),
        )

    return make


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    for name in ("stereos.img", "bzImage", "initrd"):
        (tmp_path / name).write_bytes(b"content")
    kernel = KernelBoot(tmp_path / "bzImage", tmp_path / "initrd", "quiet")
    return MachineSpec(Disk(tmp_path / "stereos.img", "raw"), Architecture.X86_64, kernel)

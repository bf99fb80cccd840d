"""Booting: what is waited for, what is said when it does not come, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.report import Silent
from stereo.vm.boot import BootFiles, Form, MachineSize, attend, boot, make_spec, running
from stereo.vm.machine import Accelerator, Disk, MachineSpec
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend
from unit.vm.conftest import fake_qemu, visible

MakePrograms = Callable[[str], Programs]

ROOT = Path(__file__).resolve().parents[3]
ARM = Architecture.AARCH64


def backend(programs: Programs, tmp_path: Path) -> QemuBackend:
    return QemuBackend(programs, tmp_path / "scratch")


def running_as(name: str) -> list[int]:
    """Who is the fake QEMU with this first argument, once it is (and not still the enclosure)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            if words[2:3] == [name]:
                found.append(int(folder.name))
    return found


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("behaviour", ["shuts down", "obeys the power button", "ignores the power button", "hangs"])
def test_a_boot_to_ready_tells_its_phases_and_leaves_nothing(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stereo.vm.qemu._QUIT_SECONDS", 0.2)
    timeline = boot(backend(fake_programs(behaviour), tmp_path), spec, Silent(), timeout=20, grace=0.2)
    assert [phase.name for phase in timeline.phases] == ["firmware", "kernel", "initrd", "userspace", "ready"]
    assert 0.1 < timeline.total < 20
    assert leftovers(tmp_path) == []


def test_changes_that_have_a_place_of_their_own_stay_there_for_the_next_machine(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    kept = tmp_path / "changes.qcow2"
    lasting = replace(spec, disk=replace(spec.disk, changes=kept))
    boot(backend(fake_programs("shuts down"), tmp_path), lasting, Silent(), timeout=20)
    kept.write_text(f"{kept.read_text()} and what the guest wrote")
    boot(backend(fake_programs("shuts down"), tmp_path), lasting, Silent(), timeout=20)
    assert kept.read_text() == "overlay and what the guest wrote"
    assert leftovers(tmp_path) == []


def test_a_boot_may_wait_for_a_text_on_the_console(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    seen = bytearray()
    timeline = boot(
        backend(fake_programs("obeys the power button"), tmp_path), spec, Silent(), until="login:", sink=seen.extend
    )
    assert [phase.name for phase in timeline.phases] == ["login:"]
    assert b"\x1b[31mstarting" in seen


def test_a_guest_that_never_gets_ready_is_quoted(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    with pytest.raises(StereoError, match=r"not ready or healthy after 0.5 s(?s:.*)starting\nKernel panic"):
        boot(backend(fake_programs("panics"), tmp_path), spec, Silent(), timeout=0.5)
    assert leftovers(tmp_path) == []


def test_a_text_that_does_not_come_is_told(fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path) -> None:
    with pytest.raises(StereoError, match=r"did not show 'nowhere' within 0.3 s"):
        boot(backend(fake_programs("panics"), tmp_path), spec, Silent(), until="nowhere", timeout=0.3)


def test_a_crash_of_qemu_is_told_in_its_own_words(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    with pytest.raises(StereoError, match="something broke"):
        boot(backend(fake_programs("crashes"), tmp_path), spec, Silent(), timeout=20)
    assert leftovers(tmp_path) == []


def test_a_guest_that_powers_off_early_is_told(fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path) -> None:
    with pytest.raises(StereoError, match=r"ended before it was ready|QEMU did not start"):
        boot(backend(fake_programs("powers off"), tmp_path), spec, Silent(), timeout=20)


def test_a_qemu_that_refuses_its_arguments_is_told(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    with pytest.raises(StereoError, match="QEMU did not start: qemu: -device nonsense: no"):
        boot(backend(fake_programs("refuses to start"), tmp_path), spec, Silent())
    assert leftovers(tmp_path) == []


def test_a_running_machine_is_gone_when_its_user_fails(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    name = f"runs for {tmp_path}"

    async def use() -> None:
        async with running(backend(fake_programs(name), tmp_path), spec, Silent()):
            assert len(running_as(name)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(use())
    assert running_as(name) == []
    assert leftovers(tmp_path) == []


def test_what_is_typed_reaches_the_console(fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path) -> None:
    seen, name = bytearray(), f"runs for {tmp_path}"
    near, far = os.pipe()
    os.write(far, b"hello")

    def sink(data: bytes) -> None:
        seen.extend(data)
        if b"you typed hello" in seen:
            os.kill(running_as(name)[0], signal.SIGKILL)

    with pytest.raises(StereoError, match="killed by signal 9"):
        attend(backend(fake_programs(name), tmp_path), spec, sink, near)
    os.close(near)
    os.close(far)


_PARENT = """
import sys, os
from pathlib import Path
from stereo.model.architecture import Architecture
from stereo.report import Silent
from stereo.vm.boot import boot
from stereo.vm.machine import Disk, KernelBoot, MachineSpec
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend
fake, folder, behaviour, visible = sys.argv[1], Path(sys.argv[2]), sys.argv[3], tuple(sys.argv[4:])
make = (sys.executable, "-c", "import sys; open(sys.argv[-1], 'w')")
programs = Programs((sys.executable, fake, behaviour), make, None, "a test", Architecture.X86_64, visible=visible)
spec = MachineSpec(
    Disk(folder / "stereos.img", "raw"), Architecture.X86_64, KernelBoot(folder / "bzImage", folder / "initrd", "")
)
boot(QemuBackend(programs, folder / "scratch"), spec, Silent(), until="never", timeout=60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_when_we_are_killed_the_machine_dies_too(spec: MachineSpec, tmp_path: Path, number: signal.Signals) -> None:
    name, fake = f"runs for {tmp_path}", fake_qemu(tmp_path)
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _PARENT,
            str(fake),
            str(tmp_path),
            name,
            *visible(fake),
        ],
        env={"PYTHONPATH": f"{ROOT}/builder:{ROOT}/guest"},
        stderr=subprocess.DEVNULL,
    )
    _wait_until(lambda: running_as(name))
    time.sleep(0.2)
    parent.send_signal(number)
    parent.wait(10)
    _wait_until(lambda: not running_as(name))


def _wait_until(condition: object) -> None:
    assert callable(condition)
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it never happened")


def test_what_a_killed_run_left_is_swept_up_by_the_next(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    dead = tmp_path / "scratch" / "machine-dead"
    dead.mkdir(parents=True)
    (dead / "overlay.qcow2").write_bytes(b"x")
    boot(backend(fake_programs("obeys the power button"), tmp_path), spec, Silent())
    assert leftovers(tmp_path) == []


def test_the_scratch_folder_is_for_our_eyes_only(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    async def look() -> None:
        async with backend(fake_programs("obeys the power button"), tmp_path).start(spec):
            [folder] = leftovers(tmp_path)
            assert folder.stat().st_mode & 0o777 == 0o700

    asyncio.run(look())


def test_a_missing_artifact_is_named(fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path) -> None:
    spec.disk.path.unlink()
    with pytest.raises(StereoError, match=r"stereos.img: no such file"):
        boot(backend(fake_programs("hangs"), tmp_path), spec, Silent())


def test_a_qcow2_that_would_open_another_file_is_refused(
    fake_programs: MakePrograms, spec: MachineSpec, tmp_path: Path
) -> None:
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 104, 11, 16, 1 << 20, 0, 1, 65536, 0, 0, 0, 0)
    (tmp_path / "evil.qcow2").write_bytes(header.ljust(104, b"\0") + b"/etc/shadow" + bytes(1 << 17))
    evil = replace(spec, disk=Disk(tmp_path / "evil.qcow2", "qcow2"))
    with pytest.raises(StereoError, match="backing file"):
        boot(backend(fake_programs("hangs"), tmp_path), evil, Silent())


def test_the_forms_of_a_dist_start_from_their_own_files(tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_text("quiet roothash=ab")
    files = BootFiles.in_folder(tmp_path)
    size = MachineSize(cpus=1, memory=512)
    raw, qcow2, kernel = (make_spec(files, form, ARM, Accelerator.TCG, size=size) for form in Form)
    assert (raw.disk.path.name, raw.disk.format, raw.kernel) == ("stereos.img", "raw", None)
    assert (qcow2.disk.path.name, qcow2.disk.format, qcow2.kernel) == ("stereos.qcow2", "qcow2", None)
    assert kernel.kernel
    assert (kernel.disk.path.name, kernel.kernel.kernel.name, kernel.kernel.initrd.name, kernel.kernel.cmdline) == (
        "stereos.img",
        "bzImage",
        "initrd",
        "quiet roothash=ab",
    )
    assert (kernel.arch, kernel.cpus, kernel.memory) == (ARM, 1, 512)


@pytest.mark.parametrize("content", [b"quiet\nroot", b"quiet\x00", b"\xff", b"x" * 5000])
def test_a_command_line_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cmdline").write_bytes(content)
    with pytest.raises(StereoError, match="no kernel command line"):
        make_spec(BootFiles.in_folder(tmp_path), Form.KERNEL, ARM, Accelerator.TCG)


def test_a_missing_command_line_is_told(tmp_path: Path) -> None:
    with pytest.raises(StereoError, match="cannot read the kernel's command line"):
        make_spec(BootFiles.in_folder(tmp_path), Form.KERNEL, ARM, Accelerator.TCG)

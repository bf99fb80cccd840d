"""What `stereo check` shows for QEMU is run as it stands, and the kernel of `stereo vmlinux` boots where it has to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from makers.command import Stereo
from makers.shown import CONTROL, ready_from
from stereo.model.architecture import Architecture
from stereos_guest.protocol import PORT_NAME

X86_64 = Architecture.X86_64


@pytest.fixture(scope="module")
def shown(dist: Path, stereo: Stereo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The command for QEMU by form."""
    said = stereo("check", dist, "--for", "qemu", "--json", cwd=tmp_path_factory.mktemp("shown")).stdout
    (found,) = json.loads(said)["hypervisors"]
    return {form["form"]: form["steps"][0]["run"] for form in found["forms"]}


@pytest.fixture(scope="module")
def vmlinux(dist: Path, stereo: Stereo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kernel, in a folder of its own: the dist is everybody's."""
    folder = tmp_path_factory.mktemp("vmlinux")
    stereo("vmlinux", dist, "-o", folder / "vmlinux", cwd=folder)
    yield folder / "vmlinux"
    shutil.rmtree(folder)


@pytest.mark.parametrize("form", ["raw", "kernel"])
def test_the_command_that_is_shown_boots_to_ready(
    form: str, shown: dict[str, list[str]], tools_tree: Path, tmp_path: Path, dist: Path
) -> None:
    before = (dist / "stereos.img").stat().st_mtime_ns
    ready_from(shown[form], tools_tree, X86_64, tmp_path / "machine")
    assert (dist / "stereos.img").stat().st_mtime_ns == before


def test_the_elf_kernel_boots_to_ready_on_firecrackers_kind_of_machine(
    shown: dict[str, list[str]], vmlinux: Path, dist: Path, tools_tree: Path, tmp_path: Path
) -> None:
    """Entered by PVH, every virtio device on MMIO, no PCI: QEMU's microvm has what Firecracker has."""
    argv = shown["kernel"]
    words = argv[argv.index("-append") + 1]
    ready_from(
        (
            argv[0],
            *("-machine", "microvm,pcie=off,pit=on,pic=on,rtc=on,accel=kvm:tcg", "-cpu", "max"),
            *("-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
            # It has no clock to measure the processor's by, but for KVM's.
            *("-kernel", str(vmlinux), "-initrd", str(dist / "initrd"), "-append", f"{words} tsc_early_khz=2000000"),
            *("-drive", f"if=none,id=disk,format=raw,snapshot=on,file={dist / 'stereos.img'}"),
            *("-device", "virtio-blk-device,drive=disk"),
            *("-device", "virtio-serial-device"),
            *("-chardev", f"socket,id=control,path={CONTROL},server=on,wait=off"),
            *("-device", f"virtserialport,chardev=control,name={PORT_NAME}"),
        ),
        tools_tree,
        X86_64,
        tmp_path / "machine",
    )

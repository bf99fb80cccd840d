"""The dist for aarch64, most likely made on a machine that is none: what is in it, and that the verbs take it.

What `test_image.py` says of this machine's dist follows from the same overlays; here is what an architecture changes.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from makers.binfmt import registered
from makers.builds import Room
from makers.command import Stereo
from makers.image import Files, Image
from makers.processes import assert_ended, descendants, settled
from makers.running import running
from stereo.artifacts import gpt
from stereo.artifacts.kernel import Image as ArmImage
from stereo.artifacts.kernel import Kernel, kernel_form
from stereo.artifacts.region import OpenFile
from stereo.artifacts.tree import Kind
from stereo.assemble.dist import read_manifest
from stereo.build.foreign import is_foreign
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.paths import Cache

pytestmark = pytest.mark.build

ARM = Architecture.AARCH64
_EM_AARCH64 = 183  # elf(5), e_machine
_PE_ARM64 = 0xAA64
# Drivers of nothing but virtio's devices, or of none; whatever is in no driver's folder is code alone.
_NO_OTHER_DEVICE = re.compile(
    r"drivers/(virtio/|block/(loop|virtio_blk)\.|char/hw_random/virtio-rng\.|md/dm-|vdpa/vdpa\.)"
    r"|drivers/net/(dummy|net_failover|tun|veth|virtio_net)\."
)


@pytest.fixture(scope="module")
def image(arm: Path) -> Iterator[Image]:
    with Image(arm) as opened:
        yield opened


@pytest.fixture(scope="module")
def root(image: Image) -> Files:
    return image.root


def test_every_program_and_library_is_for_aarch64(root: Files) -> None:
    machines: dict[int, list[str]] = {}
    for path, entry in root.entries.items():
        if entry.kind is Kind.FILE and entry.size > 64 and not path.startswith("/usr/lib/modules/"):
            head = root.region(path).read(0, 20)
            if head[:4] == b"\x7fELF":
                machines.setdefault(int.from_bytes(head[18:20], "little"), []).append(path)
    assert set(machines) == {_EM_AARCH64}, {number: paths[:5] for number, paths in machines.items()}
    assert {"/usr/bin/runsc", "/usr/bin/bash"} <= set(machines[_EM_AARCH64])
    agent = root.resolve("/usr/lib/stereos/agent/bin/opencode")
    assert agent
    assert agent.path in machines[_EM_AARCH64]


def test_the_one_loader_is_at_the_removable_path_of_aarch64(image: Image) -> None:
    files = [path for path, entry in image.esp.entries.items() if entry.kind is Kind.FILE]
    assert [path.upper() for path in files] == ["/EFI/BOOT/BOOTAA64.EFI"]
    head = image.esp.region(files[0]).read(0, 4096)
    at = int.from_bytes(head[0x3C:0x40], "little")
    assert (head[at : at + 4], int.from_bytes(head[at + 4 : at + 6], "little")) == (b"PE\0\0", _PE_ARM64)


def test_the_kernel_is_the_uncompressed_image(arm: Path) -> None:
    with OpenFile(arm / "bzImage") as file:
        assert kernel_form(file.region) is Kernel.IMAGE
        ArmImage(file.region)


def test_the_consoles_are_those_of_qemu_and_of_apple(arm: Path) -> None:
    words = (arm / "cmdline").read_text().split()
    # The last is /dev/console: where there is no PL011, the kernel leaves the first out.
    assert [word for word in words if word.startswith("console=")] == ["console=ttyAMA0,115200", "console=hvc0"]


def test_nothing_in_the_image_needs_a_device_that_is_not_virtios(root: Files) -> None:
    modules = [path.partition("/kernel/")[2] for path in root.below("/usr/lib/modules") if ".ko" in path]
    assert [path for path in modules if path.startswith("drivers/") and not _NO_OTHER_DEVICE.match(path)] == []
    assert not [path for path in modules if re.search(r"/(hv_|vmw_vsock_vmci)", path)]
    (builtin,) = [path for path in root.entries if path.endswith("/modules.builtin")]
    names = {Path(path).name.partition(".")[0].replace("-", "_") for path in (*modules, *root.text(builtin).split())}
    wanted = {"virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_rng", "virtiofs", "ext4", "erofs"}
    assert wanted | {"vmw_vsock_virtio_transport", "amba_pl011"} <= names


def test_the_initrd_has_a_loader_and_its_modules(image: Image) -> None:
    listed = image.initrd.text("/modules.list").split()
    assert {"virtio_blk.ko", "erofs.ko", "overlay.ko", "dm-verity.ko"} <= {Path(path).name for path in listed}
    assert all(path in image.initrd for path in listed)
    assert image.initrd.resolve("/lib/ld-linux-aarch64.so.1")


def test_the_manifest_is_aarch64s_and_the_locks_are_those_it_was_made_from(arm: Path, arm_locks: Path) -> None:
    manifest = read_manifest(arm)
    assert manifest.arch == "aarch64-linux"
    assert manifest.build.lock_sha256 == LockFolder(arm_locks).read(manifest.name, ARM).digest


def test_the_bill_of_materials_names_packages_of_arm64_alone(arm: Path, arm_locks: Path) -> None:
    components = json.loads((arm / "sbom.cdx.json").read_text())["components"]
    purls = [row["purl"] for row in components]
    locked = LockFolder(arm_locks).read(read_manifest(arm).name, ARM)
    assert sum("arch=arm64" in purl for purl in purls) == sum(deb.arch == "arm64" for deb in locked.image)
    assert any(purl.startswith("pkg:npm/opencode-linux-arm64@") for purl in purls)
    assert not [purl for purl in purls if "amd64" in purl or "linux-x64" in purl]


def test_verify_diff_and_sbom_take_it_as_their_own(stereo: Stereo, arm: Path, dist: Path, tmp_path: Path) -> None:
    verdict = json.loads(stereo("verify", arm, "--json", cwd=tmp_path).stdout)
    assert verdict["ok"]
    assert [row["message"] for row in verdict["findings"] if row["check"] == "form"] == [Kernel.IMAGE]
    assert "1 npm" in stereo("sbom", arm, cwd=tmp_path).stdout
    assert stereo("diff", arm, arm, cwd=tmp_path).stdout == "identical\n"
    if is_foreign(ARM):
        kinds = [gpt.ROOT[read_manifest(folder).arch] for folder in (dist, arm)]
        assert " type {} against {}".format(*kinds) in stereo("diff", dist, arm, cwd=tmp_path, status=1).stdout


@pytest.mark.skipif(not is_foreign(ARM), reason="this machine runs programs of aarch64 itself")
def test_the_host_stays_as_it_was_though_a_build_is_killed(stereo: Stereo, arm: Path, cache: Cache, room: Room) -> None:
    before = registered()
    room.lend(cache, "store", "tools")
    with running(stereo, *room.build("--arch", ARM), cwd=room.folder, env=room.environment) as build:
        build.until(" Installing packages…")
        emulated = settled(lambda: not emulators(build.process.pid), seconds=120)
        assert emulated, "no program of aarch64 ran"
        started = build.signal(signal.SIGKILL, group=False)
    assert_ended(started)
    assert registered() == before


def emulators(pid: int) -> list[str]:
    """What is run by an emulator, of all that a process has started."""
    found = []
    for child in descendants(pid):
        with suppress(OSError):
            words = Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")
            found += [os.fsdecode(words[0])] if words[0].startswith(b"qemu-") else []
    return found

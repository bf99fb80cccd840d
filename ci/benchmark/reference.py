"""The recipe to measure against: plain mkosi, its defaults wherever it has them, and the usual tools on its output.

Format=disk with mkosi's own partitions (512 MiB ESP, ext4 root), its own initrd and systemd-boot; then a compressed
qcow2, zstd -19 over both disks, and SHA-256 of everything. The packages are those of our image, from the same .debs;
what the recipe needs beyond them (systemd-boot, the initrd's own) is locked from the same mirrors into the work folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ci.benchmark.measure import timed

from stereo.build import sandbox
from stereo.build.files import write_tree
from stereo.build.mkosi import run_mkosi
from stereo.build.stages import Builder
from stereo.inputs.lock import make_lock
from stereo.inputs.lockfiles import LockFolder
from stereo.inputs.obtain import obtain
from stereo.model.architecture import Architecture
from stereo.model.lock import Deb, unanswered
from stereo.plan.packages import image_request, installed_packages
from stereo.plan.plan import Plan
from stereo.plan.render import shared_files
from stereo.plan.tree import Entry, text
from stereo.process import closed_environment
from stereo.vm.programs import Programs

NAME = "reference"
DISK, QCOW2 = "reference.raw", "reference.qcow2"
# What systemd says on the console when it is there; see systemd(1), systemd.show_status.
UP = "Multi-User System"

# As mkosi calls them; and the serial port of QEMU's usual machine.
_MKOSI_NAMES = {Architecture.X86_64: "x86-64", Architecture.AARCH64: "arm64"}
_CONSOLES = {Architecture.X86_64: "ttyS0,115200", Architecture.AARCH64: "ttyAMA0"}
_LOADER = ("systemd-boot", "systemd-boot-efi")
# The packages of mkosi's default initrd for Debian: mkosi/resources/mkosi-initrd.
_INITRD = (
    "bash",
    "btrfs-progs",
    "dmsetup",
    "dosfstools",
    "e2fsprogs",
    "erofs-utils",
    "kmod",
    "less",
    "libcryptsetup12",
    "libfido2-1",
    "?name(libtss2-esys-)",
    "?name(libtss2-mu-)",
    "?name(libtss2-rc0)",
    "?name(libtss2-tcti-device0)",
    "lvm2",
    "p11-kit",
    "systemd",
    "systemd-cryptsetup",
    "systemd-repart",
    "udev",
    "util-linux",
)


@dataclass(frozen=True)
class Reference:
    """A finished reference build: the folder of its artifacts, and how many seconds each of its steps took."""

    folder: Path
    steps: dict[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.steps.values())


def recipe(plan: Plan) -> dict[str, Entry]:
    """The mkosi tree, as somebody would write it by hand who wants an image that boots by itself."""
    packages = "\n".join(f"    {name}" for name in (*installed_packages(plan.mixtape, plan.arch), *_LOADER))
    config = f"""\
[Distribution]
Distribution=debian
Release=trixie
Architecture={_MKOSI_NAMES[plan.arch]}

[Output]
Format=disk
Output={NAME}
OutputDirectory=output

[Build]
SandboxTrees=../apt

[Content]
Bootable=yes
PackageDirectories=../debs
Packages=
{packages}
# No questions at the first boot.
Locale=C.UTF-8
Timezone=UTC
Hostname={NAME}
RootPassword=hashed:!*
# The console that everybody needs who boots it without a screen; nothing else is tuned.
KernelCommandLine=console={_CONSOLES[plan.arch]} systemd.firstboot=off
"""
    # The agent's programs get into the tree in the same way as into ours.
    agent = {name: plan.packages[name] for name in ("agent.json", "mkosi.postinst")}
    return {"mkosi.conf": text(config), **agent}


def obtain_packages(plan: Plan, builder: Builder, work: Path) -> list[Deb]:
    """The .debs of our image and what the recipe needs beyond them, all in the store. Raises StereoError."""
    own = image_request(plan.mixtape, plan.arch).groups["image"]
    groups = {NAME: tuple(dict.fromkeys((*own, *_LOADER, *_INITRD)))}
    folder = LockFolder(work)
    lock = folder.find(NAME, plan.arch)
    if lock is None or unanswered(lock, groups, (), (), ()):
        lock = make_lock(NAME, plan.arch, groups, sources=builder.sources, report=builder.report, store=builder.store)
        folder.write(lock)
    obtain(plan.lock, builder.store, builder.sources, builder.report)
    obtain(lock, builder.store, builder.sources, builder.report)
    ours = {deb.name for deb in plan.lock.image}
    return [*plan.lock.image, *(deb for deb in lock.debian[NAME] if deb.name not in ours)]


def build(plan: Plan, builder: Builder, tools: Path, work: Path, *, level: int) -> Reference:
    """Build the recipe below `work`, and time it; getting and placing the packages is not counted."""
    steps = {"mkosi": image(plan, builder, tools, work)}
    folder = folder_of(work, plan.arch)
    programs = Programs.find(tools)
    convert = [*programs.qemu_img, "convert", "-c", "-O", "qcow2", DISK, QCOW2]
    steps["qemu-img convert -c"] = _step(convert, programs, folder, builder)
    for disk in (DISK, QCOW2):
        name = f"zstd -{level} {disk}"
        steps[name] = _step([*zstd(tools), f"-{level}", "-T0", "-q", "-k", disk], programs, folder, builder)
    # Links beside the files (mkosi names each output twice) are not artifacts.
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    steps["sha256sum"] = _step(["sha256sum", *files], programs, folder, builder)
    return Reference(folder, steps)


def folder_of(work: Path, arch: Architecture) -> Path:
    """Where the recipe's outputs for an architecture are."""
    return _room(work, arch) / NAME / "output"


def image(plan: Plan, builder: Builder, tools: Path, work: Path) -> float:
    """Build the disk of the recipe alone; how many seconds mkosi took."""
    debs = obtain_packages(plan, builder, work)
    room = _room(work, plan.arch)
    sandbox.remove(room)
    (room / "debs").mkdir(parents=True)
    for deb in debs:
        builder.store.place(deb.sha256, room / "debs" / PurePosixPath(deb.path).name)
    write_tree(shared_files(), room)
    write_tree(recipe(plan), room / NAME)
    for archive in plan.archives:
        target = room / NAME / archive.path
        target.parent.mkdir(parents=True, exist_ok=True)
        builder.store.place(archive.sha256, target)
    began = time.monotonic()
    with builder.report.step(f"Building the reference recipe for {plan.arch}: mkosi"):
        run_mkosi(room / NAME, arch=plan.arch, tools=tools, work=room)
    seconds = time.monotonic() - began
    for leftover in ("debs", "workspace", "cache"):
        sandbox.remove(room / leftover)
    return seconds


def _room(work: Path, arch: Architecture) -> Path:
    return work / f"{NAME}-{arch}"


def zstd(tools: Path) -> tuple[str, ...]:
    """The command of the tools tree's zstd."""
    loader = Programs.find(tools).qemu_img[:-1]
    return (*loader, str(tools / "usr/bin/zstd"))


def _step(argv: Sequence[str], programs: Programs, folder: Path, builder: Builder) -> float:
    name = next(Path(word).name for word in argv if Path(word).name in ("qemu-img", "zstd", "sha256sum"))
    with builder.report.step(
        f"Building the reference recipe: {name} {argv[-1] if name != 'sha256sum' else ''}".strip()
    ):
        log = folder.parent.parent / "steps.log"
        env = {**closed_environment(), **programs.environment}
        return timed(argv, cwd=folder, env=env, log=log).seconds


def artifacts(reference: Reference) -> dict[str, int]:
    """Sizes in bytes of what is published of the recipe."""
    names = (DISK, f"{DISK}.zst", QCOW2, f"{QCOW2}.zst")
    return {name: (reference.folder / name).stat().st_size for name in names}


def remove(work: Path) -> None:
    """Free the room that builds took; the lock stays."""
    for arch in Architecture:
        sandbox.remove(_room(work, arch))
        shutil.rmtree(_room(work, arch), ignore_errors=True)

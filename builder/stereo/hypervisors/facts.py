"""What a dist holds, read from its files and not from what its manifest says of them.

A dist may come from anywhere. Every file is opened without following links, every reader bounds what it reads, and what
is missing or damaged becomes a `Fault` that says so: only the manifest has to be sound.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stereo.artifacts import gpt, qcow2
from stereo.artifacts.bzimage import BzImage
from stereo.artifacts.elf import Elf
from stereo.artifacts.erofs import Erofs
from stereo.artifacts.kernel import Image, Kernel, kernel_form
from stereo.artifacts.pe import REMOVABLE_PATH, Pe
from stereo.artifacts.qcow2 import Qcow2
from stereo.artifacts.region import FormatError, OpenFile, Region, open_folder
from stereo.artifacts.tree import Kind
from stereo.artifacts.vfat import Vfat
from stereo.artifacts.zst import Spool
from stereo.hypervisors.bounds import entries_of, text_of
from stereo.hypervisors.initrd import ELF_MACHINES, LARGEST_LIST, drivers_of, module_name
from stereo.model.architecture import Architecture
from stereo.model.manifest import DiskArtifact, Manifest

LONGEST_CMDLINE = 2047
"""Bytes that a kernel takes of its command line: COMMAND_LINE_SIZE of both architectures, less the NUL."""

_MODULES = "/usr/lib/modules/"
_LARGEST_CMDLINE = 64 << 10
_PE_MACHINES = {0x8664: Architecture.X86_64, 0xAA64: Architecture.AARCH64}

T = TypeVar("T")


class Fault(str):
    """Why something cannot be told, in words fit for a terminal."""

    __slots__ = ()


@dataclass(frozen=True)
class DiskFacts:
    """A disk with a sound partition table. `size` is bytes, as a guest sees it."""

    format: str
    size: int
    partitions: int


@dataclass(frozen=True)
class KernelFacts:
    """A kernel file. `limit` is the bytes of command line that it takes.

    `elf` tells of the ELF kernel in a bzImage, or of the file itself: its PVH entry, None if it has none, a Fault if it
    does not come out.
    """

    form: Kernel
    arch: Architecture | None
    limit: int = LONGEST_CMDLINE
    elf: int | Fault | None = None


@dataclass(frozen=True)
class Payload:
    """What a loader starts: from files of the dist, or from the unified kernel image of the disk.

    `drivers` are the modules that its initrd loads, by the kernel's names.
    """

    kernel: KernelFacts | Fault
    drivers: frozenset[str] | Fault
    cmdline: str | Fault


@dataclass(frozen=True)
class Facts:
    """A dist. `loader` is the architecture of the EFI program at the removable path.

    `builtin` are the drivers in the kernel, `modules` those in the root file system, by the kernel's names.
    """

    folder: Path
    name: str
    arch: Architecture
    root_hash: str
    raw: DiskFacts | Fault
    qcow2: DiskFacts | Fault
    loader: Architecture | Fault
    unified: Payload
    files: Payload
    builtin: frozenset[str] | Fault
    modules: frozenset[str] | Fault


def read_facts(folder: Path, manifest: Manifest) -> Facts:
    """Read the dist in `folder`. Raises UsageError when that cannot be opened."""
    with open_folder(folder) as descriptor, ExitStack() as stack:
        return _Reader(stack, descriptor, manifest).facts(folder)


def told(read: Callable[[], T]) -> T | Fault:
    """What `read` returns, or the FormatError that it raises, as a Fault."""
    try:
        return read()
    except FormatError as error:
        return Fault(error)


class _Reader:
    """Opens the files of one dist; they stay open as long as `stack`. Whatever is wrong with one is a FormatError."""

    def __init__(self, stack: ExitStack, folder: int, manifest: Manifest) -> None:
        self._stack = stack
        self._folder = folder
        self._manifest = manifest
        self._arch = Architecture.from_system(manifest.arch)

    def facts(self, folder: Path) -> Facts:
        names = self._manifest.artifacts
        disks = {
            "raw": told(lambda: _Disk("raw", _raw(self._open_disk(names.raw)))),
            "qcow2": told(lambda: _Disk("qcow2", Qcow2(self._open_disk(names.qcow2)).content())),
        }
        # Whichever is here and sound: they are the same, as verify proves.
        disk = next((one for one in disks.values() if isinstance(one, _Disk)), Fault("no disk of it can be read"))
        uki = told(lambda: self._uki(_needed(disk)))
        system = told(lambda: self._system(_needed(disk)))

        def section(name: str) -> Region:
            image = _needed(uki)
            return image.content(image.only(name))

        return Facts(
            folder,
            self._manifest.name,
            self._arch,
            self._manifest.image.root_hash,
            raw=_facts(disks["raw"]),
            qcow2=_facts(disks["qcow2"]),
            loader=told(lambda: _pe_architecture(_needed(uki))),
            unified=Payload(
                told(lambda: _kernel(section(".linux"), unpack=False)),
                told(lambda: drivers_of(section(".initrd"), self._arch)),
                told(lambda: _cmdline(section(".cmdline"))),
            ),
            files=Payload(
                told(lambda: _kernel(self._open(names.kernel.bzimage.file), unpack=True)),
                told(lambda: drivers_of(self._open(names.kernel.initrd.file), self._arch)),
                told(lambda: _cmdline(self._open(names.kernel.cmdline.file))),
            ),
            builtin=system if isinstance(system, Fault) else system[0],
            modules=system if isinstance(system, Fault) else system[1],
        )

    def _open(self, name: str) -> Region:
        return self._stack.enter_context(OpenFile(name, name=name, folder=self._folder)).region

    def _open_disk(self, disk: DiskArtifact) -> Region:
        try:
            return self._open(disk.file)
        except FormatError:
            here = {entry.name for entry in os.scandir(self._folder)}
            if disk.file in here or disk.compressed_file not in here:
                raise
            made = f"`zstd -d --sparse {disk.compressed_file}` makes it"
            raise FormatError(f"No such file but its compressed form: {made}", where=disk.file) from None

    def _uki(self, disk: _Disk) -> Pe:
        path = REMOVABLE_PATH[self._arch.system]
        files = Vfat(disk.partition(gpt.ESP, "EFI system partition"))
        # Names of FAT differ only by more than case, so the firmware takes any.
        found = [entry for entry in entries_of(files) if entry.path.upper() == path and entry.kind is Kind.FILE]
        if len(found) != 1:
            raise FormatError(f"{len(found)} files {path}, not one", where=files.region.name)
        return Pe(files.content(found[0]))

    def _system(self, disk: _Disk) -> tuple[frozenset[str], frozenset[str]]:
        """Drivers in the kernel, and modules, of the root file system."""
        tree = Erofs(disk.partition(gpt.ROOT[self._arch.system], "root partition"))
        home = f"{_MODULES}{self._manifest.image.kernel_version}/"
        builtin, modules = frozenset[str](), set[str]()
        for entry in entries_of(tree):
            if entry.kind is Kind.FILE and entry.path == f"{home}modules.builtin":
                builtin = frozenset(map(module_name, text_of(tree.content(entry), LARGEST_LIST).split()))
            elif entry.kind is Kind.FILE and entry.path.startswith(home) and ".ko" in entry.path:
                modules.add(module_name(entry.path))
        return builtin, frozenset(modules)


class _Disk:
    def __init__(self, form: str, content: Region) -> None:
        self._content = content
        self._table = gpt.read_gpt(content)
        self.facts = DiskFacts(form, content.size, len(self._table.partitions))

    def partition(self, kind: str, what: str) -> Region:
        """The only one of that type."""
        rows = [row for row in self._table.partitions if row.type == kind]
        if len(rows) != 1:
            raise self._content.fault(f"has {len(rows)} of what there must be one: {what}")
        return gpt.partition_region(self._content, rows[0])


def _raw(disk: Region) -> Region:
    if disk.read(0, min(4, disk.size)) == qcow2.MAGIC:
        # With a backing file that is any file of the host's: Cloud Hypervisor looks at the format by itself.
        raise disk.fault("begins as qcow2 does, and would be taken for that")
    return disk


def _facts(disk: _Disk | Fault) -> DiskFacts | Fault:
    return disk if isinstance(disk, Fault) else disk.facts


def _needed(value: T | Fault) -> T:
    if isinstance(value, Fault):
        raise FormatError(value)
    return value


def _kernel(region: Region, *, unpack: bool) -> KernelFacts:
    form = kernel_form(region)
    if form in (Kernel.BZIMAGE, Kernel.IMAGE) and region.read(0, 2) == b"MZ":
        Pe(region)  # an EFI program, too, whose sections tell whether it is all there
    if form is Kernel.BZIMAGE:
        packed = BzImage(region)
        entry: int | Fault | None = None
        if unpack:
            # What nobody here can unpack its own loader may; what is damaged it cannot.
            entry = _entry(packed) if packed.compression == "zstd" else told(lambda: _entry(packed))
        return KernelFacts(form, Architecture.X86_64, min(packed.cmdline_size, LONGEST_CMDLINE), entry)
    if form is Kernel.IMAGE:
        Image(region)
        return KernelFacts(form, Architecture.AARCH64)
    if form is Kernel.ELF:
        elf = Elf(region)
        return KernelFacts(form, ELF_MACHINES.get(elf.machine), elf=elf.pvh_entry())
    if form in (Kernel.PE, Kernel.ZBOOT):
        return KernelFacts(form, _pe_architecture(Pe(region)))
    return KernelFacts(form, None)


def _entry(packed: BzImage) -> int | None:
    with Spool() as spool:
        return Elf(packed.unpack(spool)).pvh_entry()


def _pe_architecture(image: Pe) -> Architecture:
    found = _PE_MACHINES.get(image.machine)
    if found is None:
        raise image.region.fault(f"an EFI program for machine {image.machine:#x}")
    return found


def _cmdline(region: Region) -> str:
    words = text_of(region, _LARGEST_CMDLINE).rstrip("\0\n")
    if not words.isascii() or not words.isprintable():
        raise region.fault("no kernel command line: there are characters in it that cannot be")
    return words

"""Whether an initrd gets as far as its first command, and which drivers it loads.

The kernel starts /init: a script, so that there must be a shell, for this architecture, and what loads that. Then the
modules of its list are loaded, each after those that it needs, or it stops there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from stereo.artifacts.cpio import Cpio
from stereo.artifacts.elf import AARCH64, MAGIC, X86_64, Elf
from stereo.artifacts.region import LARGEST_READ, Region
from stereo.artifacts.tree import Entry, Kind
from stereo.errors import shown
from stereo.hypervisors.bounds import entries_of, text_of
from stereo.model.architecture import Architecture

ELF_MACHINES = {X86_64: Architecture.X86_64, AARCH64: Architecture.AARCH64}
LARGEST_LIST = 1 << 20

_INIT = "/init"
_LOADED = "/modules.list"  # of the initrd: its modules, in the order in which its init loads them
_DEPENDS = re.compile(rb"(?:^|\0)depends=([A-Za-z0-9_,-]+)\0")
_LONGEST_LINE = 256  # BINPRM_BUF_SIZE of Linux: what it reads of a script to find who runs it
_MOST_LINKS = 40  # MAXSYMLINKS of Linux
_MAY_RUN = 0o111


def drivers_of(initrd: Region, arch: Architecture) -> frozenset[str]:
    """The modules that it loads, by the kernel's names. Raises FormatError if it does not come to that."""
    with Cpio(initrd) as archive:
        entries = {entry.path: entry for entry in entries_of(archive)}
        for name in (_INIT, _LOADED):
            if name not in entries or entries[name].kind is not Kind.FILE:
                raise initrd.fault(f"an initrd without {name}")
        _check_program(_INIT, archive, entries, initrd, arch)
        return _loaded(archive, entries, initrd)


def module_name(path: str) -> str:
    """The kernel's name of the module in a file: `virtio_rng` of `.../virtio-rng.ko.xz`."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _check_program(path: str, archive: Cpio, entries: Mapping[str, Entry], initrd: Region, arch: Architecture) -> None:
    """Refuse what the kernel could not start; see execve(2). What runs a script may not be one itself."""
    found = _resolved(path, entries)
    if found is None or found.kind is not Kind.FILE:
        raise initrd.fault(f"an initrd without {shown(path, 100)}, which runs {_INIT}")
    if not found.mode & _MAY_RUN:
        raise initrd.fault(f"{shown(path, 100)} is no file that may be run")
    content = archive.content(found)
    head = content.read(0, min(_LONGEST_LINE, content.size))
    if head.startswith(b"#!") and path == _INIT:
        words = head[2:].partition(b"\n")[0].decode("utf-8", "surrogateescape").split()
        _check_program(words[0] if words else "", archive, entries, initrd, arch)
        return
    if not head.startswith(MAGIC):
        raise initrd.fault(f"{shown(path, 100)} is no program")
    program = Elf(content)
    if ELF_MACHINES.get(program.machine) is not arch:
        raise initrd.fault(f"{shown(path, 100)} is no program for {arch}")
    loader = program.interpreter()
    if loader is not None and ((there := _resolved(loader, entries)) is None or there.kind is not Kind.FILE):
        raise initrd.fault(f"an initrd without {shown(loader, 100)}, which loads {shown(path, 100)}")


def _resolved(path: str, entries: Mapping[str, Entry]) -> Entry | None:
    """What is at an absolute path of an archive, whatever links lead there."""
    at, left, links = "", path.split("/")[::-1], 0
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = at.rpartition("/")[0]
            continue
        entry = entries.get(f"{at}/{name}")
        if entry is None:
            return None
        if entry.kind is Kind.SYMLINK:
            links += 1
            if links > _MOST_LINKS or not entry.target:
                return None
            at = "" if entry.target.startswith("/") else at
            left += entry.target.split("/")[::-1]
        else:
            at = entry.path
    return entries.get(at)


def _loaded(archive: Cpio, entries: Mapping[str, Entry], initrd: Region) -> frozenset[str]:
    """The modules of its list."""
    loaded: set[str] = set()
    for path in text_of(archive.content(entries[_LOADED]), LARGEST_LIST).split():
        if path not in entries or entries[path].kind is not Kind.FILE:
            raise initrd.fault(f"an initrd without {shown(path, 100)}, which it loads")
        needed = _needed_modules(archive.content(entries[path]))
        if missing := sorted(needed - loaded):
            raise initrd.fault(f"{shown(path, 100)} needs {', '.join(missing)}, which the initrd does not load before")
        loaded.add(module_name(path))
    return frozenset(loaded)


def _needed_modules(module: Region) -> set[str]:
    """What it says that has to be loaded before it: `depends=` of its .modinfo, which is never what is built in."""
    if module.size > LARGEST_READ:
        raise module.fault(f"a module of {module.size} bytes")
    found = _DEPENDS.search(module.read(0, module.size))
    return set(map(module_name, found[1].decode("ascii").split(","))) if found else set()

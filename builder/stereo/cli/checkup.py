"""What `stereo doctor` looks at: each check says how it stands and, where something is missing, what to do."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stereo.build import sandbox
from stereo.cli.machines import find_programs
from stereo.cli.measure import amount
from stereo.errors import StereoError
from stereo.inputs.sources import Sources, redacted
from stereo.paths import Cache
from stereo.report import Report
from stereo.vm import accel
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs

_PYTHON = (3, 11)
_SPACE_NEEDED = 10_000_000_000  # bytes: tools, packages, one image and its dist
_MEMORY_NEEDED = 2_000_000_000
_IDS_NEEDED = 65536


class Standing(StrEnum):
    """`limited`: works, but slower or not everything."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One line of the doctor."""

    what: str
    standing: Standing
    detail: str
    fix: str | None = None


def checks(cache: Cache, report: Report, *, refresh: bool) -> Iterator[Check]:
    """All checks, cheap ones first. With `refresh` accelerators are tried again, whatever is known of them."""
    yield _python()
    yield from _programs()
    yield _subordinate_ids()
    yield _namespaces()
    yield _space("disk space for the cache", cache.root)
    yield _space("disk space here", Path.cwd())
    yield _memory()
    yield from _mirrors()
    try:
        programs = find_programs(cache)
    except StereoError as error:
        fix = "the first `stereo build` brings one; or install qemu-system-x86, qemu-utils and ovmf"
        yield Check("QEMU", Standing.LIMITED, error.what, fix)
        return
    yield _qemu(programs)
    yield from _accelerators(programs, cache, report, refresh=refresh)


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable})"
    good = sys.version_info >= _PYTHON
    return Check("Python", Standing.OK if good else Standing.MISSING, found, None if good else "install python3.11")


def _programs() -> Iterator[Check]:
    needed = {"apt-get": "apt", "dpkg-deb": "dpkg", "unshare": "util-linux"}
    for program, package in needed.items():
        path = shutil.which(program)
        fix = None if path else f"install the package {package}"
        yield Check(program, Standing.OK if path else Standing.MISSING, path or "not on PATH", fix)
    for program, use in (("git", "versions of development images"), ("npm", "npm packages with dependencies")):
        path = shutil.which(program)
        fix = None if path else f"install the package {program}"
        yield Check(program, Standing.OK if path else Standing.LIMITED, path or f"not on PATH: needed for {use}", fix)


def _subordinate_ids() -> Check:
    what = "subordinate ids"
    if os.geteuid() == 0:
        return Check(what, Standing.OK, "not needed by root")
    user = getpass.getuser()
    for file in ("/etc/subuid", "/etc/subgid"):
        if _ids(Path(file), {user, str(os.getuid())}) < _IDS_NEEDED:
            fix = f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
            return Check(what, Standing.MISSING, f"{file} gives {user} fewer than {_IDS_NEEDED}", fix)
    if not shutil.which("newuidmap"):
        return Check(what, Standing.MISSING, "no newuidmap", "sudo apt-get install uidmap")
    return Check(what, Standing.OK, f"{_IDS_NEEDED} or more for {user}")


def _ids(file: Path, owners: set[str]) -> int:
    """How many ids subuid(5) or subgid(5) gives to one of `owners`."""
    try:
        rows = [line.split(":") for line in file.read_text(errors="replace").splitlines()]
    except OSError:
        return 0
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in owners and row[2].isdigit())


def _namespaces() -> Check:
    try:
        sandbox.check()
    except StereoError as error:
        fix = error.hint or "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces"
        return Check("namespaces", Standing.MISSING, error.what.splitlines()[0], fix)
    return Check("namespaces", Standing.OK, "mount, network and process namespaces can be made")


def _space(what: str, folder: Path) -> Check:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    detail = f"{amount(free, 'B')} free at {there}"
    if not os.access(there, os.W_OK):
        return Check(what, Standing.MISSING, f"{there} is not writable", "choose another with STEREO_CACHE or cd")
    if free < _SPACE_NEEDED:
        return Check(what, Standing.LIMITED, detail, f"a first build wants {amount(_SPACE_NEEDED, 'B')}: stereo clean")
    return Check(what, Standing.OK, detail)


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    enough = total >= _MEMORY_NEEDED
    fix = None if enough else f"compressing and booting want {amount(_MEMORY_NEEDED, 'B')}"
    return Check("memory", Standing.OK if enough else Standing.LIMITED, amount(total, "B"), fix)


def _mirrors() -> Iterator[Check]:
    try:
        sources = Sources.from_host()
    except StereoError as error:
        yield Check("package sources", Standing.MISSING, error.what, error.hint)
        return
    for archive, urls in (("main", sources.main), ("security", sources.security)):
        option = "STEREO_MIRROR" if archive == "main" else "STEREO_SECURITY_MIRROR"
        fix = None if urls else f"configure apt for Debian, or set {option}"
        detail = ", ".join(map(redacted, urls)) or "apt's configuration names none"
        yield Check(f"Debian {archive} archive", Standing.OK if urls else Standing.MISSING, detail, fix)
    keyring = sources.keyring
    fix = None if keyring.exists() else "install the package debian-archive-keyring"
    yield Check("Debian keyring", Standing.OK if keyring.exists() else Standing.MISSING, str(keyring), fix)
    snapshot = redacted(sources.snapshot) if sources.snapshot else "none: packages that mirrors dropped stay lost"
    yield Check("snapshot archive", Standing.OK if sources.snapshot else Standing.LIMITED, snapshot, None)


def _qemu(programs: Programs) -> Check:
    try:
        detail = f"{programs.version()}, of {programs.origin}"
    except StereoError as error:
        return Check("QEMU", Standing.MISSING, error.what.splitlines()[0], "stereo clean, then build: makes it anew")
    if programs.firmware is None:
        return Check("QEMU", Standing.LIMITED, f"{detail}, without UEFI firmware", "install the package ovmf")
    return Check("QEMU", Standing.OK, detail)


def _accelerators(programs: Programs, cache: Cache, report: Report, *, refresh: bool) -> Iterator[Check]:
    for verdict in accel.verdicts(programs, cache.probe, report, refresh=refresh):
        needed = verdict.accelerator is Accelerator.TCG
        failed = Standing.MISSING if needed else Standing.LIMITED
        fix = None if verdict.usable else "machines run without it" if not needed else "machines cannot run"
        standing = Standing.OK if verdict.usable else failed
        yield Check(f"accelerator {verdict.accelerator}", standing, verdict.reason, fix)

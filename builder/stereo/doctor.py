"""What this machine offers and lacks for building and booting: facts and remedies as data, for `stereo doctor`.

A check tries the thing itself where that is cheap (makes a namespace, boots a tiny guest), and looks at settings only
to say why it failed.
"""

from __future__ import annotations

import getpass
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stereo import process
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.paths import Cache
from stereo.report import Report
from stereo.scratch import scratch_folder
from stereo.vm import accel, enclosure
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs, own_architecture, packages

_PYTHON = (3, 11)
_SUBORDINATE_IDS = 65536
_GIGABYTE = 1_000_000_000
_CACHE_BYTES = 10 * _GIGABYTE  # packages, tools, package trees, images
_DIST_BYTES = 4 * _GIGABYTE  # one dist with both disks
_USERNS_SETTINGS = (
    ("user/max_user_namespaces", "0"),
    ("kernel/unprivileged_userns_clone", "0"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1"),
)


class Status(StrEnum):
    """`warn`: something works less well, or nothing needs it. `missing`: a build or a boot would fail."""

    OK = "ok"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One fact about the machine; `fix` says what to do unless all is well."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


def run_checks(
    cache: Cache, report: Report, find_programs: Callable[[Architecture], Programs], *, refresh: bool = False
) -> list[Check]:
    """All checks, cheap ones first. Never raises for what a machine lacks.

    `find_programs` finds the QEMU that would be used for an architecture. With `refresh` accelerators are tried again,
    whatever is known.
    """
    return [
        *_python(),
        *_building(cache),
        _enclosure(),
        _space("disk space for the cache", cache.root, _CACHE_BYTES),
        _cache_use(cache),
        _space("disk space here", Path.cwd(), _DIST_BYTES),
        *(_sources() if sys.platform == "linux" else ()),
        _pip(),
        *_vfkit(),
        *_machines(cache, report, find_programs, refresh=refresh),
    ]


def _ok_or(failed: Status, name: str, good: bool, detail: str, fix: str) -> Check:
    return Check(name, Status.OK, detail) if good else Check(name, failed, detail, fix)


def _python() -> Iterator[Check]:
    found = f"{platform.python_version()} ({sys.executable})"
    yield _ok_or(Status.MISSING, "Python", sys.version_info >= _PYTHON, found, "install Python 3.11 or newer")
    if sys.prefix != sys.base_prefix:
        yield Check("virtual environment", Status.OK, sys.prefix)
    else:
        can = bool(importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"))
        detail = "can be made" if can else "this Python cannot make one"
        yield _ok_or(Status.MISSING, "virtual environment", can, detail, "install the package python3-venv")


def _building(cache: Cache) -> Iterator[Check]:
    """What makes images."""
    if sys.platform != "linux":
        fix = "build on Linux, and publish the dist or copy it here"
        yield Check("builds", Status.WARN, "images are built on Linux", fix)
        return
    yield from _tools()
    yield _namespaces()
    yield from _foreign(cache)
    yield _subordinate_ids(Path("/etc"))


def _tools() -> Iterator[Check]:
    for program, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("unshare", "util-linux"), ("mount", "mount")):
        path = shutil.which(program)
        yield _ok_or(Status.MISSING, program, bool(path), path or "not on PATH", f"install the package {package}")
    path = shutil.which("git")
    detail = path or "not on PATH: versions of development builds come from it"
    yield _ok_or(Status.WARN, "git", bool(path), detail, "install the package git")


def _namespaces() -> Check:
    from stereo.build import sandbox

    try:
        sandbox.check()
    except StereoError as error:
        reasons = namespace_limits(Path("/proc/sys"))
        fix = "; ".join(reasons) or error.hint or "allow this user to make namespaces"
        return Check("namespaces", Status.MISSING, _first_line(error), fix)
    return Check("namespaces", Status.OK, "user, mount, network and process namespaces can be made")


def _foreign(cache: Cache) -> Iterator[Check]:
    """Whether images of other architectures can be made here."""
    from stereo.build import foreign

    builds = platform.machine() in set(Architecture)
    for arch in filter(foreign.is_foreign, Architecture if builds else ()):
        name, fix = f"programs of {arch}", f"images for {arch} are built on another machine"
        try:
            with scratch_folder("doctor-", cache.root) as folder:
                own = foreign.check(arch, folder).program is not None
        except (StereoError, OSError) as error:
            fix = (error.hint if isinstance(error, StereoError) else None) or fix
            yield Check(name, Status.WARN, str(error).splitlines()[0], fix)
            continue
        how = "builds run them by an emulator of their own" if own else "the host runs them, by an emulator of its own"
        yield Check(name, Status.OK, how)


def _enclosure() -> Check:
    name = "namespaces for machines"
    if sys.platform != "linux":
        return Check(name, Status.WARN, "QEMU runs without them here", "with QEMU, networks and shares need Linux")
    try:
        enclosure.check()
    except StereoError as error:
        fix = "; ".join(namespace_limits(Path("/proc/sys"))) or "allow this user to make namespaces"
        return Check(name, Status.MISSING, error.what.splitlines()[-1], fix)
    return Check(name, Status.OK, "a program can be shut in")


def namespace_limits(sysctls: Path) -> list[str]:
    """Remedies for the settings below `sysctls` (/proc/sys) that forbid user namespaces, see user_namespaces(7)."""
    found = []
    for name, forbidding in _USERNS_SETTINGS:
        try:
            value = (sysctls / name).read_text().strip()
        except OSError:
            continue  # this kernel has no such setting
        if value == forbidding:
            allowing = {"0": "1", "1": "0"}[forbidding] if "max" not in name else "15000"
            found.append(f"sudo sysctl {name.replace('/', '.')}={allowing}")
    return found


def _subordinate_ids(etc: Path) -> Check:
    name = "subordinate ids"
    if os.geteuid() == 0:
        return Check(name, Status.OK, "root needs none")
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        return Check(name, Status.MISSING, "no newuidmap and newgidmap on PATH", "install the package uidmap")
    user = getpass.getuser()
    for file in (etc / "subuid", etc / "subgid"):
        count = largest_range(file, user, os.getuid())
        if count < _SUBORDINATE_IDS:
            fix = f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
            return Check(name, Status.MISSING, f"{file} gives {user} {count}, not {_SUBORDINATE_IDS}", fix)
    return Check(name, Status.OK, f"{_SUBORDINATE_IDS} or more for {user}")


def largest_range(file: Path, user: str, uid: int) -> int:
    """The size of the largest range that subuid(5) or subgid(5) gives to a user, by name or number."""
    try:
        rows = [line.split(":") for line in file.read_text(errors="replace").splitlines()]
    except OSError:
        return 0
    sizes = [int(row[2]) for row in rows if len(row) == 3 and row[0] in (user, str(uid)) and row[2].isdecimal()]
    return max(sizes, default=0)


def _space(name: str, folder: Path, needed: int) -> Check:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    detail = f"{free / _GIGABYTE:.1f} GB free at {there}"
    if not os.access(there, os.W_OK):
        return Check(name, Status.MISSING, f"{there} is not writable", "work elsewhere, or set STEREO_CACHE")
    fix = f"a first build wants {needed // _GIGABYTE} GB; see `stereo clean`"
    return _ok_or(Status.WARN, name, free >= needed, detail, fix)


def _cache_use(cache: Cache) -> Check:
    from stereo.build.budget import VARIABLE, cache_limit, entries

    name = "what builds keep"
    try:
        limit = cache_limit()
    except StereoError as error:
        return Check(name, Status.MISSING, _first_line(error), f"set {VARIABLE} to a size such as 20GB")
    used = sum(entry.size for entry in entries(cache))
    detail = f"{used / _GIGABYTE:.1f} of {limit / _GIGABYTE:.1f} GB of images and trees in {cache.root}"
    fix = f"the next build removes what was not used for longest; {VARIABLE} sets the limit"
    return _ok_or(Status.WARN, name, used <= limit, detail, fix)


def _sources() -> Iterator[Check]:
    from stereo.inputs.sources import Sources, redacted

    try:
        sources = Sources.from_host()
    except StereoError as error:
        yield Check("package sources", Status.MISSING, _first_line(error), error.hint)
        return
    for name, urls in (("main", sources.main), ("security", sources.security)):
        detail = ", ".join(map(redacted, urls)) or "apt is configured for none"
        variable = "STEREO_MIRROR" if name == "main" else "STEREO_SECURITY_MIRROR"
        fix = f"add Debian's {name} archive to apt's sources, or set {variable}"
        yield _ok_or(Status.MISSING, f"Debian's {name} archive", bool(urls), detail, fix)
    yield _keyring(sources.keyring)
    snapshot = redacted(sources.snapshot) if sources.snapshot else "none: what mirrors have dropped cannot be fetched"
    yield _ok_or(
        Status.WARN, "snapshot archive", bool(sources.snapshot), snapshot, "set STEREO_SNAPSHOT if you have one"
    )
    registry = redacted(sources.npm.registry) if sources.npm.registry else "none"
    fix = "npm config set registry URL, or NPM_CONFIG_REGISTRY"
    yield _ok_or(Status.MISSING, "npm registry", bool(sources.npm.registry), registry, fix)


def _keyring(keyring: Path) -> Check:
    """Debian ships one big keyring, and beside it a small one per release: they tell whose keys are in the big one."""
    name, fix = "Debian's keyring", "install or upgrade the package debian-archive-keyring"
    if not keyring.exists():
        return Check(name, Status.MISSING, f"{keyring} does not exist", fix)
    others = list(keyring.parent.glob("debian-archive-*-stable.*"))
    if others and not any("-trixie-" in path.name for path in others):
        return Check(name, Status.MISSING, f"{keyring} is older than trixie", fix)
    return Check(name, Status.OK, str(keyring))


def _pip() -> Check:
    try:
        told = process.run([sys.executable, "-m", "pip", "config", "list"], env=dict(os.environ), timeout=30).stdout
    except StereoError as error:
        return Check("pip", Status.MISSING, _first_line(error), "install the package python3-venv")
    own = any("index-url" in line or "find-links" in line for line in told.splitlines())
    return Check("pip", Status.OK, "an index of your own" if own else "pip's default index")


def _vfkit() -> Iterator[Check]:
    """Of a Mac; and wherever there is one."""
    from stereo.vm import vfkit

    try:
        found = vfkit.find_vfkit()
        version = vfkit.version(found)
    except StereoError as error:
        if sys.platform == "darwin":
            yield Check("vfkit", Status.WARN, f"{_first_line(error)}: machines run by QEMU", error.hint)
        return
    entitled = vfkit.is_entitled(found)
    detail = f"{version}, {found}" + ("" if entitled else f": not signed for {vfkit.ENTITLEMENT}")
    fix = (
        f"install one that is signed, or `codesign --force --sign - --entitlements FILE {found}`; see docs/applevirt.md"
    )
    yield _ok_or(Status.WARN, "vfkit", entitled, detail, fix)


def _machines(
    cache: Cache, report: Report, find_programs: Callable[[Architecture], Programs], *, refresh: bool
) -> Iterator[Check]:
    try:
        own = own_architecture()
        programs = find_programs(own)
        detail = f"{programs.version()}, from {programs.origin}"
    except StereoError as error:
        fix = "the first build brings one; or install QEMU, qemu-img and UEFI firmware for this architecture"
        if sys.platform != "linux":
            fix = error.hint or fix
        yield Check("QEMU", Status.WARN, _first_line(error), fix)
        return
    yield Check("QEMU", Status.OK, detail)
    firmware = str(programs.firmware.code) if programs.firmware else "not found"
    yield _ok_or(Status.WARN, "UEFI firmware", bool(programs.firmware), firmware, f"install {packages(own)}")
    for helper, path in (("passt", programs.passt), ("virtiofsd", programs.virtiofsd)):
        detail = path[-1] if path else "not found"
        yield _ok_or(Status.WARN, helper, bool(path), detail, f"a build brings it; or install the package {helper}")
    for verdict in accel.verdicts(programs, cache.probe, report, refresh=refresh):
        yield _accelerator(verdict)
    for other in Architecture:
        if other is not own:
            yield from _emulated(other, cache, report, find_programs, refresh=refresh)


def _emulated(
    arch: Architecture,
    cache: Cache,
    report: Report,
    find_programs: Callable[[Architecture], Programs],
    *,
    refresh: bool,
) -> Iterator[Check]:
    """What runs dists of another architecture, which nobody needs to build or to boot this one's."""
    name, fix = f"machines of {arch}", f"a build brings what runs them; or install {packages(arch)}"
    try:
        programs = find_programs(arch)
    except StereoError as error:
        yield Check(name, Status.WARN, _first_line(error), fix)
        return
    if programs.firmware is None:
        yield Check(name, Status.WARN, "no UEFI firmware for them", fix)
        return
    for verdict in accel.verdicts(programs, cache.probe, report, refresh=refresh):
        yield _ok_or(Status.WARN, name, verdict.usable, f"emulated; {verdict.reason}", "try `--refresh`")


def _accelerator(verdict: accel.Verdict) -> Check:
    name = f"accelerator {verdict.accelerator}"
    if verdict.accelerator is Accelerator.TCG:
        return _ok_or(Status.MISSING, name, verdict.usable, verdict.reason, "no machine can run: try `--refresh`")
    fix = "machines run emulated, 10 to 50 times slower"
    if "no access" in verdict.reason:
        fix = f"sudo usermod --append --groups kvm {getpass.getuser()}, then log in anew"
    return _ok_or(Status.WARN, name, verdict.usable, verdict.reason, fix)


def _first_line(error: StereoError) -> str:
    return error.what.splitlines()[0] if error.what else "failed"

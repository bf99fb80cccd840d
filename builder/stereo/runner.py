"""What boots a machine: vfkit, or a QEMU.

The QEMU is that of a tools tree in the cache, else the host's, else that of a tools tree made for it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.paths import Cache
from stereo.report import Report
from stereo.vm.backends import BackendName
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs

if TYPE_CHECKING:
    from stereo.vm.machine import Backend


@dataclass(frozen=True)
class Runner:
    """A backend, with what it is best at on this machine; `tree` is the tools tree that it is from, if it is."""

    backend: Backend
    accelerator: Accelerator
    tree: Path | None = None


def need_runner(name: BackendName, cache: Cache, report: Report, arch: Architecture) -> Runner:
    """What runs guests of `arch`. Raises StereoError."""
    if name is BackendName.APPLEVIRT:
        from stereo.vm.applevirt import AppleBackend
        from stereo.vm.vfkit import find_vfkit

        return Runner(AppleBackend(find_vfkit(), cache.work), Accelerator.HVF)
    from stereo.vm.accel import choose
    from stereo.vm.qemu import QemuBackend

    programs = need_programs(cache, report, arch)
    return Runner(QemuBackend(programs, cache.work), choose(programs, cache.probe, report), programs.tree)


def find_programs(cache: Cache, arch: Architecture) -> Programs:
    """QEMU for guests of `arch`, qemu-img and firmware, as far as they are there. Raises StereoError without a QEMU."""
    for tree in _trees(cache):
        try:
            return Programs.find(tree, arch)
        except StereoError:
            continue  # tools of another kind or time, without such a QEMU
    return Programs.find(None, arch)


def need_programs(cache: Cache, report: Report, arch: Architecture, *, sandbox: bool = False) -> Programs:
    """QEMU for guests of `arch`, qemu-img and firmware, and for a `sandbox` what serves networks and shares.

    What the host lacks comes with the locked tools, which are fetched and unpacked; they are programs for Linux.
    """
    can_make = sys.platform == "linux"
    try:
        found = find_programs(cache, arch)
        lacks = found.lacks(sandbox=sandbox)
        if not lacks or not can_make:
            return found
        report.note(f"No {lacks[0]} with the QEMU of {found.origin}: making the locked tools")
    except StereoError as error:
        if not can_make:
            raise
        report.note(f"{error.what}: making the locked tools")
    return Programs.find(_make_tools(cache, report), arch)


def _make_tools(cache: Cache, report: Report) -> Path:
    from stereo.build.plans import plan_of
    from stereo.build.stages import Builder
    from stereo.inputs.sources import Sources
    from stereo.inputs.store import Store

    plan = plan_of("base", arch=None, version=None, locks=None)  # every plan has the same tools
    return Builder(cache, Store(cache.store), Sources.from_host(), report).tools(plan)


def _trees(cache: Cache) -> list[Path]:
    """The unpacked tools trees, newest first."""
    trees = [path for path in cache.tools.glob("*") if path.is_dir()] if cache.tools.is_dir() else []
    return sorted(trees, key=lambda path: path.stat().st_mtime, reverse=True)

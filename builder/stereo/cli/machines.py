"""Which QEMU boots: that of a tools tree in the cache, else the host's, else that of a tools tree made for it."""

from __future__ import annotations

from pathlib import Path

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.paths import Cache
from stereo.report import Report
from stereo.vm.programs import Programs


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

    What the host lacks comes with the locked tools, which are fetched and unpacked.
    """
    try:
        found = find_programs(cache, arch)
        lacks = found.lacks(sandbox=sandbox)
        if not lacks:
            return found
        report.note(f"No {lacks[0]} with the QEMU of {found.origin}: making the locked tools")
    except StereoError as error:
        report.note(f"{error.what}: making the locked tools")
    return Programs.find(_make_tools(cache, report), arch)


def _make_tools(cache: Cache, report: Report) -> Path:
    from stereo.build.stages import Builder
    from stereo.cli.plans import plan_of
    from stereo.inputs.sources import Sources
    from stereo.inputs.store import Store

    plan = plan_of("base", arch=None, version=None, locks=None)  # every plan has the same tools
    return Builder(cache, Store(cache.store), Sources.from_host(), report).tools(plan)


def _trees(cache: Cache) -> list[Path]:
    """The unpacked tools trees, newest first."""
    trees = [path for path in cache.tools.glob("*") if path.is_dir()] if cache.tools.is_dir() else []
    return sorted(trees, key=lambda path: path.stat().st_mtime, reverse=True)

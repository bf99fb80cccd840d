"""Building a dist again from what its manifest records, and comparing the two."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stereo.build.defaults import dev_key, this_machine
from stereo.build.plans import plan_for
from stereo.build.stages import Builder
from stereo.build.version import revision_of
from stereo.build.workspace import workspace
from stereo.check.diff import diff
from stereo.check.differences import Difference
from stereo.check.rebuild import EmptyCache, refuse_other_locks, refuse_other_plan
from stereo.inputs.lockfiles import LockFolder
from stereo.inputs.sources import Overrides, Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.manifest import Manifest
from stereo.model.mixtape import load_mixtape
from stereo.paths import Cache, Checkout
from stereo.plan.plan import Plan
from stereo.produce import produce
from stereo.report import Report


@dataclass(frozen=True)
class Means:
    """What a rebuild may use. `mirror` are Debian mirrors, best first; `locks` is a folder, None the checkout's own."""

    offline: bool
    jobs: int | None
    mirror: tuple[str, ...]
    locks: Path | None


def build_again(folder: Path, manifest: Manifest, means: Means, report: Report) -> Sequence[Difference]:
    """Build what `manifest` records in another folder; returns how the dist `folder`, which has it, differs from that.

    Nothing that was built before is used, only downloads and tools. Raises StereoError when this checkout or these
    locks would make something else.
    """
    plan = recorded_plan(manifest, means.locks)
    cache = Cache.from_environment()
    with workspace(cache, f"rebuild-{plan.key[:16]}", report) as scratch:
        builder = Builder(
            cache=EmptyCache(scratch / "cache", cache),
            store=Store(cache.store),
            sources=Sources() if means.offline else Sources.from_host(Overrides(mirror=means.mirror)),
            report=report,
            offline=means.offline,
            jobs=means.jobs or 8,
        )
        again = scratch / "dist"
        workers = means.jobs or os.cpu_count() or 1
        produce(plan, builder, again, revision=manifest.build.source_revision, jobs=workers)
        return diff(folder, again, report)


def recorded_plan(manifest: Manifest, locks: Path | None) -> Plan:
    """The plan that the manifest records. Raises StereoError when this checkout makes another one."""
    checkout, arch = Checkout.containing_this_package(), Architecture.from_system(manifest.arch)
    mixtape = load_mixtape(manifest.name, checkout.mixtapes, dev_key=dev_key())
    folder = LockFolder(locks or checkout.manifests)
    refuse_other_locks(manifest, folder.read(mixtape.name, arch), folder.read("tools", this_machine()))
    recorded = manifest.build
    plan = plan_for(
        mixtape, arch, version=manifest.version, epoch=recorded.epoch, level=recorded.level, locks=folder.root
    )
    refuse_other_plan(manifest, plan, str(revision_of(checkout.root) or "unknown"))
    return plan

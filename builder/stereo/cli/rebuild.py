"""`stereo rebuild`: build again from what a manifest records, and compare."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stereo.cli.diff import as_data, as_text
from stereo.cli.options import dev_key, dist_argument, locks_option, mirror_option
from stereo.cli.output import Output, speaking
from stereo.paths import Cache, Checkout

if TYPE_CHECKING:
    from stereo.model.manifest import Manifest
    from stereo.plan.plan import Plan


@click.command(
    short_help="Build a dist again and compare.",
    epilog="""\b
Examples:
  stereo rebuild result
  stereo rebuild dist/opencode-mixtape/2026.01.31.0/x86_64 --json

It needs the source and the locks that the dist was built from: check out the revision that its
mixtape.toml names. Nothing that was built before is used, only downloads and tools.

Exit status: 0 identical, 1 different, 2 wrong usage.""",
)
@dist_argument("folder")
@click.option("--offline", is_flag=True, help="Use only what the store holds.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), metavar="N", help="Work at most on N things at once; default: cores."
)
@mirror_option
@locks_option
@speaking(as_json=True)
def rebuild(
    out: Output, folder: Path, offline: bool, jobs: int | None, mirror: tuple[str, ...], locks: Path | None
) -> int:
    """Build a dist again in another folder, and say whether it is identical."""
    from stereo.assemble.dist import read_manifest
    from stereo.build.stages import Builder
    from stereo.build.workspace import workspace
    from stereo.check.diff import diff
    from stereo.check.rebuild import EmptyCache
    from stereo.inputs.sources import Overrides, Sources
    from stereo.inputs.store import Store
    from stereo.produce import produce

    manifest = read_manifest(folder)
    plan = _plan(manifest, locks)
    cache = Cache.from_environment()
    with workspace(cache, f"rebuild-{plan.key[:16]}", out.report) as scratch:
        builder = Builder(
            cache=EmptyCache(scratch / "cache", cache),
            store=Store(cache.store),
            sources=Sources() if offline else Sources.from_host(Overrides(mirror=mirror)),
            report=out.report,
            offline=offline,
            jobs=jobs or 8,
        )
        again = scratch / "dist"
        workers = jobs or os.cpu_count() or 1
        produce(plan, builder, again, revision=manifest.build.source_revision, jobs=workers)
        found = diff(folder, again, out.report)
    level = f"differs at the level {found[0].level}\n" if found else ""
    out.result({**as_data(found), "level": found[0].level.value if found else None}, level + as_text(found))
    return int(bool(found))


def _plan(manifest: Manifest, locks: Path | None) -> Plan:
    """The plan that the manifest records. Raises StereoError when this checkout makes another one."""
    from stereo.check.rebuild import refuse_other_locks, refuse_other_plan
    from stereo.cli.plans import plan_for
    from stereo.cli.version import revision_of
    from stereo.inputs.lockfiles import LockFolder
    from stereo.model.architecture import Architecture
    from stereo.model.mixtape import load_mixtape

    checkout, arch = Checkout.containing_this_package(), Architecture.from_system(manifest.arch)
    mixtape = load_mixtape(manifest.name, checkout.mixtapes, dev_key=dev_key())
    folder = LockFolder(locks or checkout.manifests)
    here = Architecture(platform.machine())
    refuse_other_locks(manifest, folder.read(mixtape.name, arch), folder.read("tools", here))
    recorded = manifest.build
    plan = plan_for(
        mixtape, arch, version=manifest.version, epoch=recorded.epoch, level=recorded.level, locks=folder.root
    )
    refuse_other_plan(manifest, plan, str(revision_of(checkout.root) or "unknown"))
    return plan

"""`stereo rebuild`: build again from what a manifest records, and compare."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stereo.cli.diff import as_data, as_text
from stereo.cli.options import dev_key, dist_argument, locks_option, mirror_option
from stereo.cli.output import Output, safe, speaking
from stereo.errors import StereoError
from stereo.paths import Cache, Checkout

if TYPE_CHECKING:
    from stereo.model.manifest import Manifest
    from stereo.plan.plan import Plan


@dataclass(frozen=True)
class _EmptyCache(Cache):
    """A cache that knows downloads and tools, but nothing that was built: a rebuild that copies proves nothing."""

    shared: Cache

    @property
    def store(self) -> Path:
        return self.shared.store

    @property
    def tools(self) -> Path:
        return self.shared.tools


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
    from stereo.cli.produce import produce
    from stereo.inputs.sources import Overrides, Sources
    from stereo.inputs.store import Store

    manifest = read_manifest(folder)
    plan = _plan(manifest, locks)
    cache = Cache.from_environment()
    with workspace(cache, f"rebuild-{plan.key[:16]}", out.report) as scratch:
        builder = Builder(
            cache=_EmptyCache(scratch / "cache", cache),
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
    from stereo.cli.plans import plan_for
    from stereo.cli.version import revision_of
    from stereo.model.architecture import Architecture
    from stereo.model.mixtape import load_mixtape

    checkout = Checkout.containing_this_package()
    mixtape = load_mixtape(manifest.name, checkout.mixtapes, dev_key=dev_key())
    plan = plan_for(
        mixtape,
        Architecture.from_system(manifest.arch),
        version=manifest.version,
        epoch=manifest.build.epoch,
        level=manifest.build.level,
        locks=locks,
    )
    if plan.key == manifest.build.plan_key:
        return plan
    recorded = manifest.build
    reasons = [
        f"{what} is another"
        for what, here, there in (
            ("the lock", plan.lock.digest, recorded.lock_sha256),
            ("the lock of the tools", plan.tools_lock.digest, recorded.tools_lock_sha256),
        )
        if here != there
    ]
    revision = str(revision_of(checkout.root) or "unknown")
    if revision != recorded.source_revision:
        reasons.append(f"the source is {revision}, not {safe(recorded.source_revision)}")
    raise StereoError(
        "cannot be built again from here: " + ("; ".join(reasons) or "files or mixtape differ"),
        where=f"{manifest.name} {manifest.version}",
        hint=f"git checkout {safe(recorded.source_revision).removesuffix('-dirty')}",
    )

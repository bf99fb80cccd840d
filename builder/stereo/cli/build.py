"""`stereo build`: from a mixtape to a directory that can be published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stereo.cli.measure import amount
from stereo.cli.options import (
    arch_option,
    building_options,
    locks_option,
    mirror_option,
    mixtape_argument,
    version_option,
)
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError, UsageError
from stereo.paths import Cache, Checkout

if TYPE_CHECKING:
    from stereo.model.manifest import Manifest
    from stereo.plan.plan import Plan


@click.command(
    short_help="Build a mixtape into a dist.",
    epilog="""\b
Examples:
  stereo build opencode-mixtape                        dist/opencode-mixtape/dev-REVISION/x86_64/
  stereo build opencode-mixtape --version 2026.01.31.0 a release
  stereo build opencode-mixtape --arch aarch64         for a Mac, or another machine than this one
  stereo build opencode-mixtape-dev --quick            for the inner loop: your SSH key, light compression
  stereo build coder --offline                         from the store alone

The symlink `result` points at the last build, and the local store knows it by its name, for the `mixtape`
of a jcard.toml. What did not change is not built again.

Exit status: 0 built or unchanged, 1 failed, 2 wrong usage.""",
)
@mixtape_argument()
@version_option
@arch_option
@click.option(
    "--level", type=click.IntRange(1, 22), metavar="N", help="zstd level of the compressed disks; default: 19."
)
@click.option("--quick", is_flag=True, help="Compress lightly (level 3): larger files, sooner.")
@building_options
@click.option("--force", is_flag=True, help="Assemble again, and replace a release whose bytes change.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), metavar="N", help="Work at most on N things at once; default: cores."
)
@mirror_option
@locks_option
@speaking(as_json=True)
def build(
    out: Output,
    name: str,
    version: str | None,
    arch: str | None,
    level: int | None,
    quick: bool,
    offline: bool,
    output_dir: Path,
    force: bool,
    jobs: int | None,
    mirror: tuple[str, ...],
    locks: Path | None,
) -> None:
    """Build a mixtape: raw disk, qcow2, kernel files, their compressed forms and mixtape.toml."""
    from stereo.assemble.dist import is_current, read_manifest
    from stereo.assemble.place import point_result, refuse_what_is_no_link
    from stereo.build.plans import DEFAULT_LEVEL, QUICK_LEVEL, plan_of

    if quick and level is not None:
        raise UsageError("--quick chooses the level itself", where="--level", hint="leave out one of the two")
    refuse_what_is_no_link(Path("result"))
    level = QUICK_LEVEL if quick else level or DEFAULT_LEVEL
    plan = plan_of(name, arch=arch, version=version, locks=locks, level=level)
    dist = output_dir.absolute() / plan.mixtape.name / plan.version / plan.arch
    unchanged = not force and is_current(dist, plan.key)
    if unchanged:
        manifest = read_manifest(dist)
    else:
        manifest = _made(out, dist, plan, offline=offline, force=force, jobs=jobs, mirror=mirror)
    point_result(Path("result"), dist)
    _register(out, dist, plan)
    files = {file: {"sha256": digest, "size": size} for file, digest, size in manifest.files()}
    download = manifest.artifacts.raw.compressed_size
    text = f"{dist}: {'unchanged' if unchanged else 'built'}; to download: {amount(download, 'B')}"
    data = {
        "dist": str(dist),
        "name": manifest.name,
        "version": manifest.version,
        "arch": manifest.arch,
        "plan_key": plan.key,
        "unchanged": unchanged,
        "files": files,
    }
    out.result(data, text)


def _register(out: Output, dist: Path, plan: Plan) -> None:
    """Let `stereo up` find the dist by its name. A dist is no less built where that fails."""
    from stereo.dists import register, store_folder

    try:
        register(dist, name=plan.mixtape.name, version=plan.version, arch=plan.arch, store=store_folder())
    except (OSError, StereoError) as error:
        out.report.warn(f"not in the local store: {error}")


def _made(
    out: Output, dist: Path, plan: Plan, *, offline: bool, force: bool, jobs: int | None, mirror: tuple[str, ...]
) -> Manifest:
    from stereo.build.stages import Builder
    from stereo.build.version import revision_of
    from stereo.inputs.sources import Overrides, Sources
    from stereo.inputs.store import Store
    from stereo.produce import produce

    cache = Cache.from_environment()
    workers = jobs or os.cpu_count() or 1
    builder = Builder(
        cache=cache,
        store=Store(cache.store),
        sources=Sources() if offline else Sources.from_host(Overrides(mirror=mirror)),
        report=out.report,
        offline=offline,
        jobs=jobs or 8,
    )
    revision = revision_of(Checkout.containing_this_package().root)
    return produce(plan, builder, dist, revision=str(revision or "unknown"), jobs=workers, force=force)

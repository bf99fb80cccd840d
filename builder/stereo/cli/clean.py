"""`stereo clean`: give back the space of what is no longer needed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stereo.cli.measure import amount
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError, UsageError
from stereo.paths import Cache, Checkout


@click.command(
    short_help="Remove what of the cache is not needed.",
    epilog="""\b
Examples:
  stereo clean                 show what can go, then ask
  stereo clean --yes           remove it
  stereo clean --all --dry-run show what the whole cache takes

Dists are never removed. What the dists below --dists and the locks of this checkout need is kept, unless
--all is given; it can all be made or fetched again.""",
)
@click.option("--all", "everything", is_flag=True, help="Empty the cache, downloads included.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--dists",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where dists are whose images are to be kept; default: dist here and in the checkout.",
)
@speaking(as_json=True)
def clean(out: Output, everything: bool, dry_run: bool, yes: bool, dists: tuple[Path, ...]) -> None:
    """Show what of the cache is not needed, and remove it."""
    from stereo.build.budget import VARIABLE, cache_limit
    from stereo.build.sandbox import remove
    from stereo.sweep import dists_in, heaps, running_build

    if out.json and not (dry_run or yes):
        raise UsageError("--json cannot ask", where="--json", hint="add --dry-run or --yes")
    limit = cache_limit()
    cache, checkout = Cache.from_environment(), Checkout.containing_this_package()
    places = dists or (Path("dist"), checkout.root / "dist")
    with out.report.step("Looking through the cache"):
        found = heaps(cache, checkout, dists_in(places), everything=everything)
    total = sum(heap.size for heap in found)
    lines = [f"{amount(heap.size, 'B'):>8}  {heap.kind} ({len(heap.paths)}, {heap.kept} kept)" for heap in found]
    lines.append(f"{amount(total, 'B'):>8}  in all, in {cache.root}")
    lines.append(f"{amount(limit, 'B'):>8}  of images and trees is what builds keep at most ({VARIABLE})")
    data = {
        "cache": str(cache.root),
        "bytes": total,
        "limit": limit,
        "kinds": {heap.kind: {"bytes": heap.size, "entries": len(heap.paths), "kept": heap.kept} for heap in found},
    }
    paths = [path for heap in found for path in heap.paths]
    if not dry_run and not yes and paths and sys.stdin.isatty():
        click.echo("\n".join(lines), err=True)
        lines = []
        yes = click.confirm("Remove?", err=True)
    removing = yes and not dry_run
    if removing and (busy := running_build(cache)):
        raise StereoError(f"a build is running ({busy})", hint="wait for its end")
    if removing:
        with out.report.progress("Removing", len(paths), "entries") as progress:
            for path in paths:
                remove(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
                progress.advance(1)
    lines.append("removed" if removing else "nothing was removed" + ("" if dry_run else "; --yes removes it"))
    out.result({**data, "removed": removing}, "\n".join(lines))

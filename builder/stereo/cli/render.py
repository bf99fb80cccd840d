"""`stereo render`: the mkosi tree that a build would use, with its inputs, to read, or to build by hand."""

from __future__ import annotations

from pathlib import Path

import click

from stereo.cli.options import arch_option, locks_option, mirror_option, mixtape_argument, version_option
from stereo.cli.output import Output, speaking
from stereo.errors import UsageError
from stereo.paths import Cache


@click.command(
    epilog="""\b
Example:
  stereo render opencode-mixtape -o /tmp/tree && cat /tmp/tree/build
  stereo render base -o /tmp/tree --no-inputs          only to read: without the packages
  stereo render base -o /tmp/tree --arch aarch64

The script `build` in it builds the same image by hand, with plain mkosi and without a network."""
)
@mixtape_argument()
@click.option(
    "-o",
    "--output-dir",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to write; it must be new or empty.",
)
@arch_option
@version_option
@click.option("--inputs/--no-inputs", default=True, show_default=True, help="Place the locked packages in the tree.")
@click.option("--offline", is_flag=True, help="Use only what the store holds.")
@mirror_option
@locks_option
@speaking(as_json=True)
def render(
    out: Output,
    name: str,
    folder: Path,
    arch: str | None,
    version: str | None,
    inputs: bool,
    offline: bool,
    mirror: tuple[str, ...],
    locks: Path | None,
) -> None:
    """Write the complete mkosi tree of a mixtape."""
    from stereo.build.files import write_tree
    from stereo.build.plans import plan_of
    from stereo.build.stages import place_inputs
    from stereo.inputs.obtain import obtain
    from stereo.inputs.sources import Overrides, Sources
    from stereo.inputs.store import Store

    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError("is not empty", where=str(folder), hint="name a new folder")
    plan = plan_of(name, arch=arch, version=version, locks=locks)
    tree = plan.tree
    if inputs:
        store = Store(Cache.from_environment().store)
        sources = Sources() if offline else Sources.from_host(Overrides(mirror=mirror))
        obtain(plan.lock, store, sources, out.report, offline=offline)
        with out.report.step("Placing packages"):
            place_inputs(plan, store, folder)
    write_tree(tree, folder)
    data = {"folder": str(folder), "files": len(tree), "key": plan.key, "version": plan.version}
    out.result(data, f"{folder}: {len(tree)} files, {plan.mixtape.name} {plan.version} for {plan.arch}")

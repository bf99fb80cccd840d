"""`stereo render`: the mkosi tree that a build would use, to read, or to build by hand."""

from __future__ import annotations

from pathlib import Path

import click

from stereo.cli.options import arch_option, locks_option, mixtape_argument, version_option
from stereo.cli.output import Output, speaking
from stereo.errors import UsageError


@click.command(
    epilog="""\b
Example:
  stereo render opencode-mixtape -o /tmp/tree && cat /tmp/tree/build

The file `build` in it says how plain mkosi builds the same image by hand."""
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
@locks_option
@speaking(as_json=True)
def render(out: Output, name: str, folder: Path, arch: str | None, version: str | None, locks: Path | None) -> None:
    """Write the complete mkosi tree of a mixtape."""
    from stereo.build.files import write_tree
    from stereo.cli.plans import plan_of

    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError("is not empty", where=str(folder), hint="name a new folder")
    plan = plan_of(name, arch=arch, version=version, locks=locks)
    tree = plan.tree
    write_tree(tree, folder)
    data = {"folder": str(folder), "files": len(tree), "key": plan.key, "version": plan.version}
    out.result(data, f"{folder}: {len(tree)} files, {plan.mixtape.name} {plan.version} for {plan.arch}")

"""`stereo rebuild`: build again from what a manifest records, and compare."""

from __future__ import annotations

from pathlib import Path

import click

from stereo.cli.diff import as_data, as_text
from stereo.cli.options import dist_argument, keep, rebuild_options
from stereo.cli.output import Output, speaking


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
@rebuild_options
@speaking(as_json=True)
def rebuild(
    out: Output, folder: Path, offline: bool, jobs: int | None, mirror: tuple[str, ...], locks: Path | None
) -> int:
    """Build a dist again in another folder, and say whether it is identical."""
    from stereo.assemble.dist import read_manifest
    from stereo.rebuild import Means, build_again

    keep(folder)
    found = build_again(folder, read_manifest(folder), Means(offline, jobs, mirror, locks), out.report)
    level = f"differs at the level {found[0].level}\n" if found else ""
    out.result({**as_data(found), "level": found[0].level.value if found else None}, level + as_text(found))
    return int(bool(found))

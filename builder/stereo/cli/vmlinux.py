"""`stereo vmlinux`: the kernel of a dist as the ELF file that some hypervisors want."""

from __future__ import annotations

from pathlib import Path

import click

from stereo.cli.options import dist_argument, keep
from stereo.cli.output import Output, speaking


@click.command(
    short_help="Extract the ELF kernel of a dist.",
    epilog="""\b
Examples:
  stereo vmlinux result                      writes result/vmlinux; `stereo verify` then checks it, too
  stereo vmlinux result -o /srv/vm/vmlinux
  stereo vmlinux result --json | jq -r .sha256

Firecracker and others load an uncompressed ELF kernel on x86_64, and a bzImage is a packed one. It is
derived, so it is no part of the manifest, and nothing publishes it. On aarch64 there is none: the
bzImage of such a dist is the uncompressed Image already. `stereo check` tells who needs which.

Exit status: 0 written, or there already; 1 bzImage is not what the manifest says; 2 there is none.""",
)
@dist_argument("folder")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write it; default: vmlinux in the dist.",
)
@speaking(as_json=True)
def vmlinux(out: Output, folder: Path, output: Path | None) -> None:
    """Write the uncompressed ELF kernel that is inside of a dist's bzImage."""
    from stereo.assemble.dist import read_manifest
    from stereo.hypervisors.vmlinux import extract

    keep(folder)
    done = extract(folder, read_manifest(folder), output)
    data = {
        "file": str(done.file),
        "size": done.size,
        "sha256": done.sha256,
        "pvh_entry": done.entry,
        "written": done.written,
    }
    state = "written" if done.written else "was there already"
    out.result(data, f"{done.file}: {state}, {done.size} bytes")

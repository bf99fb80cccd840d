"""`stereo verify`: prove that a dist is what its manifest says, in every file and inside the disks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from stereo.cli.measure import amount
from stereo.cli.options import dist_argument
from stereo.cli.output import Output, safe, speaking


@click.command(
    short_help="Prove that a dist is unaltered.",
    epilog="""\b
Examples:
  stereo verify result
  stereo verify dist/opencode-mixtape/2026.01.31.0/x86_64 --json | jq .failed

Exit status: 0 everything holds, 1 something does not, 2 there is nothing to verify.""",
)
@dist_argument("folder")
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="Threads; default: one per core.")
@speaking(as_json=True)
def verify(out: Output, folder: Path, jobs: int | None) -> int:
    """Check every file of a dist, and what is inside of them, against its mixtape.toml."""
    from stereo.check.verify import verify as verify_dist

    verdict = verify_dist(folder, out.report, jobs=jobs)
    data = {
        "ok": verdict.ok,
        "failed": list(verdict.failed),
        "findings": [asdict(finding) for finding in verdict.findings],
    }
    lines = [
        f"FAILED  {safe(finding.artifact)}: {finding.check}: {safe(finding.message)}"
        for finding in verdict.findings
        if not finding.ok
    ]
    if out.verbose:
        held = [finding for finding in verdict.findings if finding.ok]
        lines = [f"ok      {finding.artifact}: {finding.check}: {safe(finding.message)}" for finding in held] + lines
    if verdict.ok and verdict.manifest:
        manifest = verdict.manifest
        files = list(manifest.files())
        total = amount(sum(size for _, _, size in files), "B")
        lines.append(f"ok: {manifest.name} {manifest.version} {manifest.arch}, {len(files)} files, {total}")
    else:
        lines.append(f"{len(verdict.failed)} of the dist's artifacts failed: {', '.join(map(safe, verdict.failed))}")
    out.result(data, "\n".join(lines))
    return 0 if verdict.ok else 1

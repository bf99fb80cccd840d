"""`stereo doctor`: what this machine offers, what it lacks, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict

import click

from stereo.cli.output import Output, safe, speaking
from stereo.paths import Cache

_MARKS = {"ok": "ok      ", "limited": "limited ", "missing": "MISSING "}


@click.command(
    short_help="Say what this machine offers and lacks.",
    epilog="""\b
Examples:
  stereo doctor
  stereo doctor --refresh          try the accelerators again, by booting something tiny with each

Exit status: 0 all that a build and a boot need is there, 1 something is missing.""",
)
@click.option("--refresh", is_flag=True, help="Do not believe what earlier runs found out about accelerators.")
@speaking(as_json=True)
def doctor(out: Output, refresh: bool) -> int:
    """Say what this machine offers and lacks for building and booting, with the fix."""
    from stereo.cli.checkup import Standing, checks

    found = list(checks(Cache.from_environment(), out.report, refresh=refresh))
    width = max(len(check.what) for check in found)
    lines = []
    for check in found:
        lines.append(f"{_MARKS[check.standing]}{check.what:<{width}}  {safe(check.detail)}")
        if check.fix and check.standing is not Standing.OK:
            lines.append(f"{'':<8}{'':<{width}}  -> {safe(check.fix)}")
    missing = any(check.standing is Standing.MISSING for check in found)
    out.result({"ok": not missing, "checks": [asdict(check) for check in found]}, "\n".join(lines))
    return int(missing)

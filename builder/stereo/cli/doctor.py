"""`stereo doctor`: what this machine offers, what it lacks, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict

import click

from stereo.cli.output import Output, safe, speaking
from stereo.paths import Cache

_MARKS = {"ok": "ok      ", "warn": "limited ", "missing": "MISSING "}


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
    """Say what this machine offers and lacks for building and booting, and whom it believes, with the fix."""
    from stereo.believed import believed
    from stereo.doctor import Status, run_checks
    from stereo.runner import need_programs

    cache = Cache.from_environment()
    # Accelerators are tried by booting something: where there is no QEMU, the locked one is fetched for it.
    found = run_checks(cache, out.report, lambda arch: need_programs(cache, out.report, arch), refresh=refresh)
    found += believed()
    width = max(len(check.name) for check in found)
    lines = []
    for check in found:
        lines.append(f"{_MARKS[check.status]}{check.name:<{width}}  {safe(check.detail)}")
        if check.fix and check.status is not Status.OK:
            lines.append(f"{'':<8}{'':<{width}}  -> {safe(check.fix)}")
    missing = any(check.status is Status.MISSING for check in found)
    out.result({"ok": not missing, "checks": [asdict(check) for check in found]}, "\n".join(lines))
    return int(missing)

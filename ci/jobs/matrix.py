"""ci/matrix: many mixtapes on many workers."""

from __future__ import annotations

import os
from pathlib import Path

import click
from ci.jobs.options import SETTINGS, level_of, options

from stereo.build.plans import plan_of
from stereo.build.version import revision_of
from stereo.cli.options import arch_option, building_options, locks_option, mirror_option, version_option
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError, UsageError
from stereo.paths import Cache, Checkout
from stereo.pipeline.matrix import Done, Tls, existing_scheduler, local_workers, run
from stereo.pipeline.task import Settings, code_digest

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    context_settings=SETTINGS,
    epilog="""\b
Examples:
  ci/matrix base coder opencode-mixtape                   two local workers
  ci/matrix base coder --workers 8 --version 2026.01.31.0
  ci/matrix base coder --scheduler tls://build.example:8786 \\
      --tls-ca ca.pem --tls-cert me.pem --tls-key me.key  the workers of a fleet

\b
A fleet: every machine has this checkout at the same revision, its environment (.venv, made by this
script), and the folders of STEREO_CACHE and --output-dir at the same paths, by a file system that
has flock(2) (NFS 4 does). Then, with certificates that one authority made for these machines alone:
  .venv/bin/python -m dask scheduler --no-dashboard --host build.example --tls-ca-file ca.pem ...
  .venv/bin/python -m dask worker tls://build.example:8786 --nthreads 1 --no-dashboard --tls-ca-file ca.pem ...
Who holds such a certificate can run code on every worker. Unencrypted lines are refused, but to
this machine itself.

Exit status: 0 all built or unchanged, 1 something failed, 2 wrong usage.""",
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--workers", type=click.IntRange(1, 256), metavar="N", help="Local worker processes; default: 2.")
@click.option("--scheduler", metavar="ADDRESS", help="Use the workers of this scheduler instead.")
@click.option("--tls-ca", type=_FILE, metavar="FILE", help="Certificate of the scheduler's authority.")
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Our certificate.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its key.")
@version_option
@arch_option
@options("level", "quick")
@building_options
@click.option("--log", type=_FILE, metavar="FILE", help="Append what each worker does to it, as lines of JSON.")
@mirror_option
@locks_option
@speaking(as_json=True)
def matrix(
    out: Output,
    names: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    version: str | None,
    arch: str | None,
    level: int | None,
    quick: bool,
    offline: bool,
    output_dir: Path,
    log: Path | None,
    mirror: tuple[str, ...],
    locks: Path | None,
) -> int:
    """Build many mixtapes on many workers. What two of them share is built once, a lost worker's work is done again."""
    if workers and scheduler:
        raise UsageError("are two ways to get workers", where="--workers, --scheduler", hint="leave out one of the two")
    compression = level_of(level, quick)
    plans = [plan_of(name, arch=arch, version=version, locks=locks, level=compression) for name in names]
    count = workers or 2
    settings = Settings(
        cache=Cache.from_environment().root,
        output=output_dir.absolute(),
        revision=str(revision_of(Checkout.containing_this_package().root) or "unknown"),
        code=code_digest(),
        offline=offline,
        jobs=max(1, (os.cpu_count() or 1) // (1 if scheduler else count)),
        mirrors=mirror,
    )
    lines = existing_scheduler(scheduler, _tls(tls_ca, tls_cert, tls_key)) if scheduler else local_workers(count)
    with lines as client:
        done = run(client, plans, settings, out.report, log)
    dists = [row for row in done if row.task.step == "dist"]
    faults = {str(row.fault): row.fault for row in done if row.fault}
    data = {
        "dists": [_told(row) for row in dists],
        "tasks": [{"task": row.task.name, "title": row.task.title, "result": row.result} for row in done],
        "faults": list(faults),
    }
    built = [row.result for row in dists if row.result]
    out.result(data, "\n".join(built))
    if len(faults) == 1:
        raise next(iter(faults.values()))
    if faults:
        raise StereoError("not everything was built:\n" + "\n".join(faults))
    return 0


def _told(row: Done) -> dict[str, str | None]:
    plan = row.task.plan
    names = {"name": plan.mixtape.name, "version": plan.version, "arch": plan.arch.value}
    return {**names, "plan_key": plan.key, "dist": row.result}


def _tls(authority: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    if authority and certificate and key:
        return Tls(authority, certificate, key)
    if authority or certificate or key:
        raise UsageError("one without the others", where="--tls-ca, --tls-cert, --tls-key", hint="give all three")
    return None

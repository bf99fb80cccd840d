"""ci/release: every job, in order, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from ci.jobs.options import (
    SETTINGS,
    decided_version,
    note_release,
    options,
    release_of,
    reporter,
    taken_secrets,
)
from ci.jobs.table import conclude

from stereo.cli.output import Output, speaking
from stereo.errors import UsageError
from stereo.paths import Cache
from stereo.pipeline.github import outputs
from stereo.pipeline.jobs import JOBS
from stereo.pipeline.login import added, logged_in
from stereo.pipeline.published import refuse_fewer
from stereo.pipeline.release import Release, alone_in, carry_out
from stereo.pipeline.verbs import Verbs
from stereo.pipeline.work import Pieces, place_of
from stereo.report import Report

BUILDING = ("work", "level", "quick", "locks", "workers")
PROVING = ("lint", "allow_dirty", "rebuilder_key", "boot_limit")
SPREADING = ("key", "policy", "keep")


def skip_option(command: Any) -> Any:
    """--skip"""
    names = click.Choice([job.name for job in JOBS])
    return click.option("--skip", multiple=True, type=names, help="Leave a job out; may be given again.")(command)


def plan_option(command: Any) -> Any:
    """--plan"""
    text = "Only say what would be released, as lines for a workflow: version=, targets=, mixtapes=."
    return click.option("--plan", "only_plan", is_flag=True, help=text)(command)


@click.command(
    context_settings=SETTINGS,
    epilog="""\b
Examples:
  ci/release --to ./published --key release                the next version of today, of every mixtape
  ci/release --to registry.example/mixtapes --key release --mixtapes base,coder --workers 4
  ci/release --to ./published --key release --mixtapes base --quick --no-lint --allow-dirty
                                                           to try the pipeline out

\b
Jobs: check, build, reproduce (a second build with an empty cache, compared), boot (each form, until
ready), sign, publish (every version whole before its tag appears, moving tags last), retention.
Each keeps its result in the work folder, named by what it was made from: killed or failed, the same
command goes on with the same version and does nothing twice that holds. Nothing is published before
all else went well.

Exit status: 0 released, 1 a job failed, 2 wrong usage.""",
)
@options("to", "mixtapes", "archs", "version", "tags", *BUILDING, *PROVING, *SPREADING)
@skip_option
@plan_option
@speaking(as_json=True)
def release(
    out: Output, to: str, version: str | None, work: Path | None, skip: tuple[str, ...], only_plan: bool, **chosen: Any
) -> None:
    """Do every job of a release in order, on this machine: from a checkout to something that others can pull."""
    report, secrets = reporter(out.json, out.quiet), taken_secrets()

    def described(number: str | None) -> Release:
        return release_of(version=number, to=to, work=work, secrets=secrets, **chosen)

    wanted = described(version)
    place_of(wanted, wanted.mixtapes[0])  # what can never be published is refused before hours of work
    if "publish" not in skip:
        with logged_in(to, secrets) as login, added(login):
            refuse_fewer(to, wanted.version, wanted.targets, wanted.tags)
    if only_plan:
        number = wanted.version or decided_version(wanted, wanted.targets, report)
        click.echo("\n".join(outputs(number, wanted.targets)))
        return
    if not wanted.key and "sign" not in skip:
        hint = "`stereo keygen` makes one; --skip sign does without"
        raise UsageError("to sign with which key?", where="--key", hint=hint)
    with alone_in(wanted.work):
        if not wanted.version:
            wanted = described(decided_version(wanted, wanted.targets, report))
        carried_out(out, wanted, frozenset(skip), report)


def carried_out(out: Output, wanted: Release, skip: frozenset[str], report: Report) -> None:
    """Do the jobs, and show what became of them."""
    report.note(f"releasing {', '.join(map(str, wanted.targets))} as {wanted.version}")
    note_release(wanted, finished=False)
    pieces = Pieces(Verbs(wanted.work, report), Cache.from_environment())
    outcomes = carry_out(wanted, pieces.all(), report, skip=skip)
    conclude(out, wanted, outcomes)
    note_release(wanted, finished=True)

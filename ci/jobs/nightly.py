"""ci/nightly: a release of what has changed since the last night, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from ci.jobs.options import SETTINGS, decided_version, options, release_of, reporter, taken_secrets
from ci.jobs.release import BUILDING, PROVING, SPREADING, carried_out, plan_option, skip_option

from stereo.build.defaults import dev_key
from stereo.build.plans import plan_for
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.model.mixtape import load_mixtape
from stereo.paths import Checkout
from stereo.pipeline.github import outputs
from stereo.pipeline.login import added, logged_in
from stereo.pipeline.published import manifest_of, refuse_fewer, remote_of
from stereo.pipeline.release import Release, alone_in
from stereo.pipeline.targets import Target
from stereo.report import Report

_TAG = "nightly"


@click.command(
    context_settings=SETTINGS,
    epilog="""\b
Examples:
  ci/nightly --to ./published --key release
  ci/nightly --to registry.example/mixtapes --plan

A mixtape has changed when this checkout, asked for the version, the time and the level of what is
published as `nightly`, makes another plan than that was built from.

Exit status: 0 released, or nothing has changed; 1 a job failed; 2 wrong usage.""",
)
@options("to", "mixtapes", "archs", "work", *BUILDING[1:], *PROVING, *SPREADING)
@skip_option
@plan_option
@speaking(as_json=True)
def nightly(
    out: Output, to: str, mixtapes: str, work: Path | None, skip: tuple[str, ...], only_plan: bool, **chosen: Any
) -> None:
    """Release what has changed since the last night, under the tag `nightly`."""
    report, secrets = reporter(out.json, out.quiet), taken_secrets()

    def described(number: str | None, names: str) -> Release:
        return release_of(version=number, to=to, mixtapes=names, work=work, secrets=secrets, tags=(_TAG,), **chosen)

    everything = described(None, mixtapes)
    with logged_in(to, secrets) as login, added(login):
        targets = changed(everything, to, report)
        if "publish" not in skip:
            refuse_fewer(to, "", targets, (_TAG,))
    number = decided_version(everything, targets, report) if targets else ""
    if only_plan:
        click.echo("\n".join(outputs(number, targets)))
        return
    if not targets:
        out.result({"targets": [], "ok": True}, "nothing has changed")
        return
    wanted = described(number, ",".join(dict.fromkeys(target.mixtape for target in targets)))
    with alone_in(wanted.work):
        carried_out(out, wanted, frozenset(skip), report)


def changed(release: Release, to: str, report: Report) -> tuple[Target, ...]:
    """The targets of the mixtapes of which one architecture or another has changed: a version holds all of them."""
    found: set[str] = set()
    with report.progress("Comparing with what is published", len(release.targets), "dists") as progress:
        for target in release.targets:
            if why := _change(release, to, target):
                report.note(f"{target}: {why}")
                found.add(target.mixtape)
            progress.advance(1)
    return tuple(target for target in release.targets if target.mixtape in found)


def _change(release: Release, to: str, target: Target) -> str | None:
    arch = Architecture(target.arch)
    published = manifest_of(remote_of(to, target.mixtape), _TAG, arch)
    if published is None:
        return "was never published"
    mixtape = load_mixtape(target.mixtape, Checkout.containing_this_package().mixtapes, dev_key=dev_key())
    built = published.build
    try:
        plan = plan_for(
            mixtape, arch, version=published.version, epoch=built.epoch, level=built.level, locks=release.locks
        )
    except StereoError as error:
        raise StereoError(f"cannot be planned: {error}", where=str(target)) from error
    return None if plan.key == built.plan_key else f"has changed since {published.version}"

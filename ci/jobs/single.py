"""ci/check to ci/retention: one job of a release by itself, as the workflows call it on a machine of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from ci.jobs.options import SETTINGS, Command, needs_version, options, release_of, reporter
from ci.jobs.table import conclude

from stereo.cli.output import Output, speaking
from stereo.paths import Cache
from stereo.pipeline import jobs
from stereo.pipeline.jobs import Job
from stereo.pipeline.release import alone_in, carry_out
from stereo.pipeline.verbs import Verbs
from stereo.pipeline.work import Pieces

_WHICH = ("mixtapes", "archs", "version", "work")
_END = "\n\nExit status: 0 done, or it holds from before; 1 failed; 2 wrong usage."


def _command(job: Job, examples: str, *names: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command for `job` with these options; the function below it gives the help."""

    def decorate(described: Callable[..., None]) -> click.Command:
        def command(out: Output, **chosen: Any) -> None:
            if job not in (jobs.CHECK, jobs.RETENTION):
                needs_version(chosen["version"])
            release = release_of(**{"version": None, **chosen})
            report = reporter(out.json, out.quiet)
            with alone_in(release.work):
                pieces = Pieces(Verbs(release.work, report), Cache.from_environment())
                outcomes = carry_out(release, [(job, getattr(pieces, job.name))], report)
            conclude(out, release, outcomes)

        command.__doc__ = described.__doc__
        decorated: Command = options(*names)(speaking(as_json=True)(command))  # type: ignore[valid-type]
        epilog = f"\b\nExamples:\n{examples}{_END}"
        return click.command(job.name, context_settings=SETTINGS, epilog=epilog)(decorated)

    return decorate


@_command(
    jobs.CHECK,
    "  ci/check\n  ci/check --no-lint --mixtapes base",
    *(*_WHICH, "level", "quick", "locks", "lint", "allow_dirty"),
)
def check() -> None:
    """Find out whether this checkout can be released from: nothing uncommitted, locks that answer their mixtapes,
    workflow files that are what the model says, linters that find nothing."""


@_command(
    jobs.BUILD,
    "  ci/build --version 2026.01.31.0\n  ci/build --version 2026.01.31.0 --mixtapes base,coder --workers 4",
    *(*_WHICH, "level", "quick", "locks", "workers"),
)
def build() -> None:
    """Build the dists of a release into dist/ of the work folder."""


@_command(
    jobs.REPRODUCE,
    "  ci/reproduce --version 2026.01.31.0\n  ci/reproduce --version 2026.01.31.0 --rebuilder-key second",
    *(*_WHICH, "locks", "rebuilder_key"),
)
def reproduce() -> None:
    """Build dists again with nothing that was built before, and compare. Other machines do it as well as this one."""


@_command(jobs.BOOT, "  ci/boot --version 2026.01.31.0 --mixtapes base --boot-limit 120", *_WHICH, "boot_limit")
def boot() -> None:
    """Boot each dist in each of its forms until it is ready."""


@_command(jobs.SIGN, "  ci/sign --version 2026.01.31.0 --key release", *_WHICH, "key")
def sign() -> None:
    """Sign dists, and attest what they were made from."""


@_command(
    jobs.PUBLISH,
    "  ci/publish --version 2026.01.31.0 --to registry.example/mixtapes\n"
    "  ci/publish --version 2026.01.31.0 --to ./published --tag nightly\n\n"
    "\b\nUser and password of a registry are taken from the configuration of docker or podman, or from\n"
    "STEREO_REGISTRY_USER and STEREO_REGISTRY_PASSWORD.",
    *(*_WHICH, "to", "tags", "policy"),
)
def publish() -> None:
    """Publish dists: everything of a version, then its tag, then those that move."""


@_command(
    jobs.RETENTION,
    "  ci/retention --to registry.example/mixtapes --keep 30",
    *("mixtapes", "work", "to", "keep"),
)
def retention() -> None:
    """Remove published versions that nobody needs any more. What a moving tag names stays."""

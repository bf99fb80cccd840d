"""Options that several scripts have, and the release that they describe."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from stereo.build.plans import DEFAULT_LEVEL, QUICK_LEVEL, plan_of
from stereo.build.version import image_version, revision_of
from stereo.cli.options import ARCHITECTURE
from stereo.cli.plain import PlainReport
from stereo.errors import UsageError
from stereo.paths import Cache, Checkout
from stereo.pipeline.jobs import SECRETS
from stereo.pipeline.login import added, logged_in
from stereo.pipeline.published import versions_taken
from stereo.pipeline.record import write_json
from stereo.pipeline.release import Release
from stereo.pipeline.targets import Target, chosen_targets
from stereo.pipeline.versions import next_version
from stereo.pipeline.work import checkout_digest
from stereo.registry.reference import parse_root
from stereo.report import Report, Silent
from stereo.trust.keyfiles import find_key

Command = TypeVar("Command", bound=Callable[..., Any])

# As those of the verbs: -h too, and lines of a width that suits the examples.
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_PENDING = "release.json"


def _refuse_no_place(_: click.Context, __: click.Parameter, to: str) -> str:
    """Raises UsageError before anything is built for a place that cannot take it."""
    if not to:
        hint = "a folder, or HOST/PREFIX of a registry; the workflows have it from the variable STEREO_TO"
        raise UsageError("to publish where?", where="--to", hint=hint)
    if parse_root(to).kind == "static":
        hint = "publish to a folder, and have the web server offer that"
        raise UsageError("is a web server, and that takes nothing", where=to, hint=hint)
    return to


OPTIONS: dict[str, Callable[[Command], Command]] = {
    "mixtapes": click.option("--mixtapes", default="", metavar="A,B", help="Which; default: all that are locked."),
    "archs": click.option(
        "--arch", "archs", multiple=True, type=ARCHITECTURE, help="For which; default: all locked ones."
    ),
    "version": click.option(
        "--version", envvar="STEREO_VERSION", metavar="V", help="YYYY.MM.DD.N; default: STEREO_VERSION."
    ),
    "work": click.option(
        "--work", type=_FOLDER, metavar="DIR", help="Dists and results of jobs; default: release/ in the cache."
    ),
    "level": click.option("--level", type=click.IntRange(1, 22), metavar="N", help="Of zstd; default: 19."),
    "quick": click.option("--quick", is_flag=True, help="Compress lightly: to try the pipeline out."),
    "locks": click.option("--locks", type=_FOLDER, metavar="DIR", help="Folder of the locks; default: manifests/."),
    "workers": click.option(
        "--workers", type=click.IntRange(1, 256), metavar="N", help="Build by as many processes, see ci/matrix."
    ),
    "lint": click.option("--lint/--no-lint", default=True, help="Run the linters; default: yes."),
    "allow_dirty": click.option("--allow-dirty", is_flag=True, help="Also from changes that are in no commit."),
    "rebuilder_key": click.option(
        "--rebuilder-key",
        metavar="KEY",
        help="Sign that the second build was identical: a name, a file, or - for what STEREO_REBUILDER_KEY holds.",
    ),
    "boot_limit": click.option(
        "--boot-limit", type=click.IntRange(1), default=600, show_default=True, metavar="S", help="Seconds until ready."
    ),
    "key": click.option(
        "--key", metavar="KEY", help="To sign with: a name, a file, or - for what STEREO_SIGNING_KEY holds."
    ),
    "to": click.option(
        "--to",
        required=True,
        metavar="ROOT",
        callback=_refuse_no_place,
        help="Where it is published: a folder, or HOST/PREFIX of a registry.",
    ),
    "tags": click.option(
        "--tag", "tags", multiple=True, metavar="T", help="What moves to it; default: latest, see `stereo publish`."
    ),
    "policy": click.option(
        "--policy", type=_FILE, metavar="FILE", help="What a dist must satisfy before it is published."
    ),
    "keep": click.option(
        "--keep", type=click.IntRange(1), default=10, show_default=True, metavar="N", help="Versions that stay."
    ),
}


def options(*names: str) -> Callable[[Command], Command]:
    """Those options, in that order."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = OPTIONS[name](command)
        return command

    return decorate


def work_folder(work: Path | None) -> Path:
    """The folder of a release."""
    return (work or Cache.from_environment().root / "release").absolute()


def level_of(level: int | None, quick: bool) -> int:
    """The level of zstd. Raises UsageError."""
    if quick and level is not None:
        raise UsageError("--quick chooses the level itself", where="--level", hint="leave out one of the two")
    return QUICK_LEVEL if quick else level or DEFAULT_LEVEL


def release_of(
    *,
    version: str | None,
    mixtapes: str = "",
    archs: tuple[str, ...] = (),
    work: Path | None = None,
    level: int | None = None,
    quick: bool = False,
    locks: Path | None = None,
    workers: int | None = None,
    policy: Path | None = None,
    key: str | None = None,
    rebuilder_key: str | None = None,
    secrets: Mapping[str, str] | None = None,
    **more: Any,
) -> Release:
    """The release that options describe. What is secret moves from the environment into it. Raises UsageError."""
    checkout = Checkout.containing_this_package()
    compression = level_of(level, quick)
    number = image_version(version or None, {}, lambda: None) if version else ""
    names = tuple(filter(None, mixtapes.split(",")))

    def plan(target: Target) -> Any:
        return plan_of(target.mixtape, arch=target.arch, version=number or None, locks=locks, level=compression)

    return Release(
        version=number,
        targets=chosen_targets(checkout, names, archs),
        work=work_folder(work),
        checkout=checkout.root,
        revision=str(revision_of(checkout.root) or "unknown"),
        plans=plan,
        level=compression,
        locks=locks.absolute() if locks else None,
        workers=workers or 0,
        policy=policy.absolute() if policy else None,
        key=_findable(key),
        rebuilder_key=_findable(rebuilder_key),
        secrets=secrets if secrets is not None else taken_secrets(),
        **more,
    )


def _findable(key: str | None) -> str | None:
    """A key so that it is found from any folder. Raises UsageError when there is none of that name."""
    return str(find_key(key).absolute()) if key and key != "-" else key


def taken_secrets() -> dict[str, str]:
    """What a CI hands over in variables, which are gone afterwards: no program that we start gets to see them."""
    return {name: value for name in sorted(SECRETS) if (value := os.environ.pop(name, ""))}


def needs_version(version: str | None) -> str:
    """Raises UsageError where there is none."""
    if not version:
        raise UsageError("of which version?", where="--version", hint="YYYY.MM.DD.N, or set STEREO_VERSION")
    return version


def decided_version(release: Release, targets: tuple[Target, ...], report: Report) -> str:
    """The number of the release that was begun here from this very checkout and not finished, or the next of today.

    Raises RegistryError.
    """
    to = release.to or ""
    described = _described(to, targets)
    try:
        pending = json.loads((release.work / _PENDING).read_text())
        if pending["of"] == described and not pending["finished"]:
            report.note(f"going on with {pending['version']}, which was begun here")
            return str(pending["version"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    today = datetime.datetime.now(tz=datetime.UTC).date()
    with logged_in(to, release.secrets) as login, added(login):
        return next_version(today, versions_taken(to, dict.fromkeys(target.mixtape for target in targets)))


def note_release(release: Release, *, finished: bool) -> None:
    """Write down which release is being made in its folder, for whoever goes on with it. Raises OSError."""
    of = _described(release.to or "", release.targets)
    write_json(release.work / _PENDING, {"version": release.version, "of": of, "finished": finished})


def _described(to: str, targets: tuple[Target, ...]) -> dict[str, Any]:
    root = Checkout.containing_this_package().root
    return {"to": to, "targets": [str(target) for target in targets], "checkout": checkout_digest(root)}


def reporter(as_json: bool, quiet: bool) -> Report:
    """Lines with a time, also on a terminal: what the verbs say goes in between."""
    return Silent() if as_json else PlainReport(sys.stderr, quiet=quiet)

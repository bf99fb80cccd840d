"""`stereo lock`: decide anew which packages, exactly, an image and the tools are made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stereo.cli.options import ARCHITECTURE, locks_option, mirror_option, mixtape_argument
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError, UsageError
from stereo.paths import Cache, Checkout

if TYPE_CHECKING:
    from stereo.inputs.lockfiles import LockFolder
    from stereo.model.lock import Lock
    from stereo.plan.packages import Request
    from stereo.report import Report

TOOLS, TEST_TOOLS = "tools", "test-tools"


@dataclass(frozen=True)
class Change:
    """What became of one lock: its file, whether it is or would be another, and in which lines."""

    file: str
    changed: bool
    lines: tuple[str, ...]


@click.command(
    short_help="Lock the packages of a mixtape or the tools.",
    epilog="""\b
Examples:
  stereo lock opencode-mixtape            decide anew, and write manifests/opencode-mixtape-ARCH.lock
  stereo lock opencode-mixtape --arch aarch64
  stereo lock opencode-mixtape --diff     only tell what would change (exit status 1 if anything)
  stereo lock tools                       what builds the images, on hosts of every architecture
  stereo lock test-tools                  other projects' programs, for the test suite and the benchmark
  stereo lock --all                       all tools and every mixtape

Packages come from the mirrors that the host's own apt, npm and pip are configured for, and apt checks
Debian's signatures. Twice on the same mirror gives the same file.""",
)
@mixtape_argument(required=False)
@click.option("--all", "everything", is_flag=True, help="Lock all tools and every mixtape.")
@click.option("--diff", "only_diff", is_flag=True, help="Write nothing; tell what would change.")
@click.option("--arch", type=ARCHITECTURE, help="Lock for that architecture alone; default: for all it is made for.")
@locks_option
@mirror_option
@speaking(as_json=True)
def lock(
    out: Output,
    name: str | None,
    everything: bool,
    only_diff: bool,
    arch: str | None,
    locks: Path | None,
    mirror: tuple[str, ...],
) -> int:
    """Lock the packages of a mixtape (NAME, NAME-dev) or of the tools (NAME is "tools" or "test-tools")."""
    if everything == (name is not None):
        raise UsageError("give either a NAME or --all", where="lock", hint="stereo lock opencode-mixtape")
    from stereo.inputs.lock import diff_locks, make_lock
    from stereo.inputs.lockfiles import LockFolder
    from stereo.inputs.sources import Overrides, Sources
    from stereo.inputs.store import Store

    folder = LockFolder(locks or Checkout.containing_this_package().manifests)
    sources = Sources.from_host(Overrides(mirror=mirror))
    store = Store(Cache.from_environment().store)
    changes: list[Change] = []
    for request in _requests(name, arch):
        previous = _previous(folder, request, out.report)
        made = make_lock(
            request.name,
            request.arch,
            request.groups,
            sources=sources,
            report=out.report,
            store=store,
            npm=request.npm,
            pypi=request.pypi,
            urls=request.urls,
            previous=previous,
        )
        lines = diff_locks(previous, made) if previous else ["a new lock"]
        changed = made != previous if only_diff else folder.write(made)
        changes.append(Change(str(folder.path(request.name, request.arch)), changed, tuple(lines)))
    out.result([asdict(change) for change in changes], "\n".join(_text(change, only_diff) for change in changes))
    return int(only_diff and any(change.changed for change in changes))


def _previous(folder: LockFolder, request: Request, report: Report) -> Lock | None:
    """The lock as it is now. One that cannot be read is no reason not to make a new one: that is its remedy."""
    try:
        return folder.find(request.name, request.arch)
    except StereoError as error:
        report.warn(f"The lock that is there cannot be used: {str(error).splitlines()[0]}")
        return None


def _requests(name: str | None, arch: str | None) -> list[Request]:
    from stereo.build.defaults import this_machine
    from stereo.model.architecture import Architecture
    from stereo.model.mixtape import list_mixtapes, load_mixtape
    from stereo.plan.packages import image_request, tools_of_tests_request, tools_request

    # Tools are locked for every host that may build, a mixtape for all that it is made for; our tests run here.
    asked = [Architecture(arch)] if arch else list(Architecture)
    mixtapes = Checkout.containing_this_package().mixtapes
    requests = {
        TOOLS: [tools_request(each) for each in asked],
        TEST_TOOLS: [tools_of_tests_request(Architecture(arch) if arch else this_machine())],
    }
    if name in requests:
        return requests[name]
    if name is None:
        chosen, tools = list_mixtapes(mixtapes), [request for each in requests.values() for request in each]
    else:
        chosen, tools = (load_mixtape(name, mixtapes, dev_key=None, need_dev_key=False),), []
    wanted = [(mixtape, each) for mixtape in chosen for each in mixtape.architectures if arch in (None, each)]
    if not wanted:
        raise UsageError(f"nothing to lock for {arch}", where="--arch", hint="stereo show NAME lists architectures")
    return tools + [image_request(mixtape, each) for mixtape, each in wanted]


def _text(change: Change, only_diff: bool) -> str:
    if not change.changed:
        return f"{change.file}: nothing changes" if only_diff else f"{change.file}: unchanged"
    head = f"{change.file}: would change" if only_diff else f"{change.file}: written"
    return "\n".join([head, *(f"  {line}" for line in change.lines)])

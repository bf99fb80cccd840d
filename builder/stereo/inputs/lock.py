"""Makes locks and tells how two of them differ.

A lock changes only when the set of packages does: a mirror that signs the same packages again, with a newer date,
leaves the text as it is.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from stereo.inputs import apt
from stereo.inputs.sources import Sources
from stereo.model.architecture import Architecture
from stereo.model.lock import Lock, sorted_lock
from stereo.report import Report


def make_lock(
    name: str,
    arch: Architecture,
    groups: Mapping[str, Sequence[str]],
    *,
    sources: Sources,
    report: Report,
    previous: Lock | None = None,
) -> Lock:
    """Resolve what `groups` ask for to exact packages."""
    with report.step(f"Reading the indexes of Debian {apt.RELEASE}"), apt.opened(arch, sources) as resolver:
        suites = resolver.suites()
        debian = {group: resolver.resolve(wanted) for group, wanted in groups.items()}
    lock = sorted_lock(
        Lock(
            name=name,
            arch=arch,
            epoch=max(_seconds(suite.date) for suite in suites),
            requested={group: tuple(wanted) for group, wanted in groups.items()},
            suites=suites,
            debian=debian,
        )
    )
    return previous if previous is not None and _content(previous) == _content(lock) else lock


def _seconds(date: str) -> int:
    return int(datetime.datetime.fromisoformat(date).timestamp())


def _content(lock: Lock) -> Lock:
    """The lock without what says when it was made."""
    undated = tuple(suite.model_copy(update={"date": ""}) for suite in lock.suites)
    return sorted_lock(lock).model_copy(update={"epoch": 0, "suites": undated})

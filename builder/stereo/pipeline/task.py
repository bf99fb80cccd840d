"""One task of the build matrix, as a worker does it: the same calls as a build of one mixtape, on the shared cache.

Two workers at one key, such as a new one while the children of a killed one are still dying, wait for each other by the
cache's own locks, and the second finds the work done. A worker tells what it really does, step by step, to whoever
started the matrix; so it can be seen that nothing is made twice.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stereo.assemble.dist import is_current
from stereo.build.stages import Builder
from stereo.errors import StereoError
from stereo.inputs.sources import Overrides, Sources
from stereo.inputs.store import Store
from stereo.paths import Cache, Checkout
from stereo.pipeline.graph import Task
from stereo.produce import produce
from stereo.report import Progress, Silent

TOPIC = "stereo"
"""What the events are filed under at the scheduler."""
_LONGEST = 4000  # characters: Dask replaces an error of more than 10 kB by one that says less


@dataclass(frozen=True)
class Settings:
    """What a task needs besides its plan. Paths mean the same folder on every worker: a shared file system.

    `code` is `code_digest()` of whoever started the matrix; `jobs` how many cores a worker may use.
    """

    cache: Path
    output: Path
    revision: str
    code: str
    offline: bool = False
    jobs: int = 1
    mirrors: tuple[str, ...] = ()


class _Telling(Silent):
    """A reporter that sends the steps of a task to the scheduler's log of events."""

    def __init__(self, task: Task) -> None:
        self._of = {"task": task.name, "title": task.title, "host": platform.node(), "pid": os.getpid()}

    def tell(self, state: str, what: str) -> None:
        from distributed import get_worker

        get_worker().log_event(TOPIC, {**self._of, "state": state, "what": what})

    @contextmanager
    def step(self, doing: str, done: str | None = None) -> Iterator[None]:
        self.tell("begins", doing)
        yield
        self.tell("done", doing)

    @contextmanager
    def progress(self, doing: str, total: int | None, unit: str = "B") -> Iterator[Progress]:
        with self.step(doing), super().progress(doing, total, unit) as progress:
            yield progress

    def note(self, text: str) -> None:
        self.tell("note", text)

    def warn(self, text: str) -> None:
        self.tell("warning", text)


@cache
def code_digest() -> str:
    """SHA-256 over the sources of this package: what makes the bytes of a dist besides the plan."""
    digest = hashlib.sha256()
    package = Checkout.containing_this_package().root / "builder" / "stereo"
    for path in sorted(package.rglob("*.py")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(package)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def perform(task: Task, settings: Settings, *before: object) -> str:
    """Do `task` and return where its result is. `before` are the results of the tasks that it comes after.

    Raises StereoError, always of this very class: what a client gets back is pickled, which its subclasses are not made
    for.
    """
    try:
        return str(_result(task, settings))
    except StereoError as error:
        what = error.what if len(error.what) <= _LONGEST else f"{error.what[:_LONGEST]}…"
        raise StereoError(what, where=error.where, hint=error.hint) from None


def _result(task: Task, settings: Settings) -> Path:
    if code_digest() != settings.code:
        hint = "check out the same revision, without changes, on every machine, and start the workers again"
        raise StereoError("this worker runs another version of stereo", where=platform.node(), hint=hint)
    cache = Cache(settings.cache)
    report: Any = _Telling(task)
    builder = Builder(
        cache=cache,
        store=Store(cache.store),
        sources=Sources() if settings.offline else Sources.from_host(Overrides(mirror=settings.mirrors)),
        report=report,
        offline=settings.offline,
        jobs=settings.jobs,
    )
    plan = task.plan
    if task.step != "dist":
        step = {"tools": builder.tools, "packages": builder.packages, "image": builder.image}[task.step]
        return step(plan)
    dist = dist_of(task, settings.output)
    if not is_current(dist, plan.key):
        produce(plan, builder, dist, revision=settings.revision, jobs=settings.jobs)
    return dist


def dist_of(task: Task, output: Path) -> Path:
    """Where the dist of a task is made, as by `stereo build`."""
    return output / task.plan.mixtape.name / task.plan.version / task.plan.arch

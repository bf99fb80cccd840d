"""A release: what is to be released, and its jobs done in order, each piece of work once.

A job is done by pieces: a dist to build, a form to boot. What a piece was made from is named by digests; if a record
says that it went well with these inputs, it holds and is not done again. When a piece fails, the others of its job are
still tried, so that one run shows all that is wrong, and no later job begins.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from stereo.errors import StereoError
from stereo.pipeline.jobs import Job
from stereo.pipeline.record import Records
from stereo.pipeline.targets import Target
from stereo.plan.plan import Plan
from stereo.report import Report


@dataclass(frozen=True)
class Release:
    """What is released, and how. `work` is a folder of its own; `to` the root that is published to, a reference.

    `tags` are those that shall name it; without any, `latest` where that is what publishing does by itself.
    `plans` makes the plan of a target. `revision` names the source. `key` and `rebuilder_key` are the names or files of
    keys, or "-" for what a variable holds (jobs.SIGNING_KEY, jobs.REBUILDER_KEY). `boot_limit` is in seconds.
    """

    version: str
    targets: tuple[Target, ...]
    work: Path
    checkout: Path
    revision: str
    plans: Callable[[Target], Plan]
    to: str | None = None
    tags: tuple[str, ...] = ()
    key: str | None = None
    rebuilder_key: str | None = None
    policy: Path | None = None
    level: int = 19
    locks: Path | None = None
    workers: int = 0
    boot_limit: int = 600
    keep: int = 10
    lint: bool = True
    allow_dirty: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def dists(self) -> Path:
        return self.work / "dist"

    def dist(self, target: Target) -> Path:
        """Where the dist of a target is, or will be."""
        return self.dists / target.mixtape / self.version / target.arch

    @property
    def mixtapes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(target.mixtape for target in self.targets))


@dataclass(frozen=True)
class Piece:
    """A piece of a job's work. Without `inputs` it is done each time: then what it does looks for itself what is there.

    `still_there` is asked before a record is believed; `do` returns what is worth keeping.
    """

    name: str
    title: str
    do: Callable[[], Mapping[str, Any]]
    inputs: Mapping[str, str] | None = None
    still_there: Callable[[], bool] = lambda: True


Work = Callable[[Release], Sequence[Piece]]
"""The pieces of a job, asked for when all before it are done."""


class State(StrEnum):
    """How a piece ended."""

    DONE = "done"
    HOLDS = "holds"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Outcome:
    """The end of a piece. `seconds` is what it took, now or when it was done."""

    job: str
    piece: str
    state: State
    seconds: float
    said: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


def carry_out(
    release: Release, work: Sequence[tuple[Job, Work]], report: Report, *, skip: frozenset[str] = frozenset()
) -> list[Outcome]:
    """Do the jobs `work`, in that order, but those named in `skip`. Ends with the first job of which a piece fails."""
    records = Records(release.work / "jobs")
    outcomes: list[Outcome] = []
    for number, (job, pieces) in enumerate(work, 1):
        if job.name in skip:
            outcomes.append(Outcome(job.name, job.doing, State.SKIPPED, 0.0))
            continue
        report.note(f"[{number}/{len(work)}] {job.doing}")
        try:
            found = [_do(job, piece, records, report) for piece in pieces(release)]
        except StereoError as error:  # not even its pieces can be told
            found = [Outcome(job.name, job.doing, State.FAILED, 0.0, str(error))]
        outcomes += found
        if any(outcome.state is State.FAILED for outcome in found):
            break
    return outcomes


def _do(job: Job, piece: Piece, records: Records, report: Report) -> Outcome:
    if piece.inputs is not None:
        record = records.find(piece.name, piece.inputs)
        if record and piece.still_there():
            report.note(f"{piece.title}: holds")
            return Outcome(job.name, piece.title, State.HOLDS, record.seconds, result=record.result)
    began = time.monotonic()
    try:
        with report.step(piece.title):
            result = piece.do()
    except StereoError as error:
        report.warn(f"{piece.title}: {error.what.partition(chr(10))[0]}")
        return Outcome(job.name, piece.title, State.FAILED, time.monotonic() - began, str(error))
    seconds = time.monotonic() - began
    if piece.inputs is not None:
        records.keep(piece.name, piece.inputs, seconds, result)
    return Outcome(job.name, piece.title, State.DONE, seconds, result=result)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second release out of a work folder. Raises StereoError if one is there, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for its end, or use another folder with --work"
            raise StereoError("another release is running here", where=str(folder), hint=hint) from None
        yield
    finally:
        os.close(descriptor)

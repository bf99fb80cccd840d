"""What became of a release's jobs, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stereo.cli.measure import duration
from stereo.cli.output import Output
from stereo.errors import StereoError
from stereo.pipeline.release import Outcome, Release, State


def as_text(outcomes: Sequence[Outcome]) -> str:
    """A row for each piece of work."""
    rows = [
        (row.job, row.piece, row.state.value, duration(row.seconds) if row.state is not State.SKIPPED else "")
        for row in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for job, piece, state, took in rows:
        lines.append(f"{job:<{widths[0]}}  {piece:<{widths[1]}}  {state:<{widths[2]}}  {took:>{widths[3]}}".rstrip())
    return "\n".join(lines)


def as_data(release: Release, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """For --json."""
    rows = [{**asdict(row), "state": row.state.value, "result": dict(row.result)} for row in outcomes]
    return {
        "version": release.version,
        "targets": [str(target) for target in release.targets],
        "work": str(release.work),
        "ok": not _failures(outcomes),
        "jobs": rows,
    }


def conclude(out: Output, release: Release, outcomes: Sequence[Outcome]) -> None:
    """Show the table; raise StereoError if something failed."""
    out.result(as_data(release, outcomes), as_text(outcomes))
    if failures := _failures(outcomes):
        first = failures[0]
        others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise StereoError(f"{first.piece}: {first.said}{others}", hint="run it again: what is done holds")


def _failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [row for row in outcomes if row.state is State.FAILED]

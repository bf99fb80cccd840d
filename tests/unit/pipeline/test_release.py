"""Jobs in order: what holds is not done again, what fails stops what comes after, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stereo.errors import StereoError
from stereo.pipeline.jobs import BUILD, CHECK, PUBLISH, Job
from stereo.pipeline.release import Outcome, Piece, Release, State, Work, alone_in, carry_out
from stereo.report import Silent


@pytest.fixture
def release(tmp_path: Path) -> Release:
    def no_plans(target: object) -> Any:
        raise AssertionError

    return Release("2026.01.31.0", (), tmp_path / "work", tmp_path, "r", no_plans)


class Pieces:
    """Work that counts how often it is done; `broken` fails."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.broken: set[str] = set()
        self.inputs = {"of": "1"}
        self.there = True

    def work(self, *names: str, kept: bool = True) -> Work:
        def do(name: str) -> Callable[[], Mapping[str, Any]]:
            def run() -> Mapping[str, Any]:
                self.done.append(name)
                if name in self.broken:
                    raise StereoError(f"{name} is broken")
                return {"name": name}

            return run

        inputs = self.inputs if kept else None
        return lambda release: [Piece(name, name, do(name), inputs, lambda: self.there) for name in names]


def told(outcomes: list[Outcome]) -> list[tuple[str, str, str]]:
    return [(row.job, row.piece, row.state.value) for row in outcomes]


def run(release: Release, *work: tuple[Job, Work], skip: tuple[str, ...] = ()) -> list[Outcome]:
    return carry_out(release, work, Silent(), skip=frozenset(skip))


def test_jobs_are_done_in_order_and_again_only_when_their_inputs_change(release: Release) -> None:
    pieces = Pieces()
    assert told(run(release, (CHECK, pieces.work("a")), (BUILD, pieces.work("b", "c")))) == [
        ("check", "a", "done"),
        ("build", "b", "done"),
        ("build", "c", "done"),
    ]
    again = run(release, (CHECK, pieces.work("a")), (BUILD, pieces.work("b", "c")))
    assert {row.state for row in again} == {State.HOLDS}
    assert again[0].result == {"name": "a"}
    pieces.inputs = {"of": "2"}
    assert {row.state for row in run(release, (CHECK, pieces.work("a")))} == {State.DONE}
    assert pieces.done == ["a", "b", "c", "a"]


def test_a_failure_lets_the_others_of_its_job_be_tried_and_no_later_job_begin(release: Release) -> None:
    pieces = Pieces()
    pieces.broken = {"b"}
    work = ((BUILD, pieces.work("b", "c")), (PUBLISH, pieces.work("p")))
    outcomes = run(release, *work)
    assert told(outcomes) == [("build", "b", "failed"), ("build", "c", "done")]
    assert outcomes[0].said == "b is broken"
    pieces.broken = set()
    assert told(run(release, *work)) == [("build", "b", "done"), ("build", "c", "holds"), ("publish", "p", "done")]


def test_what_is_not_kept_is_done_each_time(release: Release) -> None:
    pieces = Pieces()
    for _ in range(2):
        assert told(run(release, (PUBLISH, pieces.work("p", kept=False)))) == [("publish", "p", "done")]


def test_a_record_is_not_believed_when_its_result_is_gone(release: Release) -> None:
    pieces = Pieces()
    run(release, (BUILD, pieces.work("b")))
    pieces.there = False
    assert told(run(release, (BUILD, pieces.work("b")))) == [("build", "b", "done")]


def test_a_job_that_is_left_out_is_named_and_not_done(release: Release) -> None:
    pieces = Pieces()
    outcomes = run(release, (CHECK, pieces.work("a")), (BUILD, pieces.work("b")), skip=("check",))
    assert told(outcomes) == [("check", CHECK.doing, "skipped"), ("build", "b", "done")]


def test_a_job_whose_pieces_cannot_be_told_has_failed(release: Release) -> None:
    def work(release: Release) -> list[Piece]:
        raise StereoError("there is no dist")

    assert [row.said for row in run(release, (BUILD, work), (PUBLISH, Pieces().work("p")))] == ["there is no dist"]


def test_two_releases_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(StereoError, match="another release is running"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass
